"""Landlock: files, TCP ports and signals that a process denies to itself (landlock(7)).

It takes no privilege, holds for all descendants and cannot be undone. Files that no rule names can
be neither opened, run nor listed. Not covered: stat(2), chmod(2), chown(2), utime(2), and UDP.
"""

from __future__ import annotations

import functools
import os
import stat
import struct
from types import TracebackType

from pytest_containers.linux.libc import syscall
from pytest_containers.linux.numbers import NR

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_ALL_FILES = (1 << 16) - 1
READ = EXECUTE | READ_FILE | READ_DIR
WRITE = _ALL_FILES
DEVICE = READ_FILE | WRITE_FILE | _IOCTL_DEV
_OF_ONE_FILE = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEV
# The rights on files that each version knows, as a mask.
_KNOWN = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_TCP, _TCP_SINCE = 3, 4
_SCOPES, SIGNALS_SINCE = 3, 6  # abstract Unix sockets, signals
_PATH_BENEATH = 1
REFER = 1 << 13


@functools.cache
def version() -> int:
    """The version of the interface; 0 where the kernel has no Landlock (5.13), or not enabled."""
    try:
        return syscall(NR["landlock_create_ruleset"], None, 0, 1)
    except OSError:
        return 0


class Ruleset:
    """Rules that are about to hold, a descriptor; a context manager that closes it.

    What the kernel knows of is denied: all access to files, TCP (with Linux 6.7), signals to and
    abstract sockets of processes without these rules (6.12).

    Raises:
        OSError: The kernel has no Landlock.
    """

    def __init__(self) -> None:
        known = version()
        self._files = _KNOWN.get(known, _ALL_FILES)
        attributes = struct.pack("Q", self._files)
        if known >= _TCP_SINCE:
            attributes += struct.pack("Q", _TCP)
        if known >= SIGNALS_SINCE:
            attributes += struct.pack("Q", _SCOPES)
        self._fd = syscall(NR["landlock_create_ruleset"], attributes, len(attributes), 0)

    def allow(self, path: str, rights: int) -> bool:
        """Allow `rights` at and below a path; return False if nothing is there."""
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                rights &= _OF_ONE_FILE
            rule = struct.pack("=Qi", rights & self._files, fd)
            syscall(NR["landlock_add_rule"], self._fd, _PATH_BENEATH, rule, 0)
        finally:
            os.close(fd)
        return True

    def restrict(self) -> None:
        """Apply the rules to this thread; it needs no_new_privs or CAP_SYS_ADMIN."""
        syscall(NR["landlock_restrict_self"], self._fd, 0)

    def __enter__(self) -> Ruleset:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)
