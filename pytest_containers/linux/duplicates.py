"""Duplicates of descriptors with high numbers."""

from __future__ import annotations

import errno
import fcntl
import os


def duplicate_above(fd: int, least: int) -> int:
    """Return a duplicate, closed on exec, whose number is at least `least`.

    Raises:
        OSError: EMFILE: no such number is free. Where the limit (RLIMIT_NOFILE) is below `least`,
            fcntl(2) has EINVAL for that.
    """
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from None
