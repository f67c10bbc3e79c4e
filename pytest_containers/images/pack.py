"""A container's writable layer as a layer's tar: what overlayfs notes there becomes whiteouts.

Runs as a job (`Inside.call`) in a bare interpreter: the standard library only.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO, Any, cast

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_OWN = "user.overlay."
_XATTR = "SCHILY.xattr."
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_AT_ONCE_BYTES = 1 << 20


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
    with (
        open(pipe, "wb") as file,
        tarfile.open(
            fileobj=file, mode="w|", format=tarfile.PAX_FORMAT, errors="surrogateescape",
            bufsize=_AT_ONCE_BYTES,
        ) as tar,
    ):  # fmt: skip
        packer.write(upper, tar)
    return {"entries": packer.entries}


def tar_digest(fd: int) -> str:
    """The diffID of the directory `fd`: the digest of the tar that `pack_upper` would write."""
    tar_hash = _Hashing()
    packer = _Packer(frozenset())
    with tarfile.open(
        fileobj=cast(IO[bytes], tar_hash), mode="w", format=tarfile.PAX_FORMAT,
        errors="surrogateescape",
    ) as tar:  # fmt: skip
        tar.copybufsize = _AT_ONCE_BYTES  # type: ignore[attr-defined]  # typeshed has it not
        packer.write(os.open(".", _FOLDER, dir_fd=fd), tar)
    return f"sha256:{tar_hash.hash.hexdigest()}"


def content_digest(fd: int) -> str:
    """A digest of all in the directory `fd` but times: what a rebuild should not change."""
    found = hashlib.sha256()
    for member, data in _Packer(frozenset()).below(os.open(".", _FOLDER, dir_fd=fd), ""):
        xattrs = {name: text for name, text in member.pax_headers.items() if name != "mtime"}
        facts = (
            member.name, member.type, member.mode, member.uid, member.gid, member.linkname,
            member.size, sorted(xattrs.items()),
        )  # fmt: skip
        found.update(repr(facts).encode(errors="surrogateescape"))
        if data is not None:
            with open(data, "rb") as source:
                found.update(hashlib.file_digest(source, "sha256").digest())
    return found.hexdigest()


class _Hashing:
    """A file that only hashes what is written to it."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self._at = 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at


class _Packer:
    def __init__(self, without: frozenset[str]) -> None:
        self._without = without
        self._seen: dict[tuple[int, int], str] = {}
        self.entries = 0

    def write(self, fd: int, tar: tarfile.TarFile) -> None:
        """Write the directory `fd`, which is taken over.

        Without itself: the root of a layer is no change, it has always been there.
        """
        for member, data in self.below(fd, ""):
            if data is None:
                tar.addfile(member)
            else:
                with open(data, "rb") as source:
                    tar.addfile(member, source)

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
