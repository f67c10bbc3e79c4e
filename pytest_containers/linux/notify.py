"""System calls that another process decides about (seccomp_unotify(2)).

`install` makes the calling process stop in the calls of `traps`; the holder of the listener
receives each as a `Trap` and answers it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pytest_containers.linux.libc import syscall
from pytest_containers.linux.numbers import MACHINE, NR, SUPERSEDED
from pytest_containers.linux.seccomp import AUDIT_ARCH, INSTRUCTION_BYTES

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # struct seccomp_data, little-endian
_NOTIFY, _ALLOW, _ERRNO = 0x7FC00000, 0x7FFF0000, 0x00050000
_X32 = 0x40000000
_NEW_LISTENER, _WAIT_KILLABLE = 8, 32
_RECEIVE, _ANSWER, _IS_VALID, _ADD_FD = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103
_CONTINUE, _ADD_AND_SEND = 1, 2
_TRAP = struct.Struct("=QIIiIQ6Q")
_MOST_ADDRESS_BYTES = 128

Instruction = tuple[int, int, int, int]


class Trap(NamedTuple):
    """A call that waits for an answer."""

    id: int
    tid: int
    number: int
    arguments: tuple[int, ...]


def traps(*, chown_succeeds: bool) -> bytes:
    """Return the filter: an array of ``struct sock_filter``.

    Trapped are the sockets of IPv4 and IPv6, bind, connect, sendto with an address, and System V
    segments. io_uring, which makes sockets too, does not exist, nor do calls of another
    architecture. Forks are not trapped: a signal that comes before the trap is received makes a
    call fail with EINTR, which no program expects of fork(2).

    Args:
        chown_succeeds: Let changes of owners do nothing, for a process that has one user id.
    """
    missing = [(_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    trapped = [(_RETURN, 0, 0, _NOTIFY)]
    low = _ARGUMENTS_AT
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, AUDIT_ARCH[MACHINE]),
        *missing,
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if MACHINE == "x86_64":
        code += [(_AT_LEAST, 0, 1, _X32), *missing]
    for name in ("bind", "connect", "shmget"):
        code += _when(NR[name], trapped)
    families = [(_EQUAL, 1, 0, socket.AF_INET), (_EQUAL, 0, 1, socket.AF_INET6)]
    code += _when(NR["socket"], [(_LOAD, 0, 0, low), *families, *trapped, (_RETURN, 0, 0, _ALLOW)])
    pointer = low + 4 * 8
    code += _when(
        NR["sendto"],
        [
            (_LOAD, 0, 0, pointer), (_EQUAL, 0, 2, 0), (_LOAD, 0, 0, pointer + 4),
            (_EQUAL, 1, 0, 0), *trapped, (_RETURN, 0, 0, _ALLOW),
        ],
    )  # fmt: skip
    code += _when(NR["io_uring_setup"], missing)
    if chown_succeeds:
        for number in (NR["fchown"], NR["fchownat"], *(SUPERSEDED[n] for n in _CHOWNS)):
            code += _when(number, [(_RETURN, 0, 0, _ERRNO)])
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


_CHOWNS = [name for name in SUPERSEDED if name.endswith("chown")]


def _when(number: int, body: Sequence[Instruction]) -> list[Instruction]:
    """Return instructions that run `body`, which returns, for a call, and go on for others."""
    return [(_EQUAL, 0, len(body), number), *body]


def install(code: bytes) -> int:
    """Install a filter for this process; return the listener. It takes no_new_privs.

    Raises:
        OSError: EBUSY: a filter with a listener is installed already; ENOSYS, EINVAL: the kernel
            is older than 5.0.
    """
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // INSTRUCTION_BYTES, ctypes.addressof(buffer))
    try:
        # Without it (Linux 5.19), a signal could repeat a call that was done already.
        return syscall(NR["seccomp"], 1, _NEW_LISTENER | _WAIT_KILLABLE, program)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return syscall(NR["seccomp"], 1, _NEW_LISTENER, program)


def receive(listener: int) -> Trap | None:
    """Return the next trapped call, or None if its process was killed meanwhile."""
    buffer = bytearray(_TRAP.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    ident, tid, _, number, _, _, *arguments = _TRAP.unpack(buffer)
    return Trap(ident, tid, number, tuple(arguments))


def is_valid(listener: int, trap: Trap) -> bool:
    """Return True if the process still waits, so that its number means no other process."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(listener, _IS_VALID, struct.pack("=Q", trap.id))
        return True
    return False


def resume(listener: int, trap: Trap) -> None:
    """Let the kernel do the call as it is."""
    _answer(listener, trap, 0, 0, _CONTINUE)


def answer(listener: int, trap: Trap, value: int = 0, error: int = 0) -> None:
    """Return `value` from the call, or fail with an error number."""
    _answer(listener, trap, value, -error, 0)


def _answer(listener: int, trap: Trap, value: int, error: int, flags: int) -> None:
    with contextlib.suppress(OSError):  # it was killed meanwhile
        fcntl.ioctl(listener, _ANSWER, struct.pack("=QqiI", trap.id, value, error, flags))


def answer_with(listener: int, trap: Trap, fd: int, *, close_on_exec: bool) -> None:
    """Return a duplicate of a descriptor from the call (Linux 5.14)."""
    flags = os.O_CLOEXEC if close_on_exec else 0
    added = struct.pack("=QIIII", trap.id, _ADD_AND_SEND, fd, 0, flags)
    try:
        fcntl.ioctl(listener, _ADD_FD, added)
    except OSError as error:
        if error.errno != errno.ENOENT:
            answer(listener, trap, error=error.errno or errno.EMFILE)


def read_memory(tid: int, address: int, size: int) -> bytes:
    """Return a part of the memory of a process that this one may trace (ptrace(2))."""
    fd = os.open(f"/proc/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, size, address)
    finally:
        os.close(fd)


def address_at(tid: int, address: int, size: int) -> bytes:
    """Return the ``struct sockaddr`` of a trapped call."""
    return read_memory(tid, address, min(size, _MOST_ADDRESS_BYTES))


@contextlib.contextmanager
def as_user(uid: int, gid: int) -> Iterator[None]:
    """Give this thread, and no other, effective ids: what their owner may trace, it may.

    The capability for this, CAP_SYS_PTRACE, is missing in Docker's default.
    """
    unchanged = -1
    syscall(NR["setresgid"], unchanged, gid, unchanged)
    try:
        syscall(NR["setresuid"], unchanged, uid, unchanged)
        try:
            yield
        finally:
            syscall(NR["setresuid"], unchanged, 0, unchanged)
    finally:
        syscall(NR["setresgid"], unchanged, 0, unchanged)
