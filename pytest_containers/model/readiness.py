"""The interface of readiness waits, and their deadline."""

from __future__ import annotations

import time
from typing import Any, Protocol


class Deadline:
    """A point in time that several waits share.

    Args:
        timeout_s: The seconds until then.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        """The seconds until the deadline, at least a millisecond."""
        return max(self._end - time.monotonic(), 0.001)

    @property
    def passed(self) -> bool:
        """True after the deadline."""
        return time.monotonic() >= self._end


class Wait(Protocol):
    """A condition that makes a container ready."""

    # Not typed as `Container`, whose spec has a `Wait`: the two would import each other.
    def until(self, container: Any, deadline: Deadline) -> None:
        """Wait until `container` is ready.

        Raises:
            WaitTimeoutError: The deadline passed first.
            ExitedError: The container ended first.
        """
