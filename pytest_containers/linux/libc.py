"""`syscall(2)`: arguments in, result or OSError out."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
# c_void_p takes whole 64-bit integers (negative ones too), bytes, buffers and None alike.
_syscall.argtypes = [ctypes.c_long] + [ctypes.c_void_p] * 6
_syscall.restype = ctypes.c_long


def syscall(
    nr: int,
    a: object = 0,
    b: object = 0,
    c: object = 0,
    d: object = 0,
    e: object = 0,
    f: object = 0,
) -> int:
    """Make a system call.

    Args:
        nr: Its number (`numbers.NR`).
        a, b, c, d, e, f: Integers, bytes (NUL-terminated by Python), ctypes buffers or None.

    Raises:
        OSError: With the kernel's errno; callers add what was being done.
    """
    result: int = _syscall(nr, a, b, c, d, e, f)
    if result == -1:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return result
