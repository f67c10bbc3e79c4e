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

from pytest_containers.model.errors import ImageError
from pytest_containers.runtime.copying.packer import tar_member
from pytest_containers.runtime.copying.walk import FOLDER, Entry, walk
from pytest_containers.runtime.copying.whiteouts import is_whiteout
from pytest_containers.runtime.copying.writer import MAX_PATH_BYTES

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_OWN = "user.overlay."
_XATTR = "SCHILY.xattr."
_AT_ONCE_BYTES = 1 << 20


def pack_upper(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Write the directory `fds[0]` as a tar to the pipe `fds[1]`, in the order of names.

    Args:
        args: ``without``: paths that are left out, mount points mostly.

    Returns:
        ``entries``: how many members there are.
    """
    upper, pipe = fds
    packer = _LayerPacker(frozenset(args["without"]))
    with (
        open(pipe, "wb") as file,
        tarfile.open(
            fileobj=file,
            mode="w|",
            format=tarfile.PAX_FORMAT,
            errors="surrogateescape",
            bufsize=_AT_ONCE_BYTES,
        ) as tar,
    ):
        packer.write(upper, tar)
    return {"entries": packer.entries}


def tar_digest(fd: int) -> str:
    """Return the diffID of the directory `fd`: the digest of the tar by `pack_upper`."""
    tar_hash = _Hashing()
    packer = _LayerPacker(frozenset())
    with tarfile.open(
        fileobj=cast(IO[bytes], tar_hash),
        mode="w",
        format=tarfile.PAX_FORMAT,
        errors="surrogateescape",
    ) as tar:
        tar.copybufsize = _AT_ONCE_BYTES  # type: ignore[attr-defined]  # typeshed has it not
        packer.write(fd, tar)
    return f"sha256:{tar_hash.hash.hexdigest()}"


def content_digest(fd: int) -> str:
    """Digest all in the directory `fd` but times: what a rebuild should not change."""
    digest = hashlib.sha256()
    for member, data in _LayerPacker(frozenset()).members(fd):
        xattrs = {name: value for name, value in member.pax_headers.items() if name != "mtime"}
        facts = (
            member.name,
            member.type,
            member.mode,
            member.uid,
            member.gid,
            member.linkname,
            member.size,
            sorted(xattrs.items()),
        )
        digest.update(repr(facts).encode(errors="surrogateescape"))
        if data is not None:
            with open(data, "rb") as source:
                digest.update(hashlib.file_digest(source, "sha256").digest())
    return digest.hexdigest()


class _Hashing:
    """A file that only hashes the data written to it."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self._at = 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at


class _LayerPacker:
    """Members of a layer, in the order of names.

    Args:
        without: Paths that are left out.
    """

    def __init__(self, without: frozenset[str]) -> None:
        self._without = without
        self._seen: dict[tuple[int, int], str] = {}
        self.entries = 0

    def write(self, fd: int, tar: tarfile.TarFile) -> None:
        """Write all that is in the directory `fd`.

        Without itself: the root of a layer is no change, it has always been there.
        """
        for member, data in self.members(fd):
            if data is None:
                tar.addfile(member)
            else:
                with open(data, "rb") as source:
                    tar.addfile(member, source)

    def members(self, fd: int) -> Iterator[tuple[tarfile.TarInfo, int | None]]:
        """Yield what is in the directory `fd`, each with a descriptor of its data."""
        for entry in walk(fd):
            if entry.is_done:
                continue
            if entry.path in self._without:
                entry.skip = True
                continue
            yield from self._of(entry)

    def _of(self, entry: Entry) -> Iterator[tuple[tarfile.TarInfo, int | None]]:
        mode = entry.status.st_mode
        is_empty_file = stat.S_ISREG(mode) and not entry.status.st_size
        if (stat.S_ISCHR(mode) or is_empty_file) and is_whiteout(entry.parent, entry.leaf):
            above = entry.path.removesuffix(entry.leaf)
            yield self._marker(f"{above}{_WHITEOUT}{entry.leaf}"), None
            return
        if stat.S_ISCHR(mode):
            return
        if stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
            return  # they mean nothing in an image
        if len(os.fsencode(entry.path)) > MAX_PATH_BYTES:
            raise ImageError(
                f"/{entry.path[:40]}…: its path is longer than {MAX_PATH_BYTES} bytes, which no "
                "archive of a layer can have; a snapshot without a name can"
            )
        member = tar_member(entry.path, entry.status)
        self.entries += 1
        if stat.S_ISDIR(mode):
            member.type = tarfile.DIRTYPE
            fd = os.open(entry.leaf, FOLDER, dir_fd=entry.parent)
            try:
                _add_xattrs(member, fd)
                is_opaque = _is_opaque(fd)
            finally:
                os.close(fd)
            yield member, None
            if is_opaque:
                yield self._marker(f"{entry.path}/{_OPAQUE}"), None
        elif stat.S_ISLNK(mode):
            member.type = tarfile.SYMTYPE
            member.linkname = os.readlink(entry.leaf, dir_fd=entry.parent)
            yield member, None
        elif stat.S_ISFIFO(mode):
            member.type = tarfile.FIFOTYPE
            yield member, None
        else:
            yield self._file(entry, member)

    def _file(self, entry: Entry, member: tarfile.TarInfo) -> tuple[tarfile.TarInfo, int | None]:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(entry.leaf, flags, dir_fd=entry.parent)
        status = os.fstat(fd)
        identity = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and identity in self._seen:
            os.close(fd)
            member.type, member.linkname = tarfile.LNKTYPE, self._seen[identity]
            return member, None
        self._seen[identity] = entry.path
        member.size = status.st_size
        _add_xattrs(member, fd)
        return member, fd

    def _marker(self, path: str) -> tarfile.TarInfo:
        self.entries += 1
        member = tarfile.TarInfo(path)
        member.mode = 0
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
