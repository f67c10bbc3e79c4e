"""The same Dockerfiles built here and by Docker: the same config, the same files."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.layouts import Layout, busybox, layer, member

import pytest_containers as pc

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.needs("root", "docker-registry")]

STYLES = Path(__file__).parents[2] / "dockerfiles"
PROGRAMS = (
    "ls", "cat", "id", "mkdir", "touch", "stat", "ln", "find", "env", "rm", "cp", "chmod", "chown",
    "sort", "sha256sum", "xargs", "true", "false", "test", "readlink", "dirname",
)  # fmt: skip
NPM = """#!/bin/sh
mkdir -p node_modules/left && echo 1.0.0 > node_modules/left/version
"""
NODE = """#!/bin/sh
test "$1" = server.js && echo "hello from node, $NODE_ENV" && ls node_modules
"""
GO = """#!/bin/sh
test "$1" = mod || { mkdir -p "$(dirname "$5")" && cp /usr/lib/static "$5"; }
"""
CONFIG = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
WHAT_THEY_SAY = {
    "python": "hello from a venv\n",
    "node": "hello from node, production\nleft\n",
    "caches": "one\ntwo\n",
    "child": "untitled\npage\n",
    "matrix": "plain\nplain  nothing\n",
    "heredocs": "hello world\n",
}
# Where something was mounted; BuildKit of today tidies that up, as we do.
LEFT_BY_OLD_DOCKERS = {"caches": ["./from|directory|755|0:0"]}
LIST = """\
FROM base:test
RUN --mount=from={name},target=/m cd /m && \
    find . -type d -exec stat -c '%n|%F|%a|%u:%g' '{{}}' + | sort > /listing && \
    find . -not -type d -exec stat -c '%n|%F|%a|%u:%g|%h' '{{}}' + | sort >> /listing && \
    find . -type f -print0 | sort -z | xargs -0 sha256sum >> /listing && \
    find . -type l | sort | while read -r l; do echo "$l -> $(readlink "$l")"; done >> /listing
"""


def _files(place: str) -> list[Any]:
    """All files of a directory of this machine."""
    found = []
    for folder, names, files in os.walk(place):
        names[:] = [name for name in names if name != "__pycache__"]
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                found.append(member(str(path).lstrip("/"), path.read_bytes(), mode=0o644))
    return found


def _bases() -> dict[str, list[bytes]]:
    """Layers of the base images."""
    users = b"root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/:/bin/sh\nnode:x:1000:1000::/:/bin/sh\n"
    folders = [member(name, type=b"5", mode=mode) for name, mode in (
        ("root", 0o700), ("tmp", 0o1777), ("usr/local/bin", 0o755), ("opt", 0o755),
    )]  # fmt: skip
    base = layer([
        *busybox(*PROGRAMS), *folders, member("etc/passwd", users, mode=0o644),
        member("etc/group", b"root:x:0:\ndaemon:x:1:\nnode:x:1000:\n", mode=0o644),
    ])  # fmt: skip
    real = os.path.realpath("/usr/bin/python3")
    name = os.path.basename(real)
    python = layer([
        *(one for one in busybox(real) if not one[0].startswith("bin/")),
        member(f"usr/bin/{name}", Path(real).read_bytes()),
        member("usr/bin/python3", type=b"2", linkname=name), *_files(f"/usr/lib/{name}"),
    ])  # fmt: skip
    node = layer([member("usr/bin/node", NODE.encode()), member("usr/bin/npm", NPM.encode())])
    static = Path(os.path.realpath("/sbin/ldconfig")).read_bytes()  # Debian links it statically
    go = layer([member("usr/local/bin/go", GO.encode()), member("usr/lib/static", static)])
    return {
        "base:test": [base], "python:test": [base, python], "node:test": [base, node],
        "go:test": [base, go],
    }  # fmt: skip


@pytest.fixture(scope="module")
def builder(
    tmp_path_factory: pytest.TempPathFactory, docker: Callable[..., str]
) -> Iterator[pc.Engine]:
    """An engine that has the base images, as Docker has them."""
    home = tmp_path_factory.mktemp("peers")
    with pc.Engine(home=home / "store") as engine:
        for name, layers in _bases().items():
            place = home / name.partition(":")[0]
            Layout(place).image(layers, CONFIG)
            engine.images.load(place, name=name)
            engine.images.save([name], home / "base.tar")
            docker("load", "--quiet", "-i", str(home / "base.tar"))
            (home / "base.tar").unlink()
        yield engine


@pytest.fixture
def context(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the style's directory, with what git does not keep."""
    place = tmp_path / "context"
    shutil.copytree(STYLES / request.getfixturevalue("style"), place, symlinks=True)
    # Docker would fetch the frontend that it names, from a registry that is not reached here.
    dockerfile = place / "Dockerfile"
    dockerfile.write_text(dockerfile.read_text().replace("# syntax=docker/dockerfile:1\n", ""))
    if request.getfixturevalue("style") == "archives":
        with tarfile.open(place / "tree.tar.gz", "w:gz") as tar:
            for name, mode, uid in (("bin/tool", 0o4755, 0), ("data/x", 0o600, 7)):
                info = tarfile.TarInfo(name)
                info.size, info.mode, info.uid, info.gid = 2, mode, uid, uid
                tar.addfile(info, io.BytesIO(b"x\n"))
            link = tarfile.TarInfo("data/link")
            link.type, link.linkname = tarfile.SYMTYPE, "../bin/tool"
            tar.addfile(link)
    return place


