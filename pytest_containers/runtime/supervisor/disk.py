"""A limit for writable layers on disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from pytest_containers.runtime.copying.walk import FOLDER, walk
from pytest_containers.runtime.supervisor.container import RunContainer
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.tasks import sleep

_PAUSE_S = 0.25
_ENTRIES_AT_ONCE = 500
_BLOCK_BYTES = 512
_OPEN_LEVELS = 50


async def watch_disk(loop: Loop, container: RunContainer, limit_bytes: int) -> None:
    """Kill a container when its writable layer on disk outgrows `limit_bytes`; ends with it.

    Disks have no limit per directory that a user may set, so this looks now and then: what is
    written between two looks is not stopped.
    """
    while True:
        await sleep(loop, _PAUSE_S)
        if container.state in ("exited", "removed"):
            return
        total = 0
        for count, size in enumerate(_sizes(container.rootfs.scratch_fd), 1):
            total += size
            if total > limit_bytes:
                container.overflow(limit_bytes)
                return
            if count % _ENTRIES_AT_ONCE == 0:
                await sleep(loop, 0)
                if container.state in ("exited", "removed"):
                    return


def _sizes(scratch_fd: int) -> Iterator[int]:
    """Yield the size on disk of all that is in the upper layer, one by one."""
    with suppress(OSError):
        yield from _sizes_in(os.open("upper", FOLDER, dir_fd=scratch_fd), _OPEN_LEVELS)


def _sizes_in(folder: int, levels: int) -> Iterator[int]:
    """Yield the sizes of all below a directory, which it closes.

    What vanishes meanwhile is passed over; below `levels` that is all the rest of a tree in which a
    directory is moved, since a walk of any depth has no way back then.
    """
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    yield status.st_blocks * _BLOCK_BYTES
                    if not stat.S_ISDIR(status.st_mode):
                        continue
                    if levels:
                        inner = os.open(entry.name, FOLDER, dir_fd=folder)
                        yield from _sizes_in(inner, levels - 1)
                    else:
                        yield from _sizes_below(entry.name, folder)
    finally:
        os.close(folder)


def _sizes_below(name: str, folder: int) -> Iterator[int]:
    top = os.open(name, FOLDER, dir_fd=folder)
    try:
        for entry in walk(top):
            if not entry.is_done:
                yield entry.status.st_blocks * _BLOCK_BYTES
    finally:
        os.close(top)
