"""Processes: pidfds, namespaces, prctl, credentials, capabilities."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import signal
from typing import Literal

from pytest_containers.linux.libc import syscall
from pytest_containers.linux.numbers import MACHINE, NR

CLONE_VM, CLONE_PIDFD = 0x100, 0x1000
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x20000, 0x2000000, 0x4000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID = 0x8000000, 0x10000000, 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_CLEAR_SIGHAND = 0x100000000

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NAME = 1, 4, 8, 15
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2

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

_SIGTIMEDWAIT = ("128", "177", "421") if MACHINE == "x86_64" else ("137", "177", "421")
"""Numbers of rt_sigtimedwait, of this machine and of 32 bits, in /proc/PID/syscall."""

CAPABILITY_VERSION_3 = 0x20080522


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """prctl(2) with integer arguments."""
    return syscall(NR["prctl"], option, a, b, c, d)


def set_name(name: str) -> None:
    """Set the name that ps(1) shows, 15 bytes at most; where that is refused, it has another."""
    with contextlib.suppress(OSError):
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


def forget_keys() -> None:
    """Leave the session keyring that was inherited, for a revoked one (keyrings(7)).

    No namespace divides keys: a process with the caller's session keyring can read and revoke
    its keys. A new one for each container would count against the user's quota, 200 of them.
    """
    # A kernel without keys, or a filter that denies them to the containers too.
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


def cap_buffers(permitted: int, effective: int, inheritable: int) -> tuple[bytes, bytes]:
    """Arguments for capset(2), from three masks."""
    low, high = (
        tuple(mask >> shift & 0xFFFFFFFF for mask in (effective, permitted, inheritable))
        for shift in (0, 32)
    )
    return bytes(CapHeader(CAPABILITY_VERSION_3, 0)), bytes(CapData(*low, *high))


def last_capability() -> int:
    """The highest capability number that this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        return int(file.read())


@functools.cache
def ignored_signals() -> tuple[int, ...]:
    """Return the signals that this process ignored at the first call.

    Beside its own choices these are Python's (SIGPIPE, SIGXFSZ), those of whoever started it
    (SIGHUP with nohup(1), SIGINT and SIGQUIT with a shell's ``&``) and, unknown to `signal`, two
    with which glibc's posix_spawn(3) starts every program.
    """
    with open("/proc/self/status", "rb") as status:
        mask = next(int(line[7:], 16) for line in status if line.startswith(b"SigIgn:"))
    return tuple(number for number in range(1, 65) if mask >> number - 1 & 1)


def read_proc(path: str) -> str:
    """Read a file of procfs. A name of a process, which that chooses, may have any bytes.

    Raises:
        OSError: The process has ended.
    """
    with open(path, "rb") as file:
        return file.read().decode("utf-8", "replace")


def signal_is_in(status: str, signum: int, *sets: str) -> bool:
    """True if a signal is in one of the `sets` (``SigCgt`` …) of a ``/proc/PID/status``."""
    fields = dict(line.split(":", 1) for line in status.split("\n") if ":" in line)
    return any(int(fields[name], 16) >> signum - 1 & 1 for name in sets)


SignalFate = Literal["heard", "kept", "dropped", "unclear"]


def number_in_proc(pidfd: int) -> int:
    """Return the number that a process has in ``/proc``, which may be that of another namespace.

    Raises:
        OSError: It has ended.
    """
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        for line in file:
            if line.startswith("Pid:"):
                number = int(line.split()[1])
                if number > 0:  # -1 of one that was reaped, 0 of one that is not in the namespace
                    return number
    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def fate_at_init(pidfd: int, signum: int) -> SignalFate:
    """Return what would become of a signal to the PID 1 of a namespace at this moment.

    It is *dropped* when that has no handler for it (pid_namespaces(7)) and does not block it. What
    is blocked is *kept* for a signalfd(2) or sigwait(3), by which init programs hear of it; within
    sigwait it shows as not blocked. It is *unclear* while the program runs, or waits for a child of
    vfork(2), since a shell that starts a program blocks all signals for so long. One that ignores
    it may do so while it ends, and counts as one that has *heard* it; also one that cannot be
    looked into.
    """
    try:
        folder = f"/proc/{number_in_proc(pidfd)}"
        status = read_proc(f"{folder}/status")
        number = read_proc(f"{folder}/syscall").split()[0]
    except OSError:
        return "heard"
    if signal_is_in(status, signum, "SigCgt", "SigIgn"):
        return "heard"
    if number in _SIGTIMEDWAIT:
        return "kept"
    if not signal_is_in(status, signum, "SigBlk"):
        return "dropped"
    return "kept" if "\nState:\tS" in status else "unclear"


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
