"""Directories of the store that are made and removed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pytest_containers.linux.files import empty


class TempDir:
    """A directory below ``tmp``, locked by its maker; removed at close unless committed.

    Attributes:
        path: The directory.
        fd: A descriptor of it. It carries the lock: handing it to another process keeps the
            directory from being swept while that process lives.
    """

    def __init__(self, parent: Path) -> None:
        self.removed_by: Callable[[Path], None] | None = None
        while True:
            self.path: Path = parent / os.urandom(8).hex()
            self.path.mkdir(mode=0o700)
            fd = try_lock(os.fspath(self.path))
            if fd is not None:  # else a sweeper got between the two lines above
                self.fd: int = fd
                return

    def commit(self, target: Path) -> None:
        """Move the directory to `target`; if that exists already, drop this one."""
        try:
            self.path.rename(target)
        except OSError:
            if not target.is_dir():
                raise

    def close(self) -> None:
        """Remove the directory, unless committed, and release the lock."""
        if self.fd < 0:
            return
        try:
            if _is_at(self.fd, os.fspath(self.path)):
                remove_tree(self.path, self.removed_by)
        finally:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> TempDir:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def try_lock(path: str) -> int | None:
    """Open and lock the directory `path` exclusively; None if it is held or gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(fd, path):
            return fd
    except BlockingIOError:
        pass
    os.close(fd)
    return None


def _is_at(fd: int, path: str) -> bool:
    """Check whether `path` still is the directory that `fd` refers to."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.stat(path))
    return False


def remove_tree(path: Path, remove_inside: Callable[[Path], None] | None = None) -> None:
    """Delete a directory of the store; with `remove_inside` also what subordinate ids own in it."""
    for again in (True, False):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            empty(fd)
            path.rmdir()
        except PermissionError:
            if remove_inside is None:
                return
            if not again:
                raise
            remove_inside(path)
        else:
            return
        finally:
            os.close(fd)
