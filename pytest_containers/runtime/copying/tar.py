"""A reader of tar streams, for archives that nobody vouches for.

Reads ustar, GNU (long names, old and new sparse files, numbers in base 256) and PAX (POSIX.1-2017,
pax; tar(5) of libarchive has the rest). Everything that an archive claims is bounded before memory
is spent on it; what cannot be understood is an error and never a guess.

Runs in jobs of a bare interpreter: the standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

BLOCK = 512
MAX_NAME_BYTES = 4096
"""More than any path that a system call takes (PATH_MAX)."""
MAX_HEADER_BYTES = 1 << 20
"""Extended headers of one member; those that exist have a few hundred bytes."""
MAX_SPARSE_PARTS = 1 << 20
"""Of a sparse file."""
_ZEROS = bytes(BLOCK)
_WITHOUT_DATA = frozenset(b"123456")
_XATTR = b"SCHILY.xattr."

FILE, LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = range(7)


class TarError(ValueError):
    """The stream is not a tar, or broken, or claims what cannot be."""


class Member(NamedTuple):
    """An entry of an archive.

    Attributes:
        name: As written, which may lead anywhere.
        kind: `FILE` to `FIFO`.
        mode: Permission bits.
        size: Bytes of the file once it is there; 0 for all that is no file.
        mtime_ns: Since the epoch.
        linkname: Of links; as written.
        xattrs: Value by name.
        stored: Bytes in the archive; differs from `size` for sparse files only.
        sparse: ``(offset, length)`` of the parts that are stored, or None for all of it.
        device: Major and minor number, of a device.
    """

    name: str
    kind: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    linkname: str = ""
    xattrs: dict[str, bytes] | None = None
    stored: int = 0
    sparse: list[tuple[int, int]] | None = None
    device: tuple[int, int] = (0, 0)


class Reader:
    """Members of a stream, in order; the data of each is read, or skipped by the next.

    Args:
        chunks: The stream, in pieces of any size but 0.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = memoryview(b"")
        self._unread = 0  # of the current member, with its padding
        self._padding = 0
        self._defaults: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Member]:
        return self

    def __next__(self) -> Member:
        """The next member.

        Raises:
            TarError: There is none where one must be.
        """
        self._skip(self._unread + self._padding)
        self._unread = self._padding = 0
        extended: dict[bytes, bytes] = {}
        long_name = long_link = None
        sparse_parts: list[tuple[bytes, bytes]] = []
        while True:
            header = self._exactly(BLOCK, at_end=not (extended or long_name or long_link))
            if not header or header == _ZEROS:
                if extended or long_name is not None or long_link is not None:
                    raise TarError("an extended header describes nothing")
                raise StopIteration
            _check_sum(header)
            kind = header[156]
            if kind == 0x78:  # x
                records = self._records(header)
                extended = dict(records)
                sparse_parts = [
                    record for record in records if record[0].startswith(b"GNU.sparse.")
                ]
            elif kind == 0x67:  # g
                self._defaults.update(self._records(header))
            elif kind == 0x4C:  # L
                long_name = self._long(header)
            elif kind == 0x4B:  # K
                long_link = self._long(header)
            elif kind == 0x56:  # V, the label of a tape
                self._data(header, MAX_HEADER_BYTES)
            else:
                break
        if self._defaults:
            extended = {**self._defaults, **extended}
        return self._member(header, kind, extended, long_name, long_link, sparse_parts)

    def data(self) -> Iterator[memoryview]:
        """Yield the stored data of the current member, in pieces."""
        while self._unread:
            if not self._chunk:
                self._next_chunk()
            piece = self._chunk[: self._unread]
            self._chunk = self._chunk[len(piece) :]
            self._unread -= len(piece)
            yield piece

    def drain(self) -> None:
        """Read what follows the last member: padding, mostly."""
        self._chunk = memoryview(b"")
        for _ in self._chunks:
            pass

    # ------------------------------------------------------------------ members

    def _member(
        self,
        header: bytes,
        kind: int,
        extended: dict[bytes, bytes],
        long_name: bytes | None,
        long_link: bytes | None,
        sparse_parts: list[tuple[bytes, bytes]],
    ) -> Member:
        ustar = header[257:262] == b"ustar"
        name, link = header[:100].partition(b"\0")[0], header[157:257].partition(b"\0")[0]
        if ustar and header[263:265] == b"00" and header[345]:
            name = header[345:500].partition(b"\0")[0] + b"/" + name
        size = _number(header[124:136])
        mtime_ns = _number(header[136:148]) * 1_000_000_000
        uid, gid = _number(header[108:116]), _number(header[116:124])
        name = name if long_name is None else long_name
        link = link if long_link is None else long_link
        xattrs: dict[str, bytes] | None = None
        if extended:
            name, link = extended.get(b"path", name), extended.get(b"linkpath", link)
            size = _decimal(extended, b"size", size)
            uid, gid = _decimal(extended, b"uid", uid), _decimal(extended, b"gid", gid)
            mtime_ns = _time(extended, mtime_ns)
            xattrs = {
                key[len(_XATTR) :].decode("utf-8", "surrogateescape"): value
                for key, value in extended.items()
                if key.startswith(_XATTR)
            }
        kind = _kind(kind, name)
        stored, sparse = (0 if kind != FILE else size), None
        if size < 0 or stored > 1 << 62:
            raise TarError(f"a member has {size} bytes")
        self._unread, self._padding = stored, -stored % BLOCK
        if kind == FILE:
            if header[156] == 0x53:  # S
                sparse, size = self._old_sparse(header)
            elif sparse_parts:
                sparse, size, name = self._new_sparse(sparse_parts, name)
            if sparse is not None:
                stored = self._unread
                _check_sparse(sparse, size, stored)
        if size > 1 << 62:
            raise TarError(f"a member has {size} bytes")
        return Member(
            _text(name),
            kind,
            _number(header[100:108]) & 0o7777,
            uid,
            gid,
            size if kind == FILE else 0,
            mtime_ns,
            _text(link),
            xattrs,
            stored,
            sparse,
            _device(header) if kind in (CHARACTER, BLOCK_DEVICE) else (0, 0),
        )

    def _old_sparse(self, header: bytes) -> tuple[list[tuple[int, int]], int]:
        """GNU's: a table in the header, and more of it in blocks that follow."""
        table = _sparse_table(header[386:482])
        continued = header[482]
        while continued:
            block = self._exactly(BLOCK)
            table += _sparse_table(block[:504])
            continued = block[504]
            if len(table) > MAX_SPARSE_PARTS:
                raise TarError("a sparse file has too many parts")
        return table, _number(header[483:495])

    def _new_sparse(
        self, parts: list[tuple[bytes, bytes]], name: bytes
    ) -> tuple[list[tuple[int, int]] | None, int, bytes]:
        """PAX's ways: parts as records (0.0), as one record (0.1), or before the data (1.0)."""
        fields = dict(parts)
        name = fields.get(b"GNU.sparse.name", name)
        size = _decimal(fields, b"GNU.sparse.realsize", _decimal(fields, b"GNU.sparse.size", -1))
        if size < 0:
            return None, self._unread, name
        if fields.get(b"GNU.sparse.major") == b"1":
            return self._sparse_before_data(), size, name
        if b"GNU.sparse.map" in fields:
            numbers = [_int(number) for number in fields[b"GNU.sparse.map"].split(b",") if number]
        else:
            keys = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
            numbers = [_int(value) for key, value in parts if key in keys]
        return list(zip(numbers[::2], numbers[1::2], strict=False)), size, name

    def _sparse_before_data(self) -> list[tuple[int, int]]:
        table, numbers, expected = b"", list[int](), 1
        while len(numbers) < expected:
            line, newline, rest = table.partition(b"\n")
            if not newline:
                if len(table) > 32 or self._unread < BLOCK:
                    raise TarError("the table of a sparse file is broken")
                table += self._exactly(BLOCK)
                self._unread -= BLOCK
                continue
            table = rest
            numbers.append(_int(line))
            if len(numbers) == 1:
                expected = 1 + 2 * numbers[0]
                if numbers[0] > MAX_SPARSE_PARTS:
                    raise TarError("a sparse file has too many parts")
        return list(zip(numbers[1::2], numbers[2::2], strict=True))

    def _records(self, header: bytes) -> list[tuple[bytes, bytes]]:
        """``length key=value\\n``, where the length counts all of the record."""
        data = self._data(header, MAX_HEADER_BYTES)
        records, offset = [], 0
        while offset < len(data) and data[offset]:
            digits, _, _ = data[offset : offset + 20].partition(b" ")
            length = _int(digits)
            record = data[offset + len(digits) + 1 : offset + length]
            key, equals, value = record[:-1].partition(b"=")
            if length <= len(digits) or not equals or record[-1:] != b"\n":
                raise TarError("an extended header is broken")
            if value or key not in (b"path", b"linkpath"):
                records.append((key, value))
            offset += length
        return records

    def _long(self, header: bytes) -> bytes:
        return self._data(header, MAX_NAME_BYTES + 1).partition(b"\0")[0]

    def _data(self, header: bytes, limit: int) -> bytes:
        size = _number(header[124:136])
        if not 0 <= size <= limit:
            raise TarError(f"a header claims a name or attributes of {size} bytes")
        data = self._exactly(size)
        self._skip(-size % BLOCK)
        return data

    # ------------------------------------------------------------------- stream

    def _next_chunk(self) -> None:
        chunk = next(self._chunks, b"")
        if not chunk:
            raise TarError("the archive ends too early")
        self._chunk = memoryview(chunk)

    def _exactly(self, size: int, *, at_end: bool = False) -> bytes:
        """`size` bytes; with `at_end`, none if the stream ends here."""
        if len(self._chunk) >= size:
            data = bytes(self._chunk[:size])
            self._chunk = self._chunk[size:]
            return data
        parts, missing = [], size
        while missing:
            if not self._chunk:
                if at_end and missing == size:
                    chunk = next(self._chunks, b"")
                    if not chunk:
                        return b""
                    self._chunk = memoryview(chunk)
                else:
                    self._next_chunk()
            piece = self._chunk[:missing]
            self._chunk = self._chunk[len(piece) :]
            missing -= len(piece)
            parts.append(piece)
        return b"".join(parts)

    def _skip(self, size: int) -> None:
        while size:
            if not self._chunk:
                self._next_chunk()
            step = min(size, len(self._chunk))
            self._chunk = self._chunk[step:]
            size -= step


