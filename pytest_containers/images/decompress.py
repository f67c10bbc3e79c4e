"""Compressed streams: gzip, zstd, bzip2 and xz, told by their first bytes.

Output comes in pieces of bounded size, however much a piece of input claims to hold, and an archive
that grows out of all proportion is refused (CVE-2017-14992).

Runs in jobs of a bare interpreter: the standard library, and the two libraries below if there.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

PIECE_BYTES = 1 << 20
MAX_RATIO = 300
"""Of output to input, beyond `RATIO_APPLIES_BYTES`; gzip ends at 1032."""
RATIO_APPLIES_BYTES = 1 << 30

Read = Callable[[int], bytes]


class CompressionError(ValueError):
    """A stream that is broken, or a bomb, or needs a library that is not there."""


def _import_first(*names: str) -> Any:
    for name in names:
        with suppress(ImportError):
            return import_module(name)
    return None


# With the module, not later: a job may not be able to read packages once its ids have changed.
_zstd = _import_first("compression.zstd", "backports.zstd")
_isal = _import_first("isal.igzip_lib")


class _Zlib:
    """zlib's own object with the interface of the others; several times slower than isal's."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._object.decompress(self._object.unconsumed_tail + data, max_length)

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def needs_input(self) -> bool:
        return not self._object.unconsumed_tail and not self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data


def _gzip() -> Any:
    return _isal.IgzipDecompressor(flag=_isal.DECOMP_GZIP) if _isal is not None else _Zlib()


def _zstandard() -> Any:
    if _zstd is None:
        raise CompressionError(
            "it is compressed with zstd, which this Python does not know; "
            "pip install backports.zstd"
        )
    return _zstd.ZstdDecompressor()


_FORMATS: tuple[tuple[bytes, str, Callable[[], Any]], ...] = (
    (b"\x1f\x8b", "gzip", _gzip),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstandard),
    (b"BZh", "bzip2", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\0", "xz", lzma.LZMADecompressor),
)
_MAGIC_BYTES = 6


def decompressed(read: Read, chunk_bytes: int = 1 << 17) -> Iterator[bytes]:
    """Yield the contents of a stream, compressed or not, in pieces up to `PIECE_BYTES`.

    Args:
        read: Returns some bytes, at most as many as it is asked for, or none at the end.

    Raises:
        CompressionError: See there.
    """
    start = b""
    while len(start) < _MAGIC_BYTES and (chunk := read(chunk_bytes)):
        start += chunk
    for magic, name, make in _FORMATS:
        if start.startswith(magic):
            yield from _members(start, read, chunk_bytes, magic, name, make)
            return
    while start:
        yield start
        start = read(PIECE_BYTES)


def _members(
    data: bytes, read: Read, chunk_bytes: int, magic: bytes, name: str, make: Callable[[], Any]
) -> Iterator[bytes]:
    """Decompress streams of one format that follow each other, as several writers make them."""
    taken_bytes = len(data)
    produced_bytes = 0
    while data:
        stream = make()
        while True:
            try:
                piece = stream.decompress(data, PIECE_BYTES)
            except Exception as error:  # noqa: BLE001 - each library has errors of its own
                raise CompressionError(f"its {name} data is broken: {error}") from None
            if piece:
                produced_bytes += len(piece)
                if (
                    produced_bytes > RATIO_APPLIES_BYTES
                    and produced_bytes > MAX_RATIO * taken_bytes
                ):
                    raise CompressionError(
                        f"it grows to more than {MAX_RATIO} times its size; it is hostile"
                    )
                yield piece
            if stream.eof:
                break
            data = b""
            if stream.needs_input:
                data = read(chunk_bytes)
                taken_bytes += len(data)
                if not data:
                    raise CompressionError(f"its {name} data ends too early")
        data = stream.unused_data or read(chunk_bytes)
        taken_bytes += 0 if stream.unused_data else len(data)
        if not data.strip(b"\0"):  # padding up to a block of a tape
            while data and not data.strip(b"\0"):
                data = read(chunk_bytes)
                taken_bytes += len(data)
        while 0 < len(data) < len(magic) and (chunk := read(chunk_bytes)):
            data += chunk
        if data and not data.startswith(magic):
            raise CompressionError(f"something that is not {name} follows its {name} data")
