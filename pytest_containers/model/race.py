"""Waits of which the first that is ready decides: `wait.any_of`."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Sequence
from typing import Any

from pytest_containers.model.errors import (
    ContainersError,
    ExitedError,
    SpecError,
    WaitTimeoutError,
    hide_frames,
)
from pytest_containers.model.readiness import Deadline, Wait
from pytest_containers.model.threads import starting_threads

__tracebackhide__ = hide_frames


class _RaceDeadline(Deadline):
    """A deadline that passes when the race is over."""

    def __init__(self, deadline: Deadline) -> None:
        super().__init__(deadline.left_s)
        self.timeout_s = deadline.timeout_s
        self.over = threading.Event()

    @property
    def passed(self) -> bool:
        return self.over.is_set() or super().passed


class AnyOf:
    """A wait for the first of several.

    Each has a thread. The losers that poll end soon; those that wait for the run, for a port or
    for output, end with the container or with the time limit.
    """

    def __init__(self, waits: Sequence[Wait]) -> None:
        self.waits = waits

    def until(self, container: Any, deadline: Deadline) -> None:
        """Wait for the first; see `Wait`.

        Raises:
            SpecError: One of the waits cannot be used with the container.
        """
        race = _RaceDeadline(deadline)
        results: queue.SimpleQueue[tuple[int, Exception | None]] = queue.SimpleQueue()

        def run(number: int) -> None:
            try:
                self.waits[number].until(container, race)
            except Exception as error:  # noqa: BLE001 - it is raised in the thread that waits
                results.put((number, error))
            else:
                results.put((number, None))

        for number in range(len(self.waits)):
            context = contextvars.copy_context()
            name = f"pytest-containers {self.waits[number]!r}"
            with starting_threads():
                threading.Thread(
                    target=context.run, args=(run, number), name=name, daemon=True
                ).start()
        failures: dict[int, Exception] = {}
        try:
            while len(failures) < len(self.waits):
                number, failure = results.get()
                if failure is None:
                    return
                if isinstance(failure, SpecError) or not isinstance(failure, ContainersError):
                    raise failure
                failures[number] = failure
        finally:
            race.over.set()
        raise self._failure(failures, deadline)

    def _failure(self, failures: dict[int, Exception], deadline: Deadline) -> ContainersError:
        ended = [error for error in failures.values() if isinstance(error, ExitedError)]
        if ended:
            return max(ended, key=lambda error: len(error.log_tail or ()))
        reasons = [_reason(self.waits[number], error) for number, error in sorted(failures.items())]
        return WaitTimeoutError(
            f"none of {len(reasons)} was ready: {'; '.join(reasons)}", timeout_s=deadline.timeout_s
        )

    def __repr__(self) -> str:
        return f"any_of({', '.join(map(repr, self.waits))})"


def _reason(wait: Wait, error: Exception) -> str:
    message = str(error)
    return message if message.startswith(repr(wait)) else f"{wait!r}: {message}"
