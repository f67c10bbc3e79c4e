"""What file systems can do, by their magic numbers (statfs(2))."""

from __future__ import annotations

import ctypes
import os

from pytest_containers.linux.libc import syscall
from pytest_containers.linux.numbers import NR

_IDMAPPED_SINCE = {
    0xEF53: (5, 12), 0x58465342: (5, 12), 0x4D44: (5, 12), 0x9123683E: (5, 15),
    0x7366746E: (5, 15), 0xF2F52010: (5, 18), 0xE0F5E1E2: (5, 19), 0x73717368: (6, 2),
    0x01021994: (6, 3), 0x00C36400: (6, 7),
}  # fmt: skip
"""ext4, xfs, vfat, btrfs, ntfs3, f2fs, erofs, squashfs, tmpfs and ceph: the first kernel with
idmapped mounts of them (mount_setattr(2)). To try it out takes a user namespace, and so a fork."""
_NAMES = {
    0x794C7630: "overlay", 0x01021994: "tmpfs", 0x6969: "nfs", 0x65735546: "fuse",
    0x01021997: "9p", 0x2FC12FC1: "zfs", 0x9123683E: "btrfs", 0xFF534D42: "cifs",
}  # fmt: skip


def without_idmapped_mounts(path: str) -> str:
    """Return the name of the file system at `path` if it has no idmapped mounts, else nothing.

    Of a path that does not exist, it is the file system of the directory that does.

    Raises:
        OSError: It cannot be looked at.
    """
    magic = _magic(path)
    major, minor = os.uname().release.split(".")[:2]
    kernel = int(major), int("".join(letter for letter in minor if letter.isdecimal()) or 0)
    if kernel >= _IDMAPPED_SINCE.get(magic, (1 << 30, 0)):
        return ""
    return _NAMES.get(magic, f"{magic:#x}")


def can_have_upper(path: str) -> bool:
    """Check whether overlayfs may have its upper layer there, where tmpfs has no user xattrs."""
    return _NAMES.get(_magic(path), "btrfs") in ("btrfs", "zfs")


def _magic(path: str) -> int:
    buffer = (ctypes.c_ulong * 32)()  # struct statfs, whose first member it is: 120 bytes
    while True:
        try:
            syscall(NR["statfs"], os.fsencode(path), buffer)
            return int(buffer[0])
        except FileNotFoundError:
            parent = os.path.dirname(os.path.abspath(path))
            if parent == path:
                raise
            path = parent
