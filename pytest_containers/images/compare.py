"""Whether two directories hold the same: a job, since their files belong to ids of the run."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any

_CHUNK_BYTES = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def compare_trees(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Compare the directories `fds`, which need not be open for reading.

    Returns:
        ``difference``: the first that was found, in words, or empty.
    """
    left, right = (os.open(".", _FOLDER, dir_fd=fd) for fd in fds)
    return {"difference": next(_differences(left, right, ""), "")}


def _differences(left: int, right: int, path: str) -> Iterator[str]:
    """Takes both descriptors over."""
    try:
        names = sorted({*os.listdir(left), *os.listdir(right)})
        for name in names:
            below = f"{path}/{name}"
            try:
                mine = os.stat(name, dir_fd=left, follow_symlinks=False)
            except FileNotFoundError:
                yield f"{below} is missing"
                return
            try:
                theirs = os.stat(name, dir_fd=right, follow_symlinks=False)
            except FileNotFoundError:
                yield f"{below} does not belong there"
                return
            if _facts(mine) != _facts(theirs):
                yield f"{below} has another kind, mode, owner, size or time"
            elif stat.S_ISDIR(mine.st_mode):
                mine_fd = os.open(name, _FOLDER, dir_fd=left)
                theirs_fd = os.open(name, _FOLDER, dir_fd=right)
                yield from _differences(mine_fd, theirs_fd, below)
            elif stat.S_ISLNK(mine.st_mode):
                if os.readlink(name, dir_fd=left) != os.readlink(name, dir_fd=right):
                    yield f"{below} leads elsewhere"
            elif stat.S_ISREG(mine.st_mode) and not _same_contents(left, right, name):
                yield f"{below} has other contents"
    finally:
        os.close(left)
        os.close(right)


def _facts(status: os.stat_result) -> tuple[int, ...]:
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return status.st_mode, status.st_uid, status.st_gid, size, status.st_mtime_ns, status.st_rdev


def _same_contents(left: int, right: int, name: str) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with (
        open(os.open(name, flags, dir_fd=left), "rb", buffering=0) as mine,
        open(os.open(name, flags, dir_fd=right), "rb", buffering=0) as theirs,
    ):
        while True:
            data = mine.read(_CHUNK_BYTES)
            if data != theirs.read(_CHUNK_BYTES):
                return False
            if not data:
                return True
