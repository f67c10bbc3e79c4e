"""COPY and ADD of odd trees: right, or a clear error."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.builds import PATH, Build, Lines, shell
from helpers.layouts import Layout

import pytest_containers as pc
from pytest_containers.linux.files import remove

DEEP = 1900
"""More than an interpreter recurses or a process has files open; not longer than a path."""
TOO_DEEP = 3000
TOO_LONG = "its path is longer than 4095 bytes"
NAMES = [b"a b", b"-dash", b"back\\slash", b"*", b"new\nline", b"\xff\xfe", b".wh.x", b"n" * 255]


@pytest.fixture(scope="module")
def builder(home: Path, base_layer: bytes) -> Iterator[pc.Engine]:
    """An engine whose deep layers the cleanup of pytest does not see, which recurses."""
    layout = Layout(home / "layout")
    layout.image([base_layer], {"Env": [f"PATH={PATH}"], "Cmd": ["/bin/sh"]})
    with pc.Engine(home=home / "store") as engine:
        engine.images.load(home / "layout", name="base:1")
        yield engine
    with pc.Engine(home=home / "store") as engine:
        engine.images.cache_clear()
        assert not list((home / "store" / "layers").glob("*/*/tree/x/d"))


@contextmanager
def deep(context: Path, depth: int) -> Iterator[None]:
    """A tree that is deeper than a path is long, which other cleanups do not see."""
    here, parent = os.open(".", os.O_RDONLY), os.open(context, os.O_RDONLY)
    try:
        os.fchdir(parent)
        for name in ["deep", *("d" for _ in range(depth))]:
            os.mkdir(name)
            os.chdir(name)
        Path("bottom").write_text("deep")
        os.fchdir(here)
        yield
    finally:
        os.fchdir(here)
        remove("deep", parent)
        os.close(parent)
        os.close(here)


def archive(path: Path, depth: int, *, listed: bool) -> None:
    """An archive of the same tree, whose directories it lists or only implies."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for level in range(1, depth + 1 if listed else 1):
            info = tarfile.TarInfo("/".join("d" * level))
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        info = tarfile.TarInfo("/".join("d" * depth) + "/bottom")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"deep"))


FIND = "cd /x; for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19; do cd {}; done; cat bottom"
SCRIPT = FIND.format("/".join("d" * 100))


@pytest.mark.long
def test_a_deep_context(build: Build, builder: pc.Engine, context: Path) -> None:
    with deep(context, DEEP):
        text = "FROM base:1 AS one\nCOPY deep /y/\nFROM base:1\nCOPY --from=one /y /x/\n"
        assert shell(builder, build(text), SCRIPT) == "deep"
    with deep(context, TOO_DEEP), pytest.raises(pc.BuildError, match=TOO_LONG) as refused:
        build("FROM base:1\nCOPY deep /x/\n")
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.long
def test_a_deep_archive(build: Build, builder: pc.Engine, context: Path, listed: bool) -> None:
    """Once a cube of the depth, and an error of the interpreter."""
    archive(context / "a.tar", DEEP, listed=listed)
    assert shell(builder, build("FROM base:1\nADD a.tar /x/\n"), SCRIPT) == "deep"
    archive(context / "a.tar", TOO_DEEP, listed=listed)
    with pytest.raises(pc.BuildError, match=TOO_LONG) as refused:
        build("FROM base:1\nADD a.tar /x/\n")
    assert len(str(refused.value)) < 1000


def test_links_are_seen_when_an_archive_makes_or_replaces_them(
    build: Build, builder: pc.Engine, context: Path
) -> None:
    """Also below what was looked at before."""
    with tarfile.open(context / "a.tar", "w") as tar:
        for name, target in (
            ("a/b/one", ""), ("a/link", "b"), ("a/link/two", ""), ("a/link", "c"), ("a/c/x", ""),
            ("a/link/three", ""), ("a/b", ""), ("a/b", "c"), ("a/b/four", ""),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = (tarfile.SYMTYPE, target) if target else (b"0", "")
            tar.addfile(info)
    image = build("FROM base:1\nADD a.tar /x/\n")
    assert shell(builder, image, "cd /x/a; ls . c") == ".:\nb\nc\nlink\n\nc:\nfour\nthree\nx\n"


def test_odd_names(build: Build, builder: pc.Engine, context: Path) -> None:
    for place in (context / "names", context / "packed"):
        place.mkdir()
        for name in NAMES:
            Path(os.fsdecode(os.path.join(os.fsencode(place), name))).write_text("x")
    with tarfile.open(context / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(context / "packed", ".")
    image = build(
        "FROM base:1 AS one\nCOPY names /x/\nFROM base:1\nCOPY names /x/\nADD a.tar /y/\nCOPY --from=one /x /z/\n"
    )
    script = "cd /{}; ls; cat ./*"
    x, y, z = (shell(builder, image, script.format(name)) for name in "xyz")
    assert x == y == z
    assert x.count("x" * len(NAMES[:-2])) == 1  # the shell's * leaves out .wh.x


def test_pipes_sockets_and_devices(build: Build, builder: pc.Engine, context: Path) -> None:
    """Pipes are copied, sockets left out, and devices left out and told of."""
    odd = context / "odd"
    odd.mkdir()
    os.mkfifo(odd / "pipe", 0o640)
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(odd, os.O_PATH)  # addresses end at 108 bytes (unix(7))
        server.bind(f"/proc/self/fd/{folder}/socket")
        os.close(folder)
    if os.geteuid() == 0:
        os.mknod(odd / "null", 0o20666, os.makedev(1, 3))
    shown = Lines()
    text = "FROM base:1 AS one\nCOPY odd /x/\nFROM base:1\nCOPY --from=one /x /y/\n"
    image = build(text, display=shown)
    assert shell(builder, image, "cd /y; stat -c '%n %F %a' *") == "pipe fifo 640\n"
    told = "device nodes of the context are left out: odd/null" in shown.text
    assert told == (os.geteuid() == 0)
    with pytest.raises(pc.BuildError, match="'odd/socket' of the context .* is a socket"):
        build("FROM base:1\nCOPY odd/socket /x\n")
