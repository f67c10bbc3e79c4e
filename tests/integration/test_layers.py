"""What a layer's archive becomes on disk, entry by entry (image-spec layer.md), however it is written."""

from __future__ import annotations

import gzip
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.layouts import Layout, Member, busybox, layer, member, output

import pytest_containers as pc


@pytest.fixture(scope="module")
def engine(module_engine: pc.Engine) -> pc.Engine:
    return module_engine


pytestmark = pytest.mark.slow
DIRECTORY = {"type": tarfile.DIRTYPE}
LOWER = [
    member("d", **DIRECTORY), member("d/lower", b"x"), member("d/sub", **DIRECTORY),
    member("d/sub/lower", b"x"), member("f", b"lower\n"),
]  # fmt: skip
HIDING: dict[str, tuple[list[Member], str]] = {
    "a file": ([member(".wh.f")], "/d/lower /d/sub /f"),
    "a directory": ([member("d/.wh.sub")], "/d/lower /f"),
    "everything in a directory": ([member("d", **DIRECTORY), member("d/.wh..wh..opq"), member("d/new")], "/d/new /f"),
    "everything, told last": ([member("d", **DIRECTORY), member("d/new"), member("d/.wh..wh..opq")], "/d/new /f"),
    "everything, told first": ([member("d/.wh..wh..opq"), member("d", **DIRECTORY), member("d/new")], "/d/new /f"),
    "a directory that is made anew": ([member(".wh.d"), member("d", **DIRECTORY), member("d/new")], "/d/new /f"),
    "one that was made anew before": ([member("d", **DIRECTORY), member("d/new"), member(".wh.d")], "/d/new /f"),
    "one whose own entry is missing": ([member(".wh.d"), member("d/new")], "/d/new /f"),
    "a file that is made anew": ([member(".wh.f"), member("f", b"upper\n")], "/d/lower /d/sub /f"),
    "nothing": ([member("d", **DIRECTORY), member("d/new")], "/d/lower /d/new /d/sub /f"),
    "what is not there": ([member(".wh.nothing")], "/d/lower /d/sub /f"),
}  # fmt: skip


@pytest.mark.parametrize("what", HIDING)
def test_whiteouts(engine: pc.Engine, layout: Layout, base: bytes, what: str) -> None:
    members, expected = HIDING[what]
    image = layout.image([base, layer(LOWER), layer(members)])
    shown = output(engine, image, "echo /d/* /f*")
    gone = "/f" not in shown.split() and what == "a file"
    assert shown.replace(" /f*", "") == ("/d/lower /d/sub\n" if gone else f"{expected}\n")


REPLACED: dict[str, tuple[list[Member], str]] = {
    "a file by a file": ([member("x", b"1"), member("x", b"2", mode=0o600)], "file 2"),
    "a file by a directory": ([member("x", b"1"), member("x", **DIRECTORY), member("x/in")], "directory in"),
    "a directory by a file": ([member("x", **DIRECTORY), member("x/in"), member("x", b"2")], "file 2"),
    "a link by a directory": (
        [member("to", **DIRECTORY), member("x", type=tarfile.SYMTYPE, linkname="to"), member("x", **DIRECTORY), member("x/in")],
        "directory in",
    ),
    "a directory by itself": ([member("x", **DIRECTORY), member("x/in"), member("x", **DIRECTORY)], "directory in"),
    "a file by a link": ([member("x", b"1"), member("x", type=tarfile.SYMTYPE, linkname="/nowhere")], "link /nowhere"),
}  # fmt: skip


@pytest.mark.parametrize("what", REPLACED)
def test_the_last_of_equal_names_counts(
    engine: pc.Engine, layout: Layout, base: bytes, what: str
) -> None:
    members, expected = REPLACED[what]
    tree = engine.image(layout.image([base, layer(members)])).layers[1].path
    path = tree / "x"
    kind, _, content = expected.partition(" ")
    if kind == "link":
        assert os.readlink(path) == content
    elif kind == "directory":
        assert not path.is_symlink()
        assert os.listdir(path) == [content]
    else:
        assert stat.S_ISREG(path.lstat().st_mode)
        assert path.stat().st_size == 1


