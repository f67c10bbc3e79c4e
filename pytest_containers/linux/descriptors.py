"""Descriptors with an owner."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType


class OwnedDescriptors:
    """Open descriptors that are closed at the end of a ``with``, unless they were handed over.

    Attributes:
        fds: By place; -1 where there is none.
    """

    __slots__ = ("fds",)

    def __init__(self, fds: Iterable[int] = ()) -> None:
        self.fds: list[int] = list(fds)

    def hand_over(self) -> list[int]:
        """Return the descriptors; they are the caller's now."""
        fds, self.fds = self.fds, []
        return fds

    def take(self, place: int) -> int:
        """Return the descriptor at `place`; it is the caller's now."""
        fd, self.fds[place] = self.fds[place], -1
        return fd

    def close(self) -> None:
        """Close those that are left; idempotent."""
        for fd in self.hand_over():
            if fd >= 0:
                os.close(fd)

    def __enter__(self) -> OwnedDescriptors:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def raise_descriptor_limit() -> int:
    """Let this process have as many descriptors as it may; returns how many these are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # a filter may forbid it: then fewer have to do
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return soft
