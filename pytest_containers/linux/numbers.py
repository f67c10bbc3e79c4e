"""System call numbers of the architectures that are supported, and no others.

Calls newer than Linux 5.0 have one number everywhere (`asm-generic/unistd.h`); the older
ones are listed per architecture. An unknown architecture is an error, never a guess.
"""

from __future__ import annotations

import os

MACHINE = os.uname().machine

_OLD: dict[str, dict[str, int]] = {
    "x86_64": {
        "read": 0, "write": 1, "close": 3, "rt_sigprocmask": 14, "ioctl": 16, "dup": 32,
        "getpid": 39, "clone": 56, "execve": 59, "exit": 60, "wait4": 61, "kill": 62,
        "fcntl": 72, "chdir": 80, "fchdir": 81, "umask": 95, "setsid": 112, "setgroups": 116,
        "setresuid": 117, "setresgid": 119, "capget": 125, "capset": 126, "pivot_root": 155,
        "prctl": 157, "mount": 165, "umount2": 166, "sethostname": 170, "setdomainname": 171,
        "exit_group": 231, "mkdirat": 258, "mknodat": 259, "openat": 257, "fchownat": 260,
        "unlinkat": 263, "symlinkat": 266, "fchmodat": 268, "unshare": 272, "splice": 275,
        "signalfd4": 289, "dup3": 292, "prlimit64": 302, "setns": 308, "seccomp": 317,
        "memfd_create": 319, "execveat": 322, "syncfs": 306, "setxattr": 188, "fsetxattr": 190,
        "socket": 41, "add_key": 248, "keyctl": 250,
    },
    "aarch64": {
        "read": 63, "write": 64, "close": 57, "rt_sigprocmask": 135, "ioctl": 29, "dup": 23,
        "getpid": 172, "clone": 220, "execve": 221, "exit": 93, "wait4": 260, "kill": 129,
        "fcntl": 25, "chdir": 49, "fchdir": 50, "umask": 166, "setsid": 157, "setgroups": 159,
        "setresuid": 147, "setresgid": 149, "capget": 90, "capset": 91, "pivot_root": 41,
        "prctl": 167, "mount": 40, "umount2": 39, "sethostname": 161, "setdomainname": 162,
        "exit_group": 94, "mkdirat": 34, "mknodat": 33, "openat": 56, "fchownat": 54,
        "unlinkat": 35, "symlinkat": 36, "fchmodat": 53, "unshare": 97, "splice": 76,
        "signalfd4": 74, "dup3": 24, "prlimit64": 261, "setns": 268, "seccomp": 277,
        "memfd_create": 279, "execveat": 281, "syncfs": 267, "setxattr": 5, "fsetxattr": 7,
        "socket": 198, "add_key": 217, "keyctl": 219,
    },
}  # fmt: skip

_NEW = {
    "pidfd_send_signal": 424, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434, "clone3": 435,
    "close_range": 436, "openat2": 437, "pidfd_getfd": 438, "mount_setattr": 442,
}  # fmt: skip

SUPPORTED = tuple(_OLD)
"""Machines (as `uname -m` names them) whose numbers are known."""

NR: dict[str, int] = _OLD[MACHINE] | _NEW if MACHINE in _OLD else {}
"""Number by name on this machine; empty where the machine is not supported."""
