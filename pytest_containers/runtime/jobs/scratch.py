"""Writable layers on disk: emptied by a job, since their files belong to ids of the run."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_containers.linux.files import empty
from pytest_containers.runtime.jobs import Nothing


def clear(args: Nothing, fds: Sequence[int]) -> Nothing:
    """Delete everything in the directory `fds[0]`."""
    (fd,) = fds
    empty(fd)
    return Nothing()
