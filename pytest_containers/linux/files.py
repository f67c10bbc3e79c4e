"""Files: resolution below a root, splice, descriptors."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable

from pytest_containers.linux.libc import syscall
from pytest_containers.linux.numbers import NR

RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS = 2, 4
RESOLVE_BENEATH, RESOLVE_IN_ROOT = 8, 16
_MOST_LINKS = 40  # the kernel's own limit (path_resolution(7))
_MOST_TRIES = 1000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def openat2(dirfd: int, path: str, flags: int, *, mode: int = 0, resolve: int) -> int:
    """openat2(2), close-on-exec always; retried while a rename elsewhere disturbs it (EAGAIN).

    Not for ever: with O_NONBLOCK, the same error is that of a file with a lease, which whoever has
    it keeps for 45 seconds and more (fcntl(2), F_SETLEASE).

    Raises:
        OSError: Named after `path`.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    tries = _MOST_TRIES
    while True:
        tries -= 1
        try:
            return syscall(
                NR["openat2"], dirfd, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)
            )
        except OSError as error:
            if error.errno != errno.EAGAIN or not tries:
                raise OSError(error.errno, error.strerror, path) from None


def open_in_root(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` as if `root_fd` were ``/``: neither ``..`` nor a symlink leads out of it.

    Magic links are refused, so a planted ``/proc/self/fd/N`` is an error.
    """
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    return openat2(root_fd, path, flags, mode=mode, resolve=resolve)


def follow_links(path: str, link_at: Callable[[str], str | None]) -> str:
    """Resolve symbolic links as the kernel does, also where nothing exists behind them.

    Args:
        path: An absolute path; neither ``..`` nor a link leads out of the root.
        link_at: Returns the target of the link at a path without links; None if it is no link.

    Raises:
        OSError: ELOOP, the links lead around in a circle.
    """
    resolved, rest, links = "", path.split("/"), 0
    while rest:
        part = rest.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            resolved = os.path.dirname(resolved).rstrip("/")
            continue
        step = f"{resolved}/{part}"
        target = link_at(step)
        if target is None:
            resolved = step
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        rest = target.split("/") + rest
        resolved = "" if target.startswith("/") else resolved
    return resolved or "/"


def remove(leaf: str, dir_fd: int) -> bool:
    """Remove what is called `leaf` in a directory, if there is anything.

    Returns:
        Whether it was a directory; that goes with all that is in it.
    """
    try:
        os.unlink(leaf, dir_fd=dir_fd)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
        fd = os.open(leaf, _FOLDER, dir_fd=dir_fd)
        try:
            empty(fd)
        finally:
            os.close(fd)
        os.rmdir(leaf, dir_fd=dir_fd)
        return True
    return False


def empty(fd: int) -> None:
    """Delete all that is in the directory `fd`, however deep it goes.

    Directories are moved up before they are emptied: neither recursion nor the length of a path
    nor the number of open files sets a limit, so no archive can make a tree that cannot be deleted.
    """
    moved = 0
    while True:
        with os.scandir(fd) as entries:
            children = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        if not children:
            return
        for name, is_folder in children:
            if not is_folder:
                os.unlink(name, dir_fd=fd)
                continue
            folder = os.open(name, _FOLDER, dir_fd=fd)
            try:
                with os.scandir(folder) as entries:
                    inner = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
                for leaf, is_inner_folder in inner:
                    if is_inner_folder:
                        _move_up(leaf, folder, fd, moved)
                        moved += 1
                    else:
                        os.unlink(leaf, dir_fd=folder)
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=fd)


def _move_up(leaf: str, folder: int, above: int, number: int) -> None:
    try:
        os.rmdir(leaf, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        os.rename(leaf, f".{os.getpid()}-{number}-removed", src_dir_fd=folder, dst_dir_fd=above)


def splice(fd_in: int, fd_out: int, count: int, flags: int = 0) -> int:
    """splice(2) at the descriptors' own offsets; 0 at end of input."""
    return syscall(NR["splice"], fd_in, None, fd_out, None, count, flags)


def data_parts(fd: int, size: int) -> list[tuple[int, int]]:
    """Return ``(offset, length)`` of the parts of a file that are no holes (lseek(2), SEEK_DATA).

    A file system without holes has one part.
    """
    parts, end = [], 0
    try:
        while end < size:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
            if start >= size:
                break
            parts.append((start, end - start))
    except OSError as error:
        if error.errno == errno.ENXIO:  # only a hole follows
            return parts
        if error.errno == errno.EINVAL:
            return [(0, size)]
        raise
    return parts


def sync_filesystem(fd: int) -> None:
    """syncfs(2): return when all that was written to the file system of `fd` is on the disk."""
    syscall(NR["syncfs"], fd)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give back the memory or blocks of a part of a file; its size stays (fallocate(2))."""
    result = _fallocate(fd, 0x03, offset, length)
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


_fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
