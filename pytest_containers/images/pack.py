"""A container's writable layer as a layer's tar: what overlayfs notes there becomes whiteouts.

Runs as a job (`Inside.call`) in a bare interpreter: the standard library only.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_OWN = "user.overlay."
_XATTR = "SCHILY.xattr."
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def pack_upper(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Write the directory `fds[0]` as a tar to the pipe `fds[1]`, in the order of names.

    Args:
        args: ``without``: paths that are left out, mount points mostly.

    Returns:
        ``entries``: how many members there are.
    """
    upper = os.open(".", _FOLDER, dir_fd=fds[0])
    pipe = fds[1]
    packer = _Packer(frozenset(args["without"]))
    # The root of the layer is no change of the container's: it has always been there.
    with (
        open(pipe, "wb") as file,
        tarfile.open(
            fileobj=file, mode="w|", format=tarfile.PAX_FORMAT, errors="surrogateescape"
        ) as tar,
    ):
        for member, data in packer.below(upper, ""):
            if data is None:
                tar.addfile(member)
            else:
                with open(data, "rb") as source:
                    tar.addfile(member, source)
    return {"entries": packer.entries}


class _Packer:
    def __init__(self, without: frozenset[str]) -> None:
        self._without = without
        self._seen: dict[tuple[int, int], str] = {}
        self.entries = 0

    def below(self, fd: int, folder: str) -> Iterator[tuple[tarfile.TarInfo, int | None]]:
        """Members of the directory `fd`, which is taken over, with a descriptor of their data."""
        try:
            if folder and _is_opaque(fd):
                yield self._marker(f"{folder}{_OPAQUE}"), None
            for leaf in sorted(os.listdir(fd)):
                path = f"{folder}{leaf}"
                if path not in self._without:
                    yield from self._one(fd, leaf, path, folder)
        finally:
            os.close(fd)

    def _one(
        self, parent: int, leaf: str, path: str, folder: str
    ) -> Iterator[tuple[tarfile.TarInfo, int | None]]:
        try:
            status = os.stat(leaf, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return  # it runs on, and has just removed it
        mode = status.st_mode
        if stat.S_ISCHR(mode):
            if status.st_rdev == 0:
                yield self._marker(f"{folder}{_WHITEOUT}{leaf}"), None
            return
        if stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
            return  # they mean nothing in an image
        member = _member(path, status)
        self.entries += 1
        if stat.S_ISDIR(mode):
            member.type = tarfile.DIRTYPE
            fd = os.open(leaf, _FOLDER, dir_fd=parent)
            _add_xattrs(member, fd)
            yield member, None
            yield from self.below(fd, f"{path}/")
        elif stat.S_ISLNK(mode):
            member.type, member.linkname = tarfile.SYMTYPE, os.readlink(leaf, dir_fd=parent)
            yield member, None
        elif stat.S_ISFIFO(mode):
            member.type = tarfile.FIFOTYPE
            yield member, None
        else:
            yield from self._file(parent, leaf, path, member)

    def _file(
        self, parent: int, leaf: str, path: str, member: tarfile.TarInfo
    ) -> Iterator[tuple[tarfile.TarInfo, int | None]]:
        fd = os.open(leaf, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        status = os.fstat(fd)
        identity = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and identity in self._seen:
            os.close(fd)
            member.type, member.linkname = tarfile.LNKTYPE, self._seen[identity]
            yield member, None
            return
        self._seen[identity] = path
        member.size = status.st_size
        _add_xattrs(member, fd)
        yield member, fd

    def _marker(self, path: str) -> tarfile.TarInfo:
        self.entries += 1
        member = tarfile.TarInfo(path)
        member.mode = 0
        return member


def _member(path: str, status: os.stat_result) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.mode = stat.S_IMODE(status.st_mode)
    member.uid, member.gid = status.st_uid, status.st_gid
    member.mtime = int(status.st_mtime)
    if status.st_mtime_ns % 1_000_000_000:
        fraction = status.st_mtime_ns % 1_000_000_000
        member.pax_headers = {"mtime": f"{member.mtime}.{fraction:09d}"}
    return member


def _is_opaque(fd: int) -> bool:
    with suppress(OSError):
        return os.getxattr(fd, f"{_OWN}opaque") == b"y"
    return False


def _add_xattrs(member: tarfile.TarInfo, fd: int) -> None:
    headers = dict(member.pax_headers)
    for name in os.listxattr(fd):
        if name.startswith((_OWN, "trusted.", "security.selinux", "system.")):
            continue
        value = os.getxattr(fd, name)
        headers[_XATTR + name] = value.decode("utf-8", "surrogateescape")
    member.pax_headers = headers
