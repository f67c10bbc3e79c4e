"""A limit for writable layers on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_containers.runtime.loop import Loop

if TYPE_CHECKING:
    from pytest_containers.runtime.supervisor.container import Container

_PAUSE_S = 0.25
_ENTRIES_AT_ONCE = 500
_BLOCK_BYTES = 512


class DiskWatch:
    """Adds up a container's writable layer, a part at a time, as long as it runs."""

    def __init__(self, loop: Loop, container: Container, limit_bytes: int) -> None:
        self._loop = loop
        self._container = container
        self._limit = limit_bytes
        loop.call_later(_PAUSE_S, self._begin)

    def _begin(self) -> None:
        if self._container.state in ("exited", "removed"):
            return
        self._total = 0
        self._entries = _sizes(self._container.rootfs.scratch_fd)
        self._go_on()

    def _go_on(self) -> None:
        if self._container.state in ("exited", "removed"):
            return
        for _ in range(_ENTRIES_AT_ONCE):
            size = next(self._entries, None)
            self._total += size or 0
            if self._total > self._limit:
                self._container.overflow(self._limit)
                return
            if size is None:
                self._loop.call_later(_PAUSE_S, self._begin)
                return
        self._loop.call_later(0, self._go_on)


def _sizes(scratch_fd: int) -> Iterator[int]:
    """The size on disk of every file of the upper layer; what vanishes meanwhile is passed over."""
    try:
        upper = os.open("upper", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=scratch_fd)
    except OSError:
        return
    try:
        for _, _, files, folder in os.fwalk(".", dir_fd=upper):
            for name in files:
                try:
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield status.st_blocks * _BLOCK_BYTES
    finally:
        os.close(upper)
