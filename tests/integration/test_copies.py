"""Copies of odd trees, in and out of containers and into snapshots: right, or a clear error."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.layouts import busybox, layer

import pytest_containers as pc
from pytest_containers.linux.files import remove
from pytest_containers.runtime.copying.receive import CopyWriter, write_copy

DEPTH = 3000
DEEP = f"""
import os, sys
os.chdir(sys.argv[1])
for _ in range({DEPTH}):
    if sys.argv[2] == "make":
        os.mkdir("d")
    os.chdir("d")
if sys.argv[2] == "make":
    with open("bottom", "w") as file:
        file.write("deep")
    os.link("bottom", "second")
print(open("bottom").read(), os.stat("second").st_nlink)
"""
TOO_LONG = "a path is longer than 4095 bytes"


@pytest.fixture
def box(engine: pc.Engine) -> Iterator[pc.Container]:
    with engine.run("host:", ["sleep", "1000"]) as container:
        yield container


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A pipe, a socket, two names of a file, a link, and names that are not UTF-8."""
    tree = tmp_path / "odd"
    (tree / "sub").mkdir(parents=True)
    os.mkfifo(tree / "pipe", 0o640)
    with socket.socket(socket.AF_UNIX) as server:
        # Addresses end at 108 bytes (unix(7)).
        here = os.open(tree, os.O_PATH)
        server.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    (tree / "first").write_text("same")
    (tree / "sub" / "second").hardlink_to(tree / "first")
    (tree / "link").symlink_to("nowhere")
    (tree / os.fsdecode(b"\xff\xfe")).write_text("x")
    (tree / "sub").chmod(0o2750)
    for path in (tree / "first", tree / "sub"):
        os.utime(path, ns=(0, 1_234_567_890_123_456_789))
    return tree


def test_pipes_are_copied_and_sockets_left_out(
    box: pc.Container, odd: Path, tmp_path: Path
) -> None:
    """As `docker cp` does."""
    box.copy_in(odd, "/srv/odd")
    listed = box.exec(
        ["find", "/srv/odd", "-printf", "%y %m %P\\n"], check=True
    ).stdout.splitlines()
    assert b"p 640 pipe" in listed
    assert b"l 777 link" in listed
    assert not [line for line in listed if line.endswith(b"socket")]
    assert box.exec(["stat", "-c", "%h %Y", "/srv/odd/first"], text=True).stdout == "2 1234567890\n"
    box.exec(["mknod", "/srv/odd/again", "p"], check=True)
    box.copy_out("/srv/odd", tmp_path / "back")
    back = tmp_path / "back"
    assert stat.S_ISFIFO((back / "pipe").lstat().st_mode)
    assert stat.S_ISFIFO((back / "again").lstat().st_mode)
    assert (back / "first").stat().st_ino == (back / "sub" / "second").stat().st_ino
    assert (back / "first").stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert (back / "sub").stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert (back / os.fsdecode(b"\xff\xfe")).read_text() == "x"
    assert stat.S_IMODE((back / "sub").stat().st_mode) == 0o750


def test_pipes_are_part_of_a_snapshot(engine: pc.Engine, box: pc.Container, odd: Path) -> None:
    box.copy_in(odd, "/srv/odd")
    image = box.snapshot()
    with engine.run(
        image, ["sh", "-c", "test -p /srv/odd/pipe && cat /srv/odd/sub/second"]
    ) as again:
        assert again.wait(60) == 0
        assert again.logs().stdout == "same"


def test_what_cannot_be_copied_is_told(box: pc.Container, odd: Path, tmp_path: Path) -> None:
    with pytest.raises(
        pc.ContainersError, match="socket to /srv in container .*: a socket cannot be copied"
    ):
        box.copy_in(odd / "socket", "/srv")
    with pytest.raises(
        pc.ContainersError, match="copy of /dev/null .*: a character device cannot be copied"
    ):
        box.copy_out("/dev/null", tmp_path / "null")
    assert not (tmp_path / "null").exists()
    box.copy_in(odd / "pipe", "/srv/pipe")
    box.copy_out("/srv/pipe", tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode)


def test_files_and_directories_do_not_replace_each_other(
    box: pc.Container, odd: Path, tmp_path: Path
) -> None:
    """As `docker cp` has it; nothing that was there is lost."""
    box.exec(
        [
            "sh",
            "-c",
            "mkdir -p /srv/odd/first; echo kept > /srv/odd/first/file; echo kept > /srv/sub",
        ],
        check=True,
    )
    with pytest.raises(pc.ContainersError, match="odd/first: a directory is there"):
        box.copy_in(odd, "/srv")
    with pytest.raises(
        pc.ContainersError, match="sub: a file is there, which a directory does not"
    ):
        box.copy_in(odd / "sub", "/srv/sub")
    assert box.exec(["cat", "/srv/odd/first/file", "/srv/sub"], text=True).stdout == "kept\nkept\n"
    (tmp_path / "back" / "second").mkdir(parents=True)
    box.copy_in(odd / "first", "/srv/second")
    with pytest.raises(pc.ContainersError, match="second: a directory is there"):
        box.copy_out("/srv/second", tmp_path / "back")


@pytest.fixture
def cleared(tmp_path: Path) -> Iterator[Path]:
    """A store whose deep trees the test's own cleanup does not see."""
    yield tmp_path / "store"
    with pc.Engine(home=tmp_path / "store") as engine:
        engine.images.cache_clear()


