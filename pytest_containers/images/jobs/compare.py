"""Whether two directories hold the same: a job, since their files belong to ids of the run."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any

from pytest_containers.runtime.copying.walk import Descent, Entry, walk

_CHUNK_BYTES = 1 << 20


def compare_trees(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Compare the directories `fds`, which need not be open for reading.

    Returns:
        ``difference``: the first that was found, in words, or empty.
    """
    left, right = fds
    return {"difference": next(_differences(left, right), "")}


def _differences(left: int, right: int) -> Iterator[str]:
    with Descent(right) as other:
        names: list[set[str]] = [set(os.listdir(other.fd))]  # of the right, not yet seen
        for entry in walk(left):
            if entry.is_done:
                yield from _surplus(names.pop(), entry.path)
                other.leave()
                continue
            names[-1].discard(entry.leaf)
            try:
                status = os.stat(entry.leaf, dir_fd=other.fd, follow_symlinks=False)
            except FileNotFoundError:
                yield f"/{entry.path} does not belong there"
                return
            difference = _difference(entry, status, other.fd)
            if difference:
                yield f"/{entry.path} {difference}"
                return
            if entry.is_folder:
                other.enter(entry.leaf)
                names.append(set(os.listdir(other.fd)))
        yield from _surplus(names.pop(), "")


def _surplus(names: set[str], folder: str) -> Iterator[str]:
    for name in sorted(names):
        yield f"/{folder}/{name} is missing".replace("//", "/")


def _difference(entry: Entry, status: os.stat_result, other: int) -> str:
    mode = status.st_mode
    if _facts(entry.status) != _facts(status):
        return "has another kind, mode, owner, size or time"
    if stat.S_ISLNK(mode):
        mine = os.readlink(entry.leaf, dir_fd=entry.parent)
        return "" if mine == os.readlink(entry.leaf, dir_fd=other) else "leads elsewhere"
    if stat.S_ISREG(mode) and not _same_contents(entry.parent, other, entry.leaf):
        return "has other contents"
    return ""


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