def test_times(engine: pc.Engine, layout: Layout, base: bytes) -> None:
    """Of directories too, although their entries come later; of those that are not listed, as well."""
    members = [
        member("d", **DIRECTORY, mtime=1_000_000_000), member("d/f", b"x", mtime=1_100_000_000.25),
        member("d/l", type=tarfile.SYMTYPE, linkname="f", mtime=1_200_000_000),
        member("not/listed/f", b"x", mtime=1_300_000_000), member("d/later", b"x"),
    ]  # fmt: skip
    tree = engine.image(layout.image([base, layer(members)])).layers[1].path
    assert (tree / "d").stat().st_mtime == 1_000_000_000
    assert (tree / "d" / "f").stat().st_mtime_ns == 1_100_000_000_250_000_000
    assert (tree / "d" / "l").lstat().st_mtime == 1_200_000_000
    assert (
        (tree / "not" / "listed").stat().st_mtime == (tree / "not").stat().st_mtime == 1_300_000_000
    )


@pytest.mark.parametrize("format", ["gnu", "posix"])
def test_what_gnu_tar_writes(
    engine: pc.Engine, layout: Layout, base: bytes, tmp_path: Path, format: str
) -> None:
    """Long names and links, sparse files, hard links."""
    root = tmp_path / "root"
    deep = root / ("n" * 120) / ("m" * 120)
    deep.mkdir(parents=True)
    (deep / "file").write_text("deep")
    (root / "link").symlink_to("t" * 200)
    (root / "hard").hardlink_to(deep / "file")
    with (root / "sparse").open("wb") as file:
        file.seek(8 << 20)
        file.write(b"end")
    command = [
        "tar",
        f"--format={format}",
        "--sparse",
        "--numeric-owner",
        "--owner=0",
        "--group=0",
        "-C",
        root,
        "-c",
        ".",
    ]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    tree = engine.image(layout.image([base, data])).layers[1].path
    assert (tree / deep.relative_to(root) / "file").read_text() == "deep"
    assert os.readlink(tree / "link") == "t" * 200
    assert (tree / "hard").stat().st_ino == (tree / deep.relative_to(root) / "file").stat().st_ino
    assert (tree / "sparse").read_bytes() == (root / "sparse").read_bytes()
    assert (tree / "sparse").stat().st_blocks * 512 < 1 << 20


def pax(name: str) -> Member:
    return member("x", b"x", pax_headers={"path": name})


