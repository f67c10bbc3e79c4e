"""Names and hard links of a layer's members: what dockerd loads is taken, what leads out is not.

`CASES` has what each archive becomes, and that dockerd, Podman and umoci agree.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.layouts import Layout, Member, digest, layer, member

import pytest_containers as pc
from pytest_containers.images.manifest import architecture

pytestmark = pytest.mark.slow
DIRECTORY = {"type": tarfile.DIRTYPE}
TARGET = member("t", b"t")


@pytest.fixture(scope="module")
def engine(module_engine: pc.Engine) -> pc.Engine:
    return module_engine


def hard(name: str, target: str) -> Member:
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def link(name: str, target: str) -> Member:
    return member(name, type=tarfile.SYMTYPE, linkname=target)


# Files that are one and the same stand together.
CASES: dict[str, tuple[list[Member], str]] = {
    "a name through a directory": ([member("x", **DIRECTORY), member("x/../y", b"1")], "x y"),
    "a name through nothing": ([member("x/../y", b"1")], "y"),
    "a name through a link": (
        [member("o/s", **DIRECTORY), link("x", "o/s"), member("x/../y", b"1")], "o o/s x y"),
    "a name of the root": ([member("x/..", **DIRECTORY), member("y", b"1")], "y"),
    "a directory": ([member("x/../d", **DIRECTORY), member("d/f", b"1")], "d d/f"),
    "a hard link through a directory": ([TARGET, hard("h", "x/../t")], "h=t"),
    "an absolute hard link": ([TARGET, hard("h", "/t")], "h=t"),
    "a hard link from here": ([TARGET, hard("h", "./t")], "h=t"),
    "a hard link up and down": ([TARGET, hard("h", "a/b/../../t")], "h=t"),
    "a hard link up from where it is": ([TARGET, hard("a/b/h", "../../t")], "a a/b a/b/h=t"),
    "a hard link through a link": (
        [member("d", **DIRECTORY), member("d/t", b"1"), link("l", "d"), hard("h", "l/t")],
        "d d/t=h l"),
    "a hard link through an absolute link": (
        [member("d", **DIRECTORY), member("d/t", b"1"), link("l", "/d"), hard("h", "l/t")],
        "d d/t=h l"),
    "a hard link behind a link": (
        [member("d", **DIRECTORY), TARGET, link("l", "d"), hard("l/h", "t")], "d d/h=t l"),
    "a hard link to a link": ([TARGET, link("s", "t"), hard("h", "s")], "h=s t"),
    "a file through a link that leads out": ([link("s", "../.."), member("s/y", b"1")], "s y"),
}  # fmt: skip
# dockerd and Podman refuse equal names in a layer; umoci and image-spec take the last one.
EQUAL: dict[str, tuple[list[Member], str]] = {
    "a hard link over a link to it": ([TARGET, link("h", "t"), hard("h", "t")], "h=t"),
    "a hard link over a link": ([TARGET, link("h", "/etc/passwd"), hard("h", "t")], "h=t"),
    "a hard link over a directory": (
        [TARGET, member("h", **DIRECTORY), member("h/x", b""), hard("h", "t")], "h=t"),
    "a hard link over a file": ([TARGET, member("h", b"1"), hard("h", "t")], "h=t"),
}  # fmt: skip
REFUSED: dict[str, tuple[list[Member], str]] = {
    "a name above the root": ([member("x/../../y", b"1")], "leads out of the archive"),
    "a hard link above the root": ([TARGET, hard("h", "../t")], "leads out of the archive"),
    "a hard link too far up": ([TARGET, hard("a/h", "../../t")], "leads out of the archive"),
    "a hard link before its target": (
        [hard("h", "t"), TARGET], "'h' is a hard link to 't', which is not in the archive before it"),
    "a hard link to itself": ([TARGET, hard("t", "t")], "not in the archive before it"),
    "a hard link to a directory": ([member("t", **DIRECTORY), hard("h", "t")], "h: Operation not permitted"),
    "a name with NUL": ([member("x", b"x", pax_headers={"path": "a\0b"})], "contains NUL"),
}  # fmt: skip


def listing(tree: Path) -> str:
    """All paths in order; names of one inode are joined."""
    names: dict[int, list[str]] = {}
    for folder, folders, files in os.walk(tree):
        for name in folders + files:
            path = Path(folder, name)
            names.setdefault(path.lstat().st_ino, []).append(str(path.relative_to(tree)))
    return " ".join(sorted("=".join(sorted(same)) for same in names.values()))


@pytest.mark.parametrize("case", {**CASES, **EQUAL})
def test_taken(engine: pc.Engine, layout: Layout, case: str) -> None:
    members, expected = {**CASES, **EQUAL}[case]
    assert listing(engine.image(layout.image([layer(members)])).layers[0].path) == expected


@pytest.mark.parametrize("case", REFUSED)
def test_refused(engine: pc.Engine, layout: Layout, case: str) -> None:
    members, words = REFUSED[case]
    with pytest.raises(pc.ImageError, match=words):
        engine.image(layout.image([layer(members)]))


@pytest.mark.needs("umoci")
@pytest.mark.parametrize("case", {**CASES, **EQUAL})
def test_umoci_agrees(layout: Layout, tmp_path: Path, case: str) -> None:
    members, expected = {**CASES, **EQUAL}[case]
    layout.image([layer(members)])
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    image = f"{layout.path}:1"
    command = ["umoci", "raw", "unpack", *rootless, "--image", image, str(tmp_path / "tree")]
    subprocess.run(command, check=True, capture_output=True)
    assert listing(tmp_path / "tree") == expected


def saved(path: Path, data: bytes) -> Path:
    """An image of one layer as `docker save` writes it."""
    config = {
        "architecture": architecture(), "os": "linux", "config": {"Cmd": ["/x"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(data)]},
    }  # fmt: skip
    manifest = [
        {"Config": "config.json", "RepoTags": ["localhost/names:1"], "Layers": ["layer.tar"]}
    ]
    files = {
        "config.json": json.dumps(config).encode(),
        "layer.tar": data,
        "manifest.json": json.dumps(manifest).encode(),
    }
    path.write_bytes(layer([member(name, contents) for name, contents in files.items()]))
    return path


def exported(run: Callable[..., str], archive: Path, tmp_path: Path) -> str:
    """What a program makes of an image, by its own export."""
    run("load", "-i", str(archive))
    container = run("create", "--network=none", "localhost/names:1").split()[-1]
    run("export", "-o", str(tmp_path / "export.tar"), container)
    run("rm", container)
    run("rmi", "localhost/names:1")
    own = ("dev", "etc", "proc", "sys", "run", ".dockerenv")
    names: dict[str, list[str]] = {}
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "export.tar").read_bytes())) as tar:
        for entry in tar:
            if entry.name.split("/")[0] not in own:
                names.setdefault(entry.linkname if entry.islnk() else entry.name, []).append(
                    entry.name
                )
    return " ".join(sorted("=".join(sorted(same)) for same in names.values()))


@pytest.mark.alone
@pytest.mark.needs("root", "docker")
def test_docker_agrees(docker: Callable[..., str], tmp_path: Path) -> None:
    for case, (members, expected) in CASES.items():
        shown = exported(docker, saved(tmp_path / "image.tar", layer(members)), tmp_path)
        assert shown == expected, case


@pytest.mark.alone
@pytest.mark.needs("root", "podman")
@pytest.mark.long
def test_podman_agrees(podman: Callable[..., str], tmp_path: Path) -> None:
    for case, (members, expected) in CASES.items():
        if case == "a hard link to a link":
            continue  # its copy of the root file system has two links
        shown = exported(podman, saved(tmp_path / "image.tar", layer(members)), tmp_path)
        assert shown == expected, case
