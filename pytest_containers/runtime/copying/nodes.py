"""Files, directories, links and pipes, each made in a directory with all its attributes.

The order is the same everywhere: contents, owner, mode, extended attributes, time. chown(2) drops
set-id bits and capabilities, and every change but the last sets the time.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

Fill = Callable[[int], None]
"""Writes a file's contents to a descriptor."""

# They would speak to overlayfs in the archive's name, or are this machine's own to decide.
_DROPPED_XATTRS = ("user.overlay.", "trusted.overlay.", "security.selinux")
# With a single id file capabilities mean nothing; some file systems have no attributes. What a
# namespace may not set is not for an archive to demand.
_XATTR_REFUSALS = (errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL, errno.ERANGE)
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class OwnerError(ValueError):
    """No such user or group exists here; the message continues a sentence about the file."""

    def __init__(self, uid: int, gid: int) -> None:
        super().__init__(
            f"belongs to {uid}:{gid}, and this account has no such subordinate id; give it a "
            "larger range in /etc/subuid and /etc/subgid"
        )


class FileAttributes(NamedTuple):
    """The attributes of a new file.

    Attributes:
        mode: Permission bits.
        mtime_ns: Since the epoch; None leaves it at now.
        owner: User and group; None leaves it to the process that makes the file.
        xattrs: Value by name.
    """

    mode: int
    mtime_ns: int | None
    owner: tuple[int, int] | None = None
    xattrs: Mapping[str, bytes] | None = None


def make_file(
    parent: int, leaf: str, attributes: FileAttributes, fill: Fill, *, as_created: bool = False
) -> int:
    """Make a file that `fill` writes.

    Args:
        as_created: The process has no umask, its ids are `attributes.owner`, and the directory
            hands no group down, so that what open(2) makes needs no change.

    Returns:
        Its size in bytes.

    Raises:
        FileExistsError: Something has that name.
        OwnerError: There is no such owner here.
    """
    mode = attributes.mode
    fd = os.open(leaf, _NEW_FILE, mode & 0o777 if as_created else 0o600, dir_fd=parent)
    try:
        fill(fd)
        if not as_created:
            _own(fd, attributes.owner)
        if not as_created or mode & 0o7000:
            os.fchmod(fd, mode)
        finish(fd, attributes)
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def make_directory(parent: int, leaf: str) -> tuple[int, bool]:
    """Make a directory, or open the one that is there.

    Returns:
        A descriptor of the caller's, and whether it is new.

    Raises:
        FileExistsError: Something else has that name.
    """
    try:
        os.mkdir(leaf, 0o700, dir_fd=parent)
        is_new = True
    except FileExistsError:
        is_new = False
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(leaf, flags, dir_fd=parent), is_new
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise FileExistsError(errno.EEXIST, "something else has its name", leaf) from None
        raise


def dress_directory(fd: int, attributes: FileAttributes) -> None:
    """Give an open directory its attributes, without the time, which would not last."""
    _own(fd, attributes.owner)
    os.fchmod(fd, attributes.mode)
    set_xattrs(fd, attributes.xattrs)


def make_symlink(parent: int, leaf: str, target: str, attributes: FileAttributes) -> None:
    """Make a symbolic link.

    Raises:
        FileExistsError, OwnerError: See `make_file`.
    """
    os.symlink(target, leaf, dir_fd=parent)
    _own(leaf, attributes.owner, parent)
    set_time(leaf, attributes.mtime_ns, parent)


def make_fifo(parent: int, leaf: str, attributes: FileAttributes) -> None:
    """Make a named pipe.

    Raises:
        FileExistsError, OwnerError: See `make_file`.
    """
    _make_special(parent, leaf, stat.S_IFIFO, attributes)


def make_socket(parent: int, leaf: str, attributes: FileAttributes) -> None:
    """Make the place of a device: a socket without a listener, which open(2) refuses (ENXIO).

    A user namespace may not make devices, and this says what a device without a driver says.

    Raises:
        FileExistsError, OwnerError: See `make_file`.
    """
    _make_special(parent, leaf, stat.S_IFSOCK, attributes)


def _make_special(parent: int, leaf: str, kind: int, attributes: FileAttributes) -> None:
    os.mknod(leaf, kind | 0o600, dir_fd=parent)
    _own(leaf, attributes.owner, parent)
    _set_mode(parent, leaf, kind, attributes.mode)
    set_time(leaf, attributes.mtime_ns, parent)


def _set_mode(parent: int, leaf: str, kind: int, mode: int) -> None:
    """Change the mode of a new file that must not be opened.

    By descriptor: a program of a container may have put a link in its place, which leads to a file
    of the host, and chmod(2) follows it.

    Raises:
        OSError: Something else has its name by now (ESTALE).
    """
    fd = os.open(leaf, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if stat.S_IFMT(os.fstat(fd).st_mode) != kind:
            raise OSError(errno.ESTALE, "it became something else while it was copied")
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)


def finish(fd: int, attributes: FileAttributes) -> None:
    """Give an open file its extended attributes and its time."""
    set_xattrs(fd, attributes.xattrs)
    set_time(fd, attributes.mtime_ns)


def set_xattrs(fd: int, xattrs: Mapping[str, bytes] | None) -> None:
    """Set the extended attributes that an archive may set, and that this file system has."""
    for name, value in (xattrs or {}).items():
        if name.startswith(_DROPPED_XATTRS):
            continue
        try:
            os.setxattr(fd, name, value)
        except ValueError:  # a NUL in the name
            continue
        except OSError as error:
            if error.errno not in _XATTR_REFUSALS:
                raise


def set_time(target: int | str, mtime_ns: int | None, parent: int | None = None) -> None:
    """Set when a file was changed; a time that the kernel cannot hold is left out."""
    if mtime_ns is None:
        return
    times = (mtime_ns, mtime_ns)
    with suppress(OverflowError):
        if isinstance(target, int):
            os.utime(target, ns=times)
        else:
            os.utime(target, ns=times, dir_fd=parent, follow_symlinks=False)


def _own(target: int | str, owner: tuple[int, int] | None, parent: int | None = None) -> None:
    if owner is not None:
        set_owner(target, owner, parent)


def set_owner(target: int | str, owner: tuple[int, int], parent: int | None = None) -> None:
    """Change the owner of a new file.

    Args:
        target: A descriptor, or a name in the directory `parent`.

    Raises:
        OwnerError: There is no such user or group here.
    """
    try:
        if isinstance(target, int):
            os.fchown(target, *owner)
        else:
            os.chown(target, *owner, dir_fd=parent, follow_symlinks=False)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise OwnerError(*owner) from None
