"""The journal of a test process: what happened to each container and state, and when.

It is the source of the lines that ``-v`` shows and of reports. A worker of xdist sends its journal
to the controller when it ends (`Journal.rows`, `Journal.add_rows`).
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pytest_containers.model.engine import Container

from pytest_containers.model.spec import ContainerSpec


@dataclass(slots=True)
class ContainerLife:
    """The life of one container. Times are seconds since the epoch; None is "not (yet)".

    Attributes:
        name: Its host name, which is that of its fixture if it has one.
        image: The name of its image.
        scope: The scope that it belongs to; ``"run"`` if all processes share it.
        test: The node id of the test that asked for it; empty for a session service.
        worker: The worker of xdist, ``gw0``; empty for none.
        asked_at: The fixture or the test asked for it.
        image_at: Its image was there. Measured with `Journal.detailed` only.
        started_at: Its program ran, and the test had it.
        ready_at: It was ready.
        removed_at: Its removal began.
        gone_at: Nothing of it was left. Measured with `Journal.detailed` only.
        exit_code: Its exit code, if it had ended before its removal. As `gone_at`.
        error: The first line of the error of its start; empty for none.
        ahead: True if it was started while the test before ran.
        kept: True if it stays after the run.
    """

    name: str
    image: str
    scope: str
    test: str = ""
    worker: str = ""
    asked_at: float = 0.0
    image_at: float | None = None
    started_at: float | None = None
    ready_at: float | None = None
    removed_at: float | None = None
    gone_at: float | None = None
    exit_code: int | None = None
    error: str = ""
    ahead: bool = False
    kept: bool = False

    def fail(self, error: BaseException) -> None:
        """Note that its start failed."""
        lines = str(error).splitlines() or [""]
        self.error = f"{type(error).__name__}: {lines[0]}"


@dataclass(slots=True)
class StateUse:
    """The first use of a seeded state by a process.

    Attributes:
        label, title, reused, reason, seconds, made_at: See `state.warm.Outcome`.
        test, worker: As in `ContainerLife`.
        used_at: The state was there.
    """

    label: str
    title: str
    reused: bool
    reason: str
    seconds: float
    made_at: float
    test: str = ""
    worker: str = ""
    used_at: float = 0.0


class JournalObserver(Protocol):
    """What is told of containers while they are there."""

    def started(self, life: ContainerLife, container: Container) -> None:
        """Hear of a container that runs."""

    def ending(self, life: ContainerLife, container: Container) -> None:
        """Hear of a container that is about to be removed."""


class Journal:
    """The lives of the containers and the uses of states of a test run, in order.

    Args:
        worker: The worker of xdist that this process is; empty for none.
        detailed: Measure also what costs a container a moment: its image, and its end.

    Attributes:
        observer: Is told of containers, if `detailed`; None for nothing.
        warnings: Sentences for the summary of the test run.
    """

    def __init__(self, worker: str = "", *, detailed: bool = False) -> None:
        self.worker = worker
        self.detailed = detailed
        self.observer: JournalObserver | None = None
        self.lives: list[ContainerLife] = []
        self.uses: list[StateUse] = []
        self.warnings: list[str] = []

    def begin(self, name: str, image: str, scope: str) -> ContainerLife:
        """Begin the life of a container that the current test asks for."""
        life = ContainerLife(
            name, image, scope, test=current_test(), worker=self.worker, asked_at=time.time()
        )
        self.lives.append(life)
        return life

    def started(self, life: ContainerLife, container: Container) -> None:
        """Note that the program of a container runs."""
        life.started_at = time.time()
        if self.observer is not None:
            self.observer.started(life, container)

    def note_use(self, **outcome: Any) -> None:
        """Note that a state was reused or made; the arguments are the fields of an `Outcome`."""
        use = StateUse(**outcome, test=current_test(), worker=self.worker, used_at=time.time())
        self.uses.append(use)

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """Return the journal as simple values, for another process."""
        return {
            "lives": [dataclasses.asdict(life) for life in self.lives],
            "uses": [dataclasses.asdict(use) for use in self.uses],
            "warnings": [{"message": message} for message in self.warnings],
        }

    def add_rows(self, rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Add the journal of a worker, as `rows` returned it there."""
        self.lives += [ContainerLife(**row) for row in rows.get("lives", ())]
        self.uses += [StateUse(**row) for row in rows.get("uses", ())]
        self.warnings += [row["message"] for row in rows.get("warnings", ())]


def current_test() -> str:
    """Return the node id of the test that runs in this process; empty outside of tests."""
    # pytest sets it to "NODEID (setup)", "(call)" or "(teardown)".
    return os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]


def describe_start(life: ContainerLife, spec: ContainerSpec) -> str:
    """Return what the start of a container waits for."""
    whose = f" for {life.test}" if life.test else ""
    container = f"container {life.name!r} ({life.image}){whose}"
    if life.started_at is None:
        return f"{container} is not started: its image is fetched, or the run begins"
    if spec.ready is not None:
        awaited = repr(spec.ready)
    elif spec.ports:
        awaited = f"a listening socket at {', '.join(map(str, spec.parsed_ports))}"
    else:
        awaited = "its health check"
    return f"{container} is not ready: it waits for {awaited}, at most {spec.ready_timeout_s:g} s"


def life_lines(lives: Sequence[ContainerLife]) -> list[str]:
    """Return a line for each container: its image, and the times from its start to its end."""
    return [_line_of(life) for life in lives]


def _line_of(life: ContainerLife) -> str:
    place = f"{life.test or 'session service'}{f' [{life.worker}]' if life.worker else ''}"
    steps = list(_steps(life))
    return f"{place}: {life.name} ({life.image}): {', '.join(steps) or 'not started'}"


def _steps(life: ContainerLife) -> Iterable[str]:
    begin = life.asked_at
    if life.image_at is not None:
        yield f"image {_duration(life.image_at - begin)}"
        begin = life.image_at
    if life.started_at is not None:
        took = _duration(life.started_at - begin)
        yield f"started ahead, awaited {took}" if life.ahead else f"start {took}"
        begin = life.started_at
    if life.ready_at is not None:
        yield f"ready {_duration(life.ready_at - begin)}"
    if life.error:
        yield f"failed after {_duration((life.removed_at or time.time()) - life.asked_at)}"
    if life.exit_code is not None:
        yield f"exit code {life.exit_code}"
    if life.kept:
        yield "kept"
    elif life.removed_at is not None and life.gone_at is not None:
        yield f"teardown {_duration(life.gone_at - life.removed_at)}"


def _duration(seconds: float) -> str:
    seconds = max(seconds, 0.0)
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
