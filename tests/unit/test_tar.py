"""The tar reader: what others write, what is broken, what is hostile."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.images import decompress
from pytest_containers.runtime.copying import tar


def read(data: bytes, chunk: int = 7000) -> list[tuple[tar.Member, bytes]]:
    pieces = (data[at : at + chunk] for at in range(0, len(data), chunk))
    reader = tar.Reader(iter(pieces))
    return [(member, b"".join(bytes(piece) for piece in reader.data())) for member in reader]


def made(format: int, *members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, errors="surrogateescape") as file:
        for member, data in members:
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=80
)


@pytest.mark.parametrize("format", FORMATS[1:])
@given(
    path=st.lists(names, min_size=1, max_size=5), data=st.binary(max_size=3000),
    mode=st.integers(0, 0o7777), uid=st.integers(0, 1 << 40), mtime=st.integers(0, 1 << 35),
    chunk=st.integers(1, 2000),
)  # fmt: skip
def test_reads_what_the_standard_library_writes(
    format: int, path: list[str], data: bytes, mode: int, uid: int, mtime: int, chunk: int
) -> None:
    info = tarfile.TarInfo("/".join(path))
    info.mode, info.uid, info.mtime = mode, uid, mtime
    other = tarfile.TarInfo("after")
    other.type, other.linkname = tarfile.SYMTYPE, "/".join(path)
    (member, found), (link, _) = read(made(format, (info, data), (other, b"")), chunk)
    assert (member.name, member.kind, member.mode) == (info.name, tar.FILE, mode)
    assert (member.uid, member.size, member.mtime_ns) == (uid, len(data), mtime * 10**9)
    assert found == data
    assert (link.name, link.kind, link.linkname) == ("after", tar.SYMLINK, info.name)


@given(st.binary(max_size=4000), st.integers(1, 600))
def test_never_fails_otherwise_than_it_says(data: bytes, chunk: int) -> None:
    with contextlib.suppress(tar.TarError):
        read(data, chunk)


@given(st.integers(0, 5000), st.integers(0, 255))
def test_a_changed_byte_is_an_error_or_another_member(at: int, value: int) -> None:
    info = tarfile.TarInfo("x" * 150)
    info.pax_headers = {"SCHILY.xattr.user.a": "b", "mtime": "1.5"}
    data = bytearray(made(tarfile.PAX_FORMAT, (info, b"contents")))
    data[at % len(data)] = value
    with contextlib.suppress(tar.TarError):
        read(bytes(data))


def test_extended_headers() -> None:
    info = tarfile.TarInfo("name")
    info.pax_headers = {"SCHILY.xattr.user.bin": "a\udcff=\n", "mtime": "1234.000000567"}
    ((member, _),) = read(made(tarfile.PAX_FORMAT, (info, b"")))
    assert member.xattrs == {"user.bin": b"a\xff=\n"}
    assert member.mtime_ns == 1234_000000567


@pytest.mark.parametrize("format", ["gnu", "posix", "oldgnu"])
def test_sparse_files_of_gnu_tar(tmp_path: Path, format: str) -> None:
    path = tmp_path / "sparse"
    parts = [(0, b"start"), (1 << 20, b"middle" * 1000), (3 << 20, b"x")]
    with path.open("wb") as file:
        for offset, data in parts:
            file.seek(offset)
            file.write(data)
        file.truncate(5 << 20)
    versions = {"gnu": [], "oldgnu": [], "posix": ["0.0", "0.1", "1.0"]}[format] or [""]
    for version in versions:
        extra = [f"--sparse-version={version}"] if version else []
        done = subprocess.run(
            ["tar", "-C", tmp_path, "--sparse", f"--format={format}", *extra, "-cf", "-", "sparse"],
            capture_output=True, check=True,
        )  # fmt: skip
        ((member, data),) = read(done.stdout)
        assert (member.name, member.size) == ("sparse", 5 << 20)
        assert member.sparse is not None
        whole = bytearray(member.size)
        at = 0
        for offset, length in member.sparse:
            whole[offset : offset + length] = data[at : at + length]
            at += length
        assert bytes(whole) == path.read_bytes()


def block(name: bytes = b"x", size: bytes = b"0", kind: bytes = b"0", **fields: bytes) -> bytes:
    header = bytearray(512)
    header[0 : len(name)] = name
    header[100:107] = b"0000644"
    header[124 : 124 + len(size)] = size
    header[156:157] = kind
    header[257:265] = fields.get("magic", b"ustar\x0000")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


HOSTILE = {
    "no tar at all": b"\x01" * 600,
    "cut in a header": block()[:300],
    "cut in a file": block(size=b"00000001000") + b"x" * 10,
    "a negative size": block(size=b"\xff" * 12),
    "a size beyond everything": block(size=b"\x80" + b"\xff" * 11),
    "a name of 64 KiB": block(kind=b"L", size=b"00000200000") + b"n" * 65536,
    "a header of gigabytes": block(kind=b"x", size=b"77777777777"),
    "a record that is longer than its header": block(kind=b"x", size=b"00000000020") + b"99 path=x\n".ljust(512, b"\0"),
    "a record without a length": block(kind=b"x", size=b"00000000020") + b"path=abcdefghi\n\n".ljust(512, b"\0"),
    "an extended header of nothing": block(kind=b"x", size=b"00000000013") + b"11 path=ab\n".ljust(512, b"\0") + bytes(1024),
    "a wrong checksum": block()[:5] + b"y" + block()[6:],
    "letters for a number": block(size=b"0000000abc"),
    "a part of another volume": block(kind=b"M"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_streams(name: str) -> None:
    with pytest.raises(tar.TarError):
        read(HOSTILE[name])


def test_memory_is_not_spent_on_claims() -> None:
    """A stream may go on for ever: nothing of it is kept."""

    def endless() -> Iterator[bytes]:
        yield block(size=b"77777777777")
        while True:
            yield b"\0" * 1000

    reader = tar.Reader(endless())
    member = next(reader)
    assert member.size == 0o77777777777
    for _, piece in zip(range(1000), reader.data(), strict=False):
        assert len(piece) <= 1000


# ------------------------------------------------------------- compressed streams


def unpacked(data: bytes, chunk: int = 1000) -> bytes:
    source = io.BytesIO(data)
    return b"".join(decompress.decompressed(source.read, chunk))


@pytest.mark.parametrize("library", ["isal", "zlib"])
@pytest.mark.parametrize("members", [1, 3, 50])
def test_gzip(monkeypatch: pytest.MonkeyPatch, library: str, members: int) -> None:
    if library == "zlib":
        monkeypatch.setattr(decompress, "_isal", None)
    parts = [random.Random(n).randbytes(3000) + bytes(5000) for n in range(members)]
    data = b"".join(gzip.compress(part) for part in parts)
    assert unpacked(data) == b"".join(parts)
    assert unpacked(data + bytes(512)) == b"".join(parts)  # padding
    for bad in (
        data[:-1],
        data[: len(data) // 2],
        data + b"garbage",
        data[:40] + b"\0" + data[41:],
    ):
        with pytest.raises(decompress.CompressionError):
            unpacked(bad)


@pytest.mark.parametrize("name", ["zstd", "bz2", "xz"])
def test_other_formats(name: str) -> None:
    import bz2
    import lzma

    zstd = decompress._zstd
    compress = {"zstd": zstd.compress, "bz2": bz2.compress, "xz": lzma.compress}[name]
    data = os.urandom(10_000) + bytes(100_000)
    assert unpacked(compress(data) + compress(b"more")) == data + b"more"
    with pytest.raises(decompress.CompressionError):
        unpacked(compress(data)[:-3])


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_bombs(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Pieces stay small whatever the input claims, and the whole must stay in proportion."""
    monkeypatch.setattr(decompress, "RATIO_APPLIES_BYTES", 1 << 20)
    bomb = bytes(1 << 26)
    compress = gzip.compress if name == "gzip" else decompress._zstd.compress
    source = io.BytesIO(compress(bomb))
    sizes: list[int] = []
    with pytest.raises(decompress.CompressionError, match="grows to more than 300 times its size"):
        sizes.extend(len(piece) for piece in decompress.decompressed(source.read))
    assert max(sizes) <= decompress.PIECE_BYTES
    assert sum(sizes) < len(bomb)