REFUSED: dict[str, tuple[list[Member], str]] = {
    "a name of 64 KiB": ([member("n/" * 32768, b"x")], "claims a name or attributes of|longer than 4095"),
    "a name with NUL": ([pax("a\0b")], "contains NUL"),
    "a name that leads out": ([pax("a/../../../x")], "leads out of the archive"),
    "a link that leads out": ([member("x", type=tarfile.LNKTYPE, linkname="../../x")], "leads out"),
    "a whiteout of nothing": ([member("d/.wh.")], "whiteout of ''"),
    "a whiteout that leads out": ([member(".wh...")], "whiteout of '..'"),
    "a file as a directory": ([member("f", b"x"), member("f/in", b"x")], "f: Not a directory|File exists"),
    "a circle of links": (
        [member("a", type=tarfile.SYMTYPE, linkname="b"), member("b", type=tarfile.SYMTYPE, linkname="a"), member("a/x", b"")],
        "a: Too many levels of symbolic links",
    ),
    "a parent that becomes a link": (
        [member("d", **DIRECTORY), member("d/x", b""), member("d", type=tarfile.SYMTYPE, linkname="/etc"), member("d/y", b"")],
        "d: No such file or directory",
    ),
    "a link of the kernel's": (
        [member("proc", type=tarfile.SYMTYPE, linkname="/proc/self/root"), member("proc/x", b"")],
        "proc: |No such file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_hostile_members(engine: pc.Engine, layout: Layout, tmp_path: Path, what: str) -> None:
    members, words = REFUSED[what]
    home = engine.images.library.store.home
    before = sorted((home / "layers").rglob("tree"))
    with pytest.raises(pc.ImageError, match=words):
        engine.image(layout.image([layer(members)]))
    assert sorted((home / "layers").rglob("tree")) == before
    assert os.listdir(home / "tmp") == []


HARMLESS: dict[str, tuple[list[Member], Callable[[Path], bool]]] = {
    "a link in place of the root": (
        [member("/.", type=tarfile.SYMTYPE, linkname="/etc"), member("x", b"x")],
        lambda tree: not tree.is_symlink() and (tree / "x").is_file(),
    ),
    "an absolute name": ([member("/abs/x", b"x")], lambda tree: (tree / "abs" / "x").is_file()),
    "a link to the host, and a file through it": (
        [member("etc", type=tarfile.SYMTYPE, linkname="/"), member("etc/x", b"x")],
        lambda tree: (tree / "x").is_file(),
    ),
    "a file in place of a link to the host": (
        [member("x", type=tarfile.SYMTYPE, linkname="/etc/passwd"), member("x", b"mine")],
        lambda tree: (tree / "x").read_bytes() == b"mine",
    ),
    "a hard link to a link": (
        [member("l", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
         member("x", type=tarfile.LNKTYPE, linkname="l")],
        lambda tree: (tree / "x").is_symlink(),
    ),
    "an archive in an archive": (
        [member("x", gzip.compress(layer([member("../x", b"")])))],
        lambda tree: (tree / "x").read_bytes()[:2] == b"\x1f\x8b",
    ),
    "a set-user-ID file": ([member("x", b"x", mode=0o4755)], lambda tree: (tree / "x").stat().st_mode & 0o7777 == 0o4755),
    "devices": (
        [member("x", type=tarfile.BLKTYPE, devmajor=8, devminor=0)],
        lambda tree: (tree / "x").is_socket(),
    ),
    "words for overlayfs": (
        [member("x", b"x", pax_headers={f"SCHILY.xattr.{name}": "y" for name in (
            "user.overlay.metacopy", "trusted.overlay.redirect", "security.selinux", "user.fine")})],
        lambda tree: os.listxattr(tree / "x") in (["user.fine"], ["security.selinux", "user.fine"]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HARMLESS)
def test_strange_members(engine: pc.Engine, layout: Layout, base: bytes, what: str) -> None:
    members, holds = HARMLESS[what]
    tree = engine.image(layout.image([base, layer(members)])).layers[1].path
    assert holds(tree)


@pytest.mark.long
def test_trees_of_any_depth_can_be_removed(layout: Layout, base: bytes, tmp_path: Path) -> None:
    """A link leads to where a path ends, so that paths get longer than any call takes."""
    deep = "d/" * 1500
    members = [member(deep.rstrip("/"), **DIRECTORY)]
    members += [member("next", type=tarfile.SYMTYPE, linkname=deep), member(f"next/{deep}x", b"x")]
    with pc.Engine(home=tmp_path / "store") as engine:
        engine.images.load(layout.image([base, layer(members)]).removeprefix("oci:"), name="deep:1")
        assert output(engine, "deep:1", "echo fine") == "fine\n"
    with pc.Engine(home=tmp_path / "store") as engine:
        engine.images.cache_clear()
        assert not list((tmp_path / "store" / "layers").rglob("tree"))


@pytest.mark.parametrize("count", [1000, pytest.param(4000, marks=pytest.mark.long)])
def test_many_members(layout: Layout, base: bytes, tmp_path: Path, count: int) -> None:
    members = [member(f"d{n % 50}/f{n}", b"x", mode=0o644) for n in range(count)]
    with pc.Engine(home=tmp_path / "store") as engine:
        tree = engine.image(layout.image([base, layer(members)])).layers[1].path
        assert sum(len(files) for _, _, files in os.walk(tree)) == count


@pytest.mark.needs("id range")
@pytest.mark.long
def test_directories_that_are_not_listed_are_what_they_are_below(
    engine: pc.Engine, layout: Layout, base: bytes
) -> None:
    lower = [
        member("t", **DIRECTORY, mode=0o1777, mtime=1_000_000_000),
        member("own", **DIRECTORY, mode=0o700, uid=7, gid=8), member("own/inner", **DIRECTORY, mode=0o711),
    ]  # fmt: skip
    upper = [member("t/x", b""), member("own/inner/x", b""), member("new/x", b"")]
    top = [member("t", **DIRECTORY, mode=0o770), member("own/y", b"")]
    look = "stat -c '%a %u %g %n' /t /own /own/inner /new"
    programs = layer(busybox("stat"))
    config = {"Env": ["PATH=/bin"]}
    image = layout.image([programs, layer(lower), layer(upper)], config)
    expected = "1777 0 0 /t\n700 7 8 /own\n711 0 0 /own/inner\n755 0 0 /new\n"
    assert output(engine, image, look) == expected
    assert output(engine, image, look) == expected
    higher = Layout(layout.path.parent / "higher")
    image = higher.image([programs, layer(lower), layer(upper), layer(top)], config)
    assert output(engine, image, look) == expected.replace("1777", "770")
    with engine.run(image, ["/bin/sh", "-c", "echo > /made"], wait_ready=False) as container:
        container.wait(60)
        container.commit("parents:1")
    assert (
        output(engine, "parents:1", f"{look}; stat -c %n /made")
        == expected.replace("1777", "770") + "/made\n"
    )
    other = Layout(layout.path.parent / "other")
    plain = other.image([programs, layer([member("new", **DIRECTORY)]), layer(upper)])
    assert len(engine.image(plain).layers) == 3  # nothing differs, so nothing is added


@pytest.mark.parametrize("engine_options", [{}, {"force_fallback": True}], ids=["", "older kernel"])
def test_a_layer_may_come_twice(
    own_engine: Callable[..., pc.Engine],
    layout: Layout,
    base: bytes,
    engine_options: dict[str, bool],
) -> None:
    """Each step of a build that changes nothing is the same empty layer."""
    empty, first = (
        layer([]),
        layer([member("f", b"first\n"), member("d", **DIRECTORY), member("d/in")]),
    )
    hiding = layer([member(".wh.f"), member("d/.wh..wh..opq"), member("d/new")])
    image = layout.image([base, first, empty, hiding, empty, first, empty])
    shown = output(own_engine(**engine_options), image, "echo $(read x < /f; echo $x) /d/*")
    assert shown == "first /d/in /d/new\n"


def device(path: str, major: int, minor: int, kind: bytes = tarfile.CHRTYPE) -> Member:
    return member(path, mode=0o666, type=kind, devmajor=major, devminor=minor)


USUAL = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}


def test_usual_devices_work(engine: pc.Engine, layout: Layout) -> None:
    """They are those of the machine, wherever a layer has them; as in a chroot of a server's."""
    nodes = [device(f"jail/dev/{name}", *numbers) for name, numbers in USUAL.items()]
    image = layout.image([layer([*busybox("stat", "head", "wc"), *nodes])])
    script = """
        cd /jail/dev; stat -c %n:%t:%T *
        echo x > null; head -c 3 zero random urandom -q | wc -c; (echo x > full) 2> null || echo is full
    """
    expected = [f"{name}:{numbers[0]:x}:{numbers[1]:x}" for name, numbers in sorted(USUAL.items())]
    lines = output(engine, image, script).splitlines()
    assert lines[:6] == expected
    assert lines[6] == "9"
    assert lines[-1] == "is full"


def test_devices_work_in_what_is_made_of_an_image(
    engine: pc.Engine, layout: Layout, base: bytes
) -> None:
    """In a snapshot, after a restart, and not where a layer above removed or replaced them."""
    nodes = [
        device(f"jail/{name}", *USUAL["null"]) for name in ("kept", "gone", "file", "linked/x")
    ]
    above = [
        member("jail/.wh.gone"), member("jail/file", b"mine\n", mode=0o644),
        member("jail/.wh.linked"), member("jail/linked", type=tarfile.SYMTYPE, linkname="/etc"),
    ]  # fmt: skip
    image = layout.image([base, layer(nodes), layer(above)])
    script = (
        "cd /jail; echo swallowed > kept; test -c kept && echo /jail/* && read x < file && echo $x"
    )
    expected = "/jail/file /jail/kept /jail/linked\nmine\n"
    with engine.run(image, ["/bin/sh", "-c", script], wait_ready=False) as container:
        assert container.wait(60) == 0
        container.restart()
        assert container.wait(60) == 0
        assert str(container.logs()) == expected * 2
        assert output(engine, container.snapshot(), script) == expected


def test_other_devices_fail_on_opening_and_are_told_of(
    own_engine: Callable[..., pc.Engine], layout: Layout, base: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    nodes = [
        device("jail/disk", 8, 0, tarfile.BLKTYPE), device("jail/mem", 1, 1),
        device("jail/null", *USUAL["null"]), device("dev/disk", 8, 0, tarfile.BLKTYPE),
    ]  # fmt: skip
    engine = own_engine()
    image = layout.image([base, layer(nodes)])
    script = """
        for name in disk mem; do
            (echo x > /jail/$name) 2> /dev/null || echo no $name
            (read x < /jail/$name) 2> /dev/null || echo no $name
        done
        test -e /dev/disk || echo own dev
    """
    assert output(engine, image, script) == "no disk\nno disk\nno mem\nno mem\nown dev\n"
    told = [record.getMessage().partition(": ")[2] for record in caplog.records]
    end = "that containers cannot have; opening it fails"
    assert told == [f"/jail/disk is a device (b 8:0) {end}", f"/jail/mem is a device (c 1:1) {end}"]
