"""Archives that ADD unpacks: tars, plain or compressed."""

from __future__ import annotations

import bz2
import lzma
import os
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

from pytest_containers.images.decompress import CompressionError, decompressed
from pytest_containers.model.errors import BuildError

_CHUNK_BYTES = 1 << 20
_BLOCK = 512
Open = Callable[[], int]
"""Gives a descriptor, to be closed."""


def is_archive(open_file: Open) -> bool:
    """Return whether a file is a tar, plain or compressed."""
    fd = open_file()
    try:
        block = b""
        for piece in _plain(fd):
            block += piece
            if len(block) >= _BLOCK:
                break
        if len(block) < _BLOCK:
            return False
        tarfile.TarInfo.frombuf(block[:_BLOCK], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, CompressionError, OSError, EOFError, lzma.LZMAError, ValueError):
        return False
    finally:
        os.close(fd)
    return True


def send(open_file: Open, pipe: int) -> None:
    """Write an archive to a pipe as a plain tar."""
    fd = open_file()
    try:
        for piece in _plain(fd):
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(pipe, rest) :]
    except (CompressionError, EOFError, lzma.LZMAError, ValueError) as error:
        raise BuildError(f"the archive is broken: {error}") from None
    finally:
        os.close(fd)


def _plain(fd: int) -> Iterator[bytes]:
    start = os.pread(fd, 6, 0)
    maker: Callable[[], Any] | None = None
    if start.startswith(b"BZh"):
        maker = bz2.BZ2Decompressor
    elif start.startswith(b"\xfd7zXZ\0"):
        maker = lzma.LZMADecompressor
    if maker is None:
        yield from decompressed(lambda size: os.read(fd, size))
        return
    decompressor = maker()
    while data := os.read(fd, _CHUNK_BYTES):
        while data:
            yield decompressor.decompress(data)
            data = decompressor.unused_data  # another stream may follow
            if data or decompressor.eof:
                decompressor = maker()
