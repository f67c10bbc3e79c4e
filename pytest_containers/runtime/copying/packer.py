"""Trees as tar streams, for copies between a host and a container."""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Sequence
from typing import IO, cast

from pytest_containers.linux.files import data_parts
from pytest_containers.runtime.copying.tar import MAX_SPARSE_PARTS
from pytest_containers.runtime.copying.walk import walk
from pytest_containers.runtime.copying.writer import MAX_PATH_BYTES

_SWAPPED = "it became something else while it was copied"
_SWAPS = (errno.EINVAL, errno.ELOOP, errno.ENXIO)  # of a link that is none any more, and so on
_BLOCK_BYTES, _READ_BYTES = 512, 1 << 17
_KINDS = {
    stat.S_IFBLK: "a block device", stat.S_IFCHR: "a character device", stat.S_IFSOCK: "a socket",
}  # fmt: skip


def tar_member(path: str, status: os.stat_result) -> tarfile.TarInfo:
    """Return a member with a file's attributes; PAX keeps what a second is too coarse for."""
    member = tarfile.TarInfo(path)
    member.mode = stat.S_IMODE(status.st_mode)
    member.uid, member.gid = status.st_uid, status.st_gid
    member.mtime = int(status.st_mtime)
    fraction = status.st_mtime_ns % 1_000_000_000
    if fraction:
        member.pax_headers = {"mtime": f"{member.mtime}.{fraction:09d}"}
    return member


def pack_tree(top: int, file: IO[bytes]) -> None:
    """Write a file or directory, and all that is in it, as a tar.

    Its members are called ``.`` and ``./…``. Links stay links, and hard links within the tree
    hard links; sockets and devices, which mean nothing elsewhere, are left out.

    Args:
        top: A descriptor of it, which may be of O_PATH; of a link itself with O_NOFOLLOW.

    Raises:
        OSError: Something cannot be read, is nothing that can be copied, or has a path that is
            too long; named after its path.
    """
    with tarfile.open(
        fileobj=file, mode="w|", format=tarfile.PAX_FORMAT, errors="surrogateescape"
    ) as tar:
        packer = _CopyPacker(tar)
        status = os.fstat(top)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is not None:
            raise OSError(errno.EOPNOTSUPP, f"{kind} cannot be copied")
        packer.add_top(top, status)
        if stat.S_ISDIR(status.st_mode):
            for entry in walk(top):
                if not entry.is_done:
                    packer.add(f"./{entry.path}", entry.parent, entry.leaf, entry.status)


class _CopyPacker:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._links: dict[tuple[int, int], str] = {}

    def add_top(self, top: int, status: os.stat_result) -> None:
        # By descriptor: its name may be another's by now.
        self._add(tar_member(".", status), status, top, "", f"/proc/self/fd/{top}")

    def add(self, path: str, parent: int, leaf: str, status: os.stat_result) -> None:
        if stat.S_IFMT(status.st_mode) in _KINDS:
            return
        if len(os.fsencode(path)) - 2 > MAX_PATH_BYTES:
            shown = f"{path[2:42]}…"
            raise OSError(
                errno.ENAMETOOLONG, f"a path is longer than {MAX_PATH_BYTES} bytes", shown
            )
        try:
            self._add(tar_member(path, status), status, parent, leaf, leaf)
        except OSError as error:
            words = _SWAPPED if error.errno in _SWAPS else error.strerror or str(error)
            raise OSError(error.errno, words, path[2:]) from None

    def _add(
        self, member: tarfile.TarInfo, status: os.stat_result, parent: int, leaf: str, file: str
    ) -> None:
        mode = status.st_mode
        if stat.S_ISLNK(mode):
            member.type, member.linkname = tarfile.SYMTYPE, os.readlink(leaf, dir_fd=parent)
        elif stat.S_ISDIR(mode):
            member.type = tarfile.DIRTYPE
        elif stat.S_ISFIFO(mode):
            member.type = tarfile.FIFOTYPE
        elif (first := self._first_name(member.name, status)) is not None:
            member.type, member.linkname = tarfile.LNKTYPE, first
        else:
            self._add_file(member, parent, leaf, file)
            return
        self._tar.addfile(member)

    def _first_name(self, name: str, status: os.stat_result) -> str | None:
        """Return the first name of a file that has several; None if this is it."""
        if status.st_nlink < 2:
            return None
        first = self._links.setdefault((status.st_dev, status.st_ino), name)
        return None if first == name else first

    def _add_file(self, member: tarfile.TarInfo, parent: int, leaf: str, file: str) -> None:
        # Whatever has the name by now: a pipe must not be waited for.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if leaf else 0)
        with open(os.open(file, flags, dir_fd=parent if leaf else None), "rb") as source:
            status = os.fstat(source.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.ESTALE, _SWAPPED)
            member.size = status.st_size
            # Else a file that takes no room here could fill the disk of the other side.
            parts = None
            if status.st_blocks * _BLOCK_BYTES < status.st_size:
                parts = data_parts(source.fileno(), status.st_size)
            if parts is None or parts == [(0, status.st_size)]:
                self._tar.addfile(member, source)
            else:
                self._add_sparse(member, source, parts)

    def _add_sparse(
        self, member: tarfile.TarInfo, source: IO[bytes], parts: Sequence[tuple[int, int]]
    ) -> None:
        """Add a file without its holes, in the format 1.0 of GNU's tar for PAX."""
        if len(parts) > MAX_SPARSE_PARTS:
            raise OSError(errno.EFBIG, f"it has more than {MAX_SPARSE_PARTS} holes")
        numbers = [len(parts), *(number for part in parts for number in part)]
        table = "".join(f"{number}\n" for number in numbers).encode()
        table += bytes(-len(table) % _BLOCK_BYTES)
        member.pax_headers = {
            **member.pax_headers,
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.realsize": str(member.size),
        }
        member.size = len(table) + sum(length for _, length in parts)
        reader = cast("IO[bytes]", _PartsReader(source.fileno(), table, parts))
        self._tar.addfile(member, reader)


class _PartsReader:
    """Reads a table, and then parts of a file as if they were one."""

    def __init__(self, fd: int, table: bytes, parts: Sequence[tuple[int, int]]) -> None:
        self._fd = fd
        self._ready = table
        self._parts = iter(parts)
        self._offset = self._left = 0

    def read(self, size: int) -> bytes:
        """Return as many bytes, fewer only at the end."""
        while len(self._ready) < size:
            if not self._left:
                self._offset, self._left = next(self._parts, (0, 0))
            data = os.pread(self._fd, min(self._left, _READ_BYTES), self._offset)
            if not data:  # the end, or the file has become shorter
                break
            self._offset, self._left = self._offset + len(data), self._left - len(data)
            self._ready += data
        data, self._ready = self._ready[:size], self._ready[size:]
        return data