def _kind(flag: int, name: bytes) -> int:
    if flag in _WITHOUT_DATA:
        return flag - 0x30
    if flag == 0x4D:  # M: what another volume began
        raise TarError("a part of a multi-volume archive is no archive")
    # Before ustar, a directory was a file whose name ends with a slash.
    return DIRECTORY if flag == 0x44 or (flag == 0 and name.endswith(b"/")) else FILE


def _device(header: bytes) -> tuple[int, int]:
    return _number(header[329:337]), _number(header[337:345])


def _check_sum(header: bytes) -> None:
    claimed = _number(header[148:156])
    actual = sum(header) - sum(header[148:156]) + 8 * 0x20
    if claimed != actual:
        high = sum(1 for byte in header[:148] + header[156:] if byte >= 0x80)
        if claimed != actual - 256 * high:  # some summed up signed bytes
            raise TarError("a header's checksum is wrong")


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # base 256, two's complement
        value = int.from_bytes(field, "big", signed=False)
        bits = 8 * len(field) - 1
        return value - (1 << (bits + 1)) if field[0] & 0x40 else value & ((1 << bits) - 1)
    digits = field.partition(b"\0")[0].strip()
    if not digits:
        return 0
    try:
        return int(digits, 8)
    except ValueError:
        raise TarError(f"{digits!r} in a header is not a number") from None


