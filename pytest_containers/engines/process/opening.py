"""Files of a container, opened on this machine while its programs rename and replace them.

A path was resolved before (`FileView.resolved`). If a program has put a link into it since, or a
pipe in place of the file, it is an error: a link could lead to any file of the caller, and a pipe
could be waited for without end.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_WAY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ALWAYS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def folder_of(base: str, place: str) -> Iterator[tuple[int, str]]:
    """Open the directory of a file without following a link, and yield it with the file's name.

    Args:
        base: The directory that no program can replace; `place` is below it.

    Raises:
        OSError: A part of the way is no directory; named after the place.
    """
    *way, leaf = [part for part in place.removeprefix(base).split("/") if part] or ["."]
    fd = os.open(base or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in way:
            below = os.open(part, _WAY, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd, leaf
    except OSError as error:
        raise OSError(error.errno, error.strerror, place) from None
    finally:
        os.close(fd)


def open_file(folder: int, leaf: str, flags: int, mode: int = 0o600) -> int:
    """Open a regular file; return a descriptor of the caller's.

    Raises:
        OSError: There is none, or it is something else (EINVAL).
    """
    try:
        fd = os.open(leaf, flags | _ALWAYS, mode, dir_fd=folder)
    except OSError as error:
        # A link, or a pipe without a reader.
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _no_file() from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _no_file()
    return fd


def _no_file() -> OSError:
    return OSError(errno.EINVAL, "it is not a regular file")


def read_all(fd: int, limit_bytes: int) -> bytes:
    """Read a file that has no business to be large, and close it.

    Raises:
        OSError: It is larger (EFBIG).
    """
    with open(fd, "rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, f"it has more than {limit_bytes} bytes")
    return data


def read_file(base: str, place: str, limit_bytes: int) -> bytes:
    """Return the contents of a file; see `folder_of`, `open_file` and `read_all`."""
    with folder_of(base, place) as (folder, leaf):
        return read_all(open_file(folder, leaf, os.O_RDONLY), limit_bytes)


def replace_file(base: str, place: str, data: bytes) -> None:
    """Write a new file in place of whatever has its name.

    Raises:
        OSError: It cannot be written.
    """
    with folder_of(base, place) as (folder, leaf):
        with suppress(FileNotFoundError):
            os.unlink(leaf, dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(open_file(folder, leaf, flags, 0o644), "wb") as file:
            file.write(data)
