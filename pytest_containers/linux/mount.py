"""Mounts: the API of descriptors (fsopen(2), fsmount(2), open_tree(2), move_mount(2)); mount(2)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from pytest_containers.linux.libc import syscall
from pytest_containers.linux.numbers import NR

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC = 32, 4096, 16384
MS_PRIVATE, MS_SHARED, MS_STRICTATIME = 1 << 18, 1 << 20, 1 << 24
MNT_DETACH = 2

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_SYMLINKS = 0x10
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_SET_FD = 0, 1, 5
FSCONFIG_CMD_CREATE = 6

MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
MOUNT_ATTR_NOATIME, MOUNT_ATTR_STRICTATIME = 0x10, 0x20
MOUNT_ATTR_IDMAP = 0x100000


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount(
    source: str | None, target: str, fstype: str | None, flags: int = 0, data: str | None = None
) -> None:
    """mount(2).

    Raises:
        OSError: Named after `target`.
    """
    try:
        syscall(
            NR["mount"],
            source.encode() if source is not None else None,
            os.fsencode(target),
            fstype.encode() if fstype is not None else None,
            flags,
            data.encode() if data is not None else None,
        )
    except OSError as error:
        raise _named(error, f"mount {fstype or source} on {target}") from None


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2)."""
    try:
        syscall(NR["umount2"], os.fsencode(target), flags)
    except OSError as error:
        raise _named(error, f"umount {target}") from None


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    syscall(NR["pivot_root"], os.fsencode(new_root), os.fsencode(put_old))


def new_mount(
    fstype: str,
    options: Iterable[tuple[str, str | int | None]] = (),
    attributes: int = 0,
) -> int:
    """Make a file system and a detached mount of it.

    Args:
        fstype: ``"tmpfs"``, ``"overlay"`` …
        options: ``(name, value)`` in order; text is a string option, an int is a descriptor
            (FSCONFIG_SET_FD), None a flag.
        attributes: MOUNT_ATTR_* of the mount.

    Returns:
        A descriptor of the mount; closing it unmounts, unless it was moved to a place.

    Raises:
        OSError: Named after the file system and the option that was refused.
    """
    context = syscall(NR["fsopen"], fstype.encode(), FSOPEN_CLOEXEC)
    doing = f"fsopen {fstype}"
    try:
        for name, value in options:
            doing = f"{fstype} option {name}"
            _configure(context, name, value)
        doing = f"create {fstype}"
        syscall(NR["fsconfig"], context, FSCONFIG_CMD_CREATE, None, None, 0)
        return syscall(NR["fsmount"], context, FSMOUNT_CLOEXEC, attributes)
    except OSError as error:
        raise _named(error, _explain(context, doing)) from None
    finally:
        os.close(context)


def new_sysfs(attributes: int = 0) -> int:
    """Make a sysfs of this process's network namespace; read-only where that is all there is.

    A user namespace may mount no sysfs that shows more than the one around it (mount_too_revealing
    in the kernel), and in a Docker container that one is read-only.

    Raises:
        OSError: As `new_mount`.
    """
    try:
        return new_mount("sysfs", (), attributes)
    except PermissionError:
        return new_mount("sysfs", (), attributes | MOUNT_ATTR_RDONLY)


def _configure(context: int, name: str, value: str | int | None) -> None:
    key = name.encode()
    if value is None:
        syscall(NR["fsconfig"], context, FSCONFIG_SET_FLAG, key, None, 0)
    elif isinstance(value, int):
        syscall(NR["fsconfig"], context, FSCONFIG_SET_FD, key, None, value)
    else:
        syscall(NR["fsconfig"], context, FSCONFIG_SET_STRING, key, value.encode(), 0)


def _explain(context: int, doing: str) -> str:
    """Add what the file system itself said: its log is read from the context's descriptor."""
    messages = []
    os.set_blocking(context, False)
    while True:
        try:
            messages.append(os.read(context, 512).decode(errors="replace").strip()[2:])
        except OSError:
            break
    return f"{doing} ({'; '.join(messages)})" if messages else doing


def open_tree(path: str, dirfd: int = AT_FDCWD, *, recursive: bool = False) -> int:
    """A detached copy of the mount at `path` (or of `dirfd` itself, with an empty path)."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
    flags |= AT_RECURSIVE if recursive else 0
    flags |= AT_EMPTY_PATH if not path else 0
    try:
        return syscall(NR["open_tree"], dirfd, os.fsencode(path), flags)
    except OSError as error:
        raise _named(error, f"open_tree {path or dirfd}") from None


def move_mount(from_fd: int, to: str, to_dirfd: int = AT_FDCWD) -> None:
    """Attach the detached mount `from_fd` at `to` (or on `to_dirfd` itself, with an empty path)."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (MOVE_MOUNT_T_EMPTY_PATH if not to else 0)
    try:
        syscall(NR["move_mount"], from_fd, b"", to_dirfd, os.fsencode(to), flags)
    except OSError as error:
        raise _named(error, f"attach a mount at {to or to_dirfd}") from None


def set_attributes(
    fd: int,
    *,
    add: int = 0,
    clear: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
    recursive: bool = False,
) -> None:
    """mount_setattr(2) on the mount that `fd` refers to."""
    attr = _MountAttr(add, clear, propagation, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall(NR["mount_setattr"], fd, b"", flags, ctypes.byref(attr), ctypes.sizeof(attr))


def _named(error: OSError, doing: str) -> OSError:
    return OSError(error.errno, error.strerror, doing)
