"""Processes: pidfds, namespaces, prctl, credentials, capabilities."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal

from pytest_containers.linux.libc import syscall
from pytest_containers.linux.numbers import NR

CLONE_NEWTIME, CLONE_VM, CLONE_PIDFD = 0x80, 0x100, 0x1000
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x20000, 0x2000000, 0x4000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID = 0x8000000, 0x10000000, 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_CLEAR_SIGHAND = 0x100000000

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NAME = 1, 4, 8, 15
PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 24, 36, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

KEYCTL_JOIN_SESSION_KEYRING, KEYCTL_REVOKE = 1, 3
KEY_SPEC_SESSION_KEYRING = -3

CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip
"""Names without ``CAP_``; a capability's number is its place (capabilities(7))."""

CAPABILITY_VERSION_3 = 0x20080522


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """prctl(2) with integer arguments."""
    return syscall(NR["prctl"], option, a, b, c, d)


def set_name(name: str) -> None:
    """The name that ps(1) shows, 15 bytes at most."""
    syscall(NR["prctl"], PR_SET_NAME, name.encode()[:15])


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that started it ends.

    Must be called again after every change of credentials, which clears it (prctl(2)). Exits at
    once if the parent is already another one than `parent_pid`.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def pidfd_open(pid: int) -> int:
    """A descriptor of the process `pid`; readable once it has ended."""
    return os.pidfd_open(pid)


def pidfd_kill(pidfd: int, signum: int) -> bool:
    """Send a signal; False when the process has ended already."""
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    return True


def setns(fd: int, flags: int) -> None:
    """Enter namespaces of `fd`: one namespace's descriptor, or a pidfd (5.8) and a set of flags."""
    syscall(NR["setns"], fd, flags)


def unshare(flags: int) -> None:
    """Leave the namespaces of `flags` for new ones."""
    syscall(NR["unshare"], flags)


def set_hostname(name: str) -> None:
    """sethostname(2)."""
    raw = name.encode()
    syscall(NR["sethostname"], raw, len(raw))


def forget_keys() -> None:
    """Leave the session keyring that was inherited, for a revoked one (keyrings(7)).

    No namespace divides keys: whoever has the caller's session keyring can read and revoke what is
    in it. A new one for each container would count against the user's quota, 200 of them.
    """
    # A kernel without keys, or a filter that permits them to nobody below either.
    with contextlib.suppress(OSError):
        syscall(NR["keyctl"], KEYCTL_JOIN_SESSION_KEYRING, 0)
        syscall(NR["keyctl"], KEYCTL_REVOKE, KEY_SPEC_SESSION_KEYRING)


class CapHeader(ctypes.Structure):
    """The header of capset(2)."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class CapData(ctypes.Structure):
    """The two data words of capset(2), version 3."""

    _fields_ = (
        ("effective0", ctypes.c_uint32), ("permitted0", ctypes.c_uint32),
        ("inheritable0", ctypes.c_uint32),
        ("effective1", ctypes.c_uint32), ("permitted1", ctypes.c_uint32),
        ("inheritable1", ctypes.c_uint32),
    )  # fmt: skip


def cap_buffers(mask: int) -> tuple[bytes, bytes]:
    """Arguments for capset(2): `mask` permitted and effective, nothing inheritable."""
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = CapHeader(CAPABILITY_VERSION_3, 0)
    data = CapData(low, low, 0, high, high, 0)
    return bytes(header), bytes(data)


def last_capability() -> int:
    """The highest capability number that this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        return int(file.read())


@functools.cache
def ignored_signals() -> tuple[int, ...]:
    """The numbers of the signals which this process ignored when first asked.

    Beside its own choices these are Python's (SIGPIPE, SIGXFSZ), those of whoever started it
    (SIGHUP with nohup(1), SIGINT and SIGQUIT with a shell's ``&``) and, unknown to `signal`, two
    with which glibc's posix_spawn(3) starts every program.
    """
    with open("/proc/self/status", "rb") as status:
        mask = next(int(line[7:], 16) for line in status if line.startswith(b"SigIgn:"))
    return tuple(number for number in range(1, 65) if mask >> number - 1 & 1)


def wait_exit(pid: int) -> int | None:
    """Reap the child `pid` if it has ended; its exit code as a shell reports it, else None."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    if ended == 0:
        return None
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def clone(flags: int) -> tuple[int, int]:
    """fork(2) into new namespaces: ``(pid, pidfd)`` in the parent, ``(0, -1)`` in the child.

    With clone3(2), behind the back of Python: none of its hooks for forks run, so only for a
    process of one thread. The child's end sends SIGCHLD.

    Raises:
        OSError: EPERM, ENOSPC, EUSERS: namespaces are not permitted, or too many.
    """
    pidfd = ctypes.c_int(-1)
    args = (ctypes.c_uint64 * 11)()
    args[0], args[1], args[4] = flags | CLONE_PIDFD, ctypes.addressof(pidfd), signal.SIGCHLD
    pid: int = _clone(NR["clone3"], args, ctypes.sizeof(args), 0, 0, 0, 0)
    if pid == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "clone3")
    return pid, pidfd.value


# PyDLL: the interpreter lock is kept over the call, so that the child has it.
_clone = ctypes.PyDLL(None, use_errno=True).syscall
_clone.argtypes = [ctypes.c_long] + [ctypes.c_void_p] * 6
_clone.restype = ctypes.c_long