@pytest.mark.long
def test_deep_trees(cleared: Path, tmp_path: Path) -> None:
    """Deeper than a path is long, an interpreter recurses, and a process may have files open."""
    with pc.Engine(home=cleared) as engine, engine.run("host:", ["sleep", "1000"]) as box:
        _copy_deep_trees(engine, box, tmp_path)


def _copy_deep_trees(engine: pc.Engine, box: pc.Container, tmp_path: Path) -> None:
    assert box.exec(["python3", "-c", DEEP, "/srv", "make"], check=True).stdout == b"deep 2\n"
    image = box.snapshot()
    with engine.run(image, ["python3", "-c", DEEP, "/srv", "look"]) as again:
        assert again.wait(60) == 0, again.logs().stderr
        assert again.logs().stdout == "deep 2\n"
    # Either end may be the first to see it: the host's names may be longer.
    with pytest.raises(pc.ContainersError, match=f"{TOO_LONG}|File name too long"):
        box.copy_out("/srv/d", tmp_path / "back")
    tree = tmp_path / "tree"
    tree.mkdir()
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tree)
        for _ in range(DEPTH):
            os.mkdir("d")
            os.chdir("d")
        os.fchdir(here)
        with pytest.raises(pc.ContainersError, match=TOO_LONG):
            box.copy_in(tree, "/srv/tree")
    finally:
        os.fchdir(here)
        parent = os.open(tmp_path, os.O_RDONLY)
        for name in ("tree", "back"):
            remove(name, parent)
        os.close(parent)
        os.close(here)


def test_long_paths_arrive(box: pc.Container, tmp_path: Path) -> None:
    """All that a path can be, minus what it begins with."""
    deepest = tmp_path / "tree" / Path(*["d" * 99] * 35)
    deepest.mkdir(parents=True)
    (deepest / "file").write_text("far")
    box.copy_in(tmp_path / "tree", "/t")
    box.copy_out("/t", tmp_path / "back")
    assert (
        tmp_path / "back" / deepest.relative_to(tmp_path / "tree") / "file"
    ).read_text() == "far"


@pytest.mark.long
def test_deep_trees_cannot_be_layers_of_archives(cleared: Path, tmp_path: Path) -> None:
    archive = tmp_path / "base.tar"
    # A shell does not go deeper than a path is long; a directory that is moved does.
    half = "/d" * 1500
    script = f"mkdir -p /srv{half} /b{half}; cd /srv{half}; mv /b ."
    archive.write_bytes(layer(busybox("mkdir", "mv")))
    command = ["/bin/sh", "-c", script]
    with (
        pc.Engine(home=cleared) as engine,
        engine.run(f"rootfs:{archive}", command, wait_ready=False) as container,
    ):
        assert container.wait(60) == 0
        words = "longer than 4095 bytes, which no archive of a layer"
        with pytest.raises(pc.ImageError, match=words):
            container.commit("deep:1")
        assert container.snapshot().layers


HOSTILE = {
    "a NUL in its name": (tarfile.REGTYPE, "a\0b", "", "contains NUL"),
    "a name that leads out": (tarfile.REGTYPE, "x/../../../evil", "", "leads out"),
    "a hard link that leads out": (tarfile.LNKTYPE, "x", "../../../etc/passwd", "leads out"),
    "a file through a link": (tarfile.REGTYPE, "link/evil", "", "link"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_streams(tmp_path: Path, case: str) -> None:
    """A copy's stream is our own; its reader does not rely on that."""
    kind, name, target, words = HOSTILE[case]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, type_, linkname in ((".", tarfile.DIRTYPE, ""), ("link", tarfile.SYMTYPE, "..")):
            info = tarfile.TarInfo(path)
            info.type, info.linkname, info.mode = type_, linkname, 0o755
            tar.addfile(info)
        info = tarfile.TarInfo("x")
        info.type, info.linkname = kind, target
        info.pax_headers = {"path": name}
        tar.addfile(info)
    goal = tmp_path / "goal"
    goal.mkdir()
    reader, writer = os.pipe()
    folder = os.open(goal, os.O_RDONLY)
    with open(writer, "wb") as file:
        file.write(buffer.getvalue())
    with pytest.raises((pc.ContainersError, OSError), match=words):
        write_copy(reader, CopyWriter(folder, name="the copy", top="copy"))
    os.close(reader)
    os.close(folder)
    assert sorted(os.listdir(tmp_path)) == ["goal"]
    assert os.listdir(goal) == ["copy"]


def test_a_pipe_that_becomes_a_link_while_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A program in the container swaps it before it has got its mode; the link leads to the host.
    victim = tmp_path / "victim"
    victim.touch(0o600)
    box = tmp_path / "box"
    box.mkdir()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        pipe = tarfile.TarInfo(".")
        pipe.type, pipe.mode = tarfile.FIFOTYPE, 0o666
        tar.addfile(pipe)
    # What it finds in the place of what it has made.
    monkeypatch.setattr(
        os, "mknod", lambda leaf, *_, dir_fd: os.symlink(victim, leaf, dir_fd=dir_fd)
    )
    reader, writer = os.pipe()
    os.write(writer, stream.getvalue())
    os.close(writer)
    folder = os.open(box, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="became something else"):
            write_copy(reader, CopyWriter(folder, name="the copy", top="x"))
    finally:
        os.close(reader)
        os.close(folder)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
