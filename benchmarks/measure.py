"""Interleaved rounds, medians and ratios."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Sample = Callable[[], float]
"""Does the work once and returns what it cost (milliseconds unless the case says otherwise)."""


@dataclass(frozen=True, slots=True)
class Result:
    """All values of one case, in the order they were measured."""

    case: str
    who: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the values is below the first, a quarter above the second."""
        if len(self.values) < 2:
            return self.values[0], self.values[0]
        low, _, high = statistics.quantiles(self.values, n=4)
        return low, high


@dataclass
class Case:
    """One kind of work and those who do it; the first of them is ours.

    Attributes:
        limits: For a peer, the largest ratio ours / peer that the project aims at.
    """

    name: str
    samples: Mapping[str, Sample]
    unit: str = "ms"
    rounds: int | None = None
    limits: Mapping[str, float] = field(default_factory=dict)


def interleave(case: Case, rounds: int, warm_up: int = 3) -> list[Result]:
    """Measure everybody once per round, so that a slow minute of the machine hits all alike.

    In a random order: else one of them would always have to bear what the same other one's
    daemons still do when its client has gone.
    """
    for _ in range(warm_up):
        for sample in case.samples.values():
            sample()
    values: dict[str, list[float]] = {who: [] for who in case.samples}
    order = list(case.samples)
    for _ in range(case.rounds or rounds):
        random.shuffle(order)
        for who in order:
            values[who].append(case.samples[who]())
    return [Result(case.name, who, case.unit, tuple(found)) for who, found in values.items()]


def timed(work: Callable[[], object]) -> Sample:
    """A sample that takes the wall-clock milliseconds of `work`."""

    def sample() -> float:
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1000

    return sample


def nonce() -> str:
    """Text that nobody can print who was not told it."""
    return os.urandom(8).hex()


def spawn(arguments: list[str]) -> bytes:
    """Run a program to its end and return its standard output.

    With posix_spawn, as it is the fastest way that Python has: the peers pay no more than needed.

    Raises:
        RuntimeError: The program failed.
    """
    reader, writer = os.pipe()
    with open(reader, "rb") as stream:
        try:
            pid = os.posix_spawnp(
                arguments[0],
                arguments,
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)],
            )
        finally:
            os.close(writer)
        output = stream.read()
        _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"{arguments[0]} ended with status {status}: {arguments}")
    return output


def expect(text: str, output: bytes) -> None:
    """Check that `output` is the line `text`: work that was not done must not look fast.

    Raises:
        RuntimeError: It is not.
    """
    if output.strip() != text.encode():
        raise RuntimeError(f"expected {text!r}, got {output!r}")
