"""Whiteouts: what overlayfs takes for the removal of a file of the layers below.

A character device 0/0 is one everywhere. But overlayfs does not let anybody make it, so a store on
the overlay of a container has none: there it is an empty file with an extended attribute, in a
directory with another one (Linux 6.8, Documentation/filesystems/overlayfs.rst).
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

OPAQUE_XATTR = "user.overlay.opaque"
_XATTR = "user.overlay.whiteout"
_HAS_WHITEOUTS = b"x"
_SINCE = (6, 8)


def make_whiteout(parent: int, leaf: str) -> None:
    """Make the whiteout `leaf` in the directory `parent` of a layer.

    Raises:
        FileExistsError: There is something of that name.
        OSError: This file system cannot hold one; the message says what to do.
    """
    try:
        os.mknod(leaf, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
    except PermissionError:
        major, minor = os.uname().release.split(".")[:2]
        if (int(major), int("".join(filter(str.isdecimal, minor)) or 0)) < _SINCE:
            raise OSError(
                errno.EPERM,
                "a removal of a file cannot be stored on an overlay before Linux 6.8; set "
                "PYTEST_CONTAINERS_HOME to a directory on another file system, such as a volume",
            ) from None
        _make_marked(parent, leaf)


def _make_marked(parent: int, leaf: str) -> None:
    fd = os.open(leaf, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent)
    try:
        os.setxattr(fd, _XATTR, b"")
    finally:
        os.close(fd)
    with suppress(FileExistsError):  # it shows nothing of what is below
        os.setxattr(parent, OPAQUE_XATTR, _HAS_WHITEOUTS, os.XATTR_CREATE)


def is_whiteout(parent: int, leaf: str) -> bool:
    """Check whether `leaf` is a whiteout; False if it is not there."""
    try:
        status = os.stat(leaf, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev == 0
    if not stat.S_ISREG(status.st_mode) or status.st_size:
        return False
    fd = os.open(leaf, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        return _XATTR in os.listxattr(fd)
    finally:
        os.close(fd)
