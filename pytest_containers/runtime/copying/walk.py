"""Trees of any depth, with a constant number of open descriptors and without recursion.

A program can nest directories deeper than a path is long (PATH_MAX), than an interpreter recurses
and than a process may have files open. So a walk holds one directory, and climbs by its ``..``.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Self

from pytest_containers.linux.files import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to open a directory, and nothing that a link leads to."""
_BELOW = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
_MAX_AT_ONCE_BYTES = 4000  # PATH_MAX is 4096


class Descent:
    """A directory in a tree, and the way back to the top. Owns its descriptor.

    Args:
        fd: The top, as any descriptor of it; it stays the caller's.

    Attributes:
        fd: The directory that the descent is in.
    """

    def __init__(self, fd: int) -> None:
        self.fd: int = os.open(".", FOLDER, dir_fd=fd)
        self._above: list[tuple[int, int]] = []

    def enter(self, leaf: str) -> None:
        """Go down into a directory.

        Raises:
            OSError: It is not there, or no directory.
        """
        below = os.open(leaf, FOLDER, dir_fd=self.fd)
        self._above.append(_identity(self.fd))
        self._move_to(below)

    def leave(self) -> None:
        """Go up again.

        Raises:
            OSError: The directory was moved meanwhile (ESTALE): up is elsewhere now.
        """
        above = os.open("..", FOLDER, dir_fd=self.fd)
        if _identity(above) != self._above.pop():
            os.close(above)
            raise OSError(errno.ESTALE, "a directory was moved while it was read")
        self._move_to(above)

    def _move_to(self, fd: int) -> None:
        os.close(self.fd)
        self.fd = fd

    def close(self) -> None:
        """Close the directory."""
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


class Entry:
    """A file or directory that a walk has reached.

    Attributes:
        path: Below the top, without a leading slash.
        leaf: Its name in its directory.
        parent: A descriptor of its directory, until the walk goes on.
        status: Of itself, also if it is a link.
        is_done: True when the walk comes by a directory again, after all that is in it.
        skip: Set it to keep the walk from going down into a directory.
    """

    __slots__ = ("is_done", "leaf", "parent", "path", "skip", "status")

    def __init__(self, path: str, leaf: str, parent: int, status: os.stat_result) -> None:
        self.path: str = path
        self.leaf: str = leaf
        self.parent: int = parent
        self.status: os.stat_result = status
        self.is_done: bool = False
        self.skip: bool = False

    @property
    def is_folder(self) -> bool:
        """True for a directory, false for a link to one."""
        return stat.S_ISDIR(self.status.st_mode)


def walk(fd: int) -> Iterator[Entry]:
    """Yield all that is below the directory `fd`, in the order of names, depth first.

    Each directory comes twice: before what is in it, and after (`Entry.is_done`). A file that is
    removed while the walk goes on may be left out.

    Raises:
        OSError: A directory cannot be read, or was moved meanwhile.
    """
    with Descent(fd) as descent:
        open_entries: list[Entry] = []
        names = [iter(sorted(os.listdir(descent.fd)))]
        while names:
            leaf = next(names[-1], None)
            if leaf is None:
                names.pop()
                if open_entries:
                    descent.leave()
                    entry = open_entries.pop()
                    entry.parent, entry.is_done = descent.fd, True
                    yield entry
                continue
            try:
                status = os.stat(leaf, dir_fd=descent.fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            above = f"{open_entries[-1].path}/" if open_entries else ""
            entry = Entry(above + leaf, leaf, descent.fd, status)
            yield entry
            if entry.is_folder and not entry.skip:
                descent.enter(leaf)
                open_entries.append(entry)
                names.append(iter(sorted(os.listdir(descent.fd))))


def open_folder(top: int, path: str) -> int:
    """Open a directory at a path without links, however long it is.

    Args:
        top: A descriptor of the directory that the path begins at.

    Returns:
        A descriptor of the caller's.
    """
    fd = os.open(".", FOLDER, dir_fd=top)
    parts = path.split("/") if path else []
    while parts:
        taken = _parts_at_once(parts)
        try:
            below = openat2(fd, "/".join(parts[:taken]), FOLDER, resolve=_BELOW)
        finally:
            os.close(fd)
        fd, parts = below, parts[taken:]
    return fd


def _parts_at_once(parts: Sequence[str]) -> int:
    """Return how many names fit into one system call; a name has at most 255 bytes."""
    size = 0
    for number, part in enumerate(parts):
        size += len(os.fsencode(part)) + 1
        if size > _MAX_AT_ONCE_BYTES and number:
            return number
    return len(parts)
