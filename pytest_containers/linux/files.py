"""Files: resolution below a root, splice, descriptors."""

from __future__ import annotations

import ctypes
import errno
import os

from pytest_containers.linux.libc import syscall
from pytest_containers.linux.numbers import NR

RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS = 1, 2, 4
RESOLVE_BENEATH, RESOLVE_IN_ROOT = 8, 16


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def openat2(dirfd: int, path: str, flags: int, *, mode: int = 0, resolve: int) -> int:
    """openat2(2), close-on-exec always; retried while a rename elsewhere disturbs it (EAGAIN).

    Raises:
        OSError: Named after `path`.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    while True:
        try:
            return syscall(
                NR["openat2"], dirfd, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)
            )
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise OSError(error.errno, error.strerror, path) from None


def open_in_root(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` as if `root_fd` were ``/``: neither ``..`` nor a symlink leads out of it.

    Magic links are refused, so a planted ``/proc/self/fd/N`` is an error.
    """
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    return openat2(root_fd, path, flags, mode=mode, resolve=resolve)


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
        import shutil  # not on the way of a start

        shutil.rmtree(leaf, dir_fd=dir_fd)
        return True
    return False


def splice(fd_in: int, fd_out: int, count: int, flags: int = 0) -> int:
    """splice(2) at the descriptors' own offsets; 0 at end of input."""
    return syscall(NR["splice"], fd_in, None, fd_out, None, count, flags)


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """close_range(2)."""
    syscall(NR["close_range"], first, last, flags)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give back the memory or blocks of a part of a file; its size stays (fallocate(2))."""
    result = _fallocate(fd, 0x03, offset, length)
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


_fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