def listing(engine: pc.Engine, name: str, folder: Path) -> list[str]:
    """Names, kinds, modes, owners, bytes and targets of all in an image."""
    folder.mkdir()
    (folder / "Dockerfile").write_text(LIST.format(name=name))
    image = engine.build(folder, options=pc.BuildOptions(network="none"))
    with engine.run(image, ["cat", "/listing"], wait_ready=False) as container:
        container.wait(60)
        return str(container.logs().stdout).splitlines()


@pytest.mark.needs("docker")
@pytest.mark.parametrize(
    "style",
    [
        "python",
        "node",
        "go",
        "service",
        "caches",
        "trigger",
        "child",
        "matrix",
        "copies",
        "archives",
    ],
)
def test_docker_builds_the_same(
    style: str, builder: pc.Engine, docker: Callable[..., str], context: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("DOCKER_BUILDKIT", "1")
    if style == "child" and "trigger:test" not in docker("images"):
        parent = str(STYLES / "trigger")
        docker("build", "--quiet", "--network=none", "-t", "trigger:test", parent)
        builder.build(parent, tags=("trigger:test",), options=pc.BuildOptions(network="none"))
    name = f"{style}:test" if style == "trigger" else f"made/{style}:1"
    docker("build", "--quiet", "--network=none", "-t", name, str(context))
    docker("save", "-o", str(tmp_path / "docker.tar"), name)
    builder.images.load(tmp_path / "docker.tar", name="theirs:1")
    builder.build(context, tags=(name,), options=pc.BuildOptions(network="none"))
    ours, theirs = (
        listing(builder, one, tmp_path / folder) for one, folder in ((name, "o"), ("theirs:1", "t"))
    )
    assert ours == [line for line in theirs if line not in LEFT_BY_OLD_DOCKERS.get(style, ())]
    mine, other = (builder.images.inspect(one)["config"] for one in (name, "theirs:1"))
    for config in (mine, other):
        for key in [key for key, value in config.items() if not value]:
            del config[key]  # Docker writes null where we write nothing
        config.pop("ArgsEscaped", None)  # means something on Windows only
    assert mine == other


@pytest.mark.needs("docker", "podman")
@pytest.mark.parametrize("style", WHAT_THEY_SAY)
@pytest.mark.long
def test_they_run_what_is_built_here(
    style: str, builder: pc.Engine, docker: Callable[..., str], podman: Callable[..., str],
    context: Path, plain_registry: str,
) -> None:  # fmt: skip
    options = pc.BuildOptions(network="none")
    if style == "child":
        builder.build(STYLES / "trigger", tags=("trigger:test",), options=options)
    name = f"{plain_registry}/built/{style}:1"
    image = builder.build(context, tags=(name,), options=options)
    builder.images.push(name)
    said = WHAT_THEY_SAY[style]
    assert docker("run", "--rm", "--network=none", name) == said
    podman("pull", "-q", "--tls-verify=false", name)
    assert (
        podman(
            "run",
            "--rm",
            "--network=none",
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=1000:1000",
            name,
        )
        == said
    )
    with builder.run(image, wait_ready=False) as container:
        container.wait(60)
        assert container.logs().stdout == said