def _int(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 20:
        raise TarError(f"{digits[:30]!r} in an extended header is not a number")
    return int(digits)


def _decimal(records: dict[bytes, bytes], key: bytes, otherwise: int) -> int:
    digits = records.get(key)
    return otherwise if not digits else _int(digits)


def _time(records: dict[bytes, bytes], otherwise: int) -> int:
    mtime = records.get(b"mtime")
    if not mtime:
        return otherwise
    seconds, _, fraction = mtime.partition(b".")
    try:
        whole = int(seconds)
    except ValueError:
        raise TarError(f"{mtime[:30]!r} is not a time") from None
    return whole * 1_000_000_000 + _int((fraction[:9] or b"0").ljust(9, b"0"))


def _sparse_table(field: bytes) -> list[tuple[int, int]]:
    parts = []
    for offset in range(0, len(field) - 23, 24):
        if not field[offset]:
            break
        parts.append(
            (_number(field[offset : offset + 12]), _number(field[offset + 12 : offset + 24]))
        )
    return parts


def _check_sparse(parts: list[tuple[int, int]], size: int, stored: int) -> None:
    end = total = 0
    for offset, length in parts:
        if offset < end or length < 0:
            raise TarError("the parts of a sparse file are not in order")
        end, total = offset + length, total + length
    if end > size or total != stored:
        raise TarError("the parts of a sparse file do not fit its size")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
