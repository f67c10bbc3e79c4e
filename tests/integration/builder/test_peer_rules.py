"""The rules of the Dockerfile reference, case by case, beside Docker and buildah."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.layouts import Layout, busybox, layer, member

import pytest_containers as pc

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.needs("root")]

PROGRAMS = ("cat", "env", "find", "ln", "mkdir", "readlink", "sort", "stat", "touch")
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LIST = """\
FROM base:rules
RUN --mount=from={name},target=/m cd /m/cases && \
    find . -not -type l -exec stat -c '%n|%F|%a|%u:%g' '{{}}' + | sort > /listing && \
    find . -type f -size -2 | sort | while read -r f; do echo "$f: $(cat "$f")"; done >> /listing && \
    find . -type l | sort | while read -r l; do echo "$l -> $(readlink "$l")"; done >> /listing
"""
CASES = """\
ARG WORD=a/b.c.d
FROM base:rules AS other
RUN mkdir -p /o/dir /o/real && touch /o/a.txt /o/b.txt /o/dir/c && ln -s real /o/link
FROM base:rules
ARG WORD
ARG empty
# Patterns: a source that matches nothing, one that matches once, classes, escapes.
COPY no-such* /cases/none/
COPY a.tx[t] no-such? /cases/once/
COPY [ab].txt /cases/class/
COPY [^a].txt /cases/negated/
COPY f\\*r /cases/escaped/
COPY *.txt /cases/all/
COPY d?r/*/c /cases/deep/
COPY a.tx[t] /cases/file
# Destinations: files, directories, links, what is there already.
COPY a.txt /cases/new/name
COPY dir /cases/dir
COPY dir /cases/dir/
COPY a.txt dir /cases/merged/
COPY to-dir /cases/followed
COPY dir/link /cases/link
RUN mkdir -p /cases/real && ln -s real /cases/alias && ln -s /cases/real/new /cases/dangling
COPY a.txt /cases/alias/
COPY b.txt /cases/dangling
WORKDIR /cases/work
COPY a.txt .
COPY a.txt ./
COPY a.txt $empty
COPY a.txt ../up
# From another stage.
COPY --from=other /o /cases/other
COPY --from=other /o/*.txt /cases/others/
COPY --from=other /o/link/ /cases/behind
# Owners: names, numbers, half of each, and what nobody knows.
COPY --chown=app a.txt /cases/own/app
COPY --chown=app:staff a.txt /cases/own/both
COPY --chown=5 dir /cases/own/number
COPY --chown=5:staff a.txt /cases/own/mixed
COPY --chown=nobody-here a.txt /cases/own/unknown
COPY --chown=app:nothing a.txt /cases/own/group
USER app
WORKDIR /cases/home/of/app
USER 4321
WORKDIR /cases/home/of/4321
USER missing
WORKDIR /cases/home/of/missing
USER root
# Archives replace and follow links below their destination.
RUN mkdir -p /cases/tar/run /cases/tar/x/y && ln -s /run /cases/tar/var && touch /cases/tar/keep && echo old > /cases/tar/old
ADD replace.tar /cases/tar/
# A hard link to what only the image below has.
ADD link.tar /cases/tar/
ADD replace.tar /cases/fresh
ADD --chown=7:8 replace.tar /cases/owned/
# Words.
ENV x=foo/bar e= plain="a b" single='$x' escaped=\\$x
ENV a=${x:-w} b=${e:-w} d=${x:+w} g="$x$e" h=${x}y i=$plain
ENV old style   value
RUN env | sort > /cases/env
LABEL one=1 "two"="2 2" three=$x
EXPOSE 80 $e 81/udp 8000-8001
VOLUME /v1 /v2
VOLUME ["/v3", "/v $x"]
STOPSIGNAL SIGINT
HEALTHCHECK --interval=1m30s --timeout=+5s --start-period=2m --retries=3 CMD true
ENV later=env
ARG later=arg
RUN echo "$later $WORD" > /cases/later
# Mounts.
WORKDIR /cases/mounted
RUN --mount=type=bind,source=dir cat sub/c > /cases/seen
RUN --mount=type=tmpfs,target=/t touch /t/x
ONBUILD RUN true
ONBUILD COPY . /
SHELL ["/bin/sh", "-ec"]
ENTRYPOINT ["/bin/cat"]
CMD echo $x
"""
IGNORE_FILES = {
    "suffixes": "**.pyc\n**~\n",
    "directories": "dir\n!dir/sub/c\n/a.txt\nlater/\n",
    "wildcards": "*.txt\n?.md\n*/sub\n**/deep\n",
    "classes": "[ab].txt\n[^a-y].md\n[[]x]\n",
    "escapes": "f\\*r\n\\!not\n#hash\n #blank\n",
    "order": "*\n!*.txt\nb.txt\n!dir\ndir/sub/d*\n",
    "cleaned": "./a.txt\ndir//sub\nlater/../b.txt\n../x\n \n/\n",
    "middle": "later/**/deep\nd**/c\n",
    "prefix": "lat**\n",
    "everything": "**\n!**/*.txt\n",
}
# Debian's Docker is of 2020: an archive's members kept their owners then, whatever --chown said,
# ** before a suffix was none, and exceptions with wildcards were not looked for everywhere.
OLD_IN_DOCKER = ("./owned/",)
OLD_IGNORE_FILES = ("suffixes", "everything")
# docs/reference/differences.md has the reasons.
OTHER_IN_BUILDAH = ("./owned/", "./later: ", "./real/new", "HOSTNAME=")
NOT_IN_BUILDAH = (
    # A source that matches nothing, and a name that nobody knows, are errors there.
    "COPY no-such*", "COPY a.tx[t] no-such?", "COPY --chown=nobody-here",
    "COPY --chown=app:nothing", "USER missing", "WORKDIR /cases/home/of/missing",
    # A mount needs a target there.
    "RUN --mount=type=bind,source=dir",
)  # fmt: skip
REFUSED = ["[a", "!", "a\\", "[-a]", "[]a]"]


def write_context(place: Path) -> None:
    for name in (
        "a.txt", "b.txt", "x.md", "z.md", "f*r", "foor", "[x]", "!not", "#hash", "#blank", "b~",
        "mod.pyc", "dir/sub/c", "dir/sub/d", "dir/sub/n.pyc", "dir/e~", "later/deep/f",
        "later/x/deep/g", "later/n.txt",
    ):  # fmt: skip
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
        path.chmod(0o640 if name == "a.txt" else 0o644)
    for folder in (place / "dir", place / "dir/sub", place / "later", place / "later/deep"):
        folder.chmod(0o755)
    (place / "dir/sub").chmod(0o750)
    (place / "dir/link").symlink_to("sub/c")
    (place / "to-dir").symlink_to("dir")
    with tarfile.open(place / "replace.tar", "w") as tar:
        for name, kind, content in (
            ("x", tarfile.REGTYPE, b"file"), ("keep", tarfile.DIRTYPE, b""),
            ("keep/in", tarfile.REGTYPE, b"in"), ("implied/f", tarfile.REGTYPE, b"f"),
            ("./dot/../plain", tarfile.REGTYPE, b"p"), ("var/f", tarfile.REGTYPE, b"below"),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.size, info.mode = kind, len(content), 0o750
            info.uid, info.gid = 3, 4
            tar.addfile(info, io.BytesIO(content) if content else None)
    with tarfile.open(place / "link.tar", "w") as tar:
        info = tarfile.TarInfo("linked")
        info.type, info.linkname = tarfile.LNKTYPE, "old"
        tar.addfile(info)


@pytest.fixture(scope="module")
def base_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("base") / "base.tar"


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory, base_archive: Path) -> Iterator[pc.Engine]:
    """An engine that has the base, and has saved it for the others."""
    home = tmp_path_factory.mktemp("rules")
    with pc.Engine(home=home / "store") as engine:
        base = layer([
            *busybox(*PROGRAMS),
            member("etc/passwd", b"root:x:0:0::/:/bin/sh\napp:x:7:8::/:/bin/sh\n", mode=0o644),
            member("etc/group", b"root:x:0:\napp:x:8:\nstaff:x:9:\n", mode=0o644),
        ])  # fmt: skip
        Layout(home / "base").image([base], {"Env": [PATH]})
        engine.images.load(home / "base", name="base:rules")
        engine.images.save(["base:rules"], base_archive)
        yield engine


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    place.mkdir()
    write_context(place)
    (place / "Dockerfile").write_text(CASES)
    return place


def listing(engine: pc.Engine, name: str, folder: Path) -> list[str]:
    folder.mkdir()
    (folder / "Dockerfile").write_text(LIST.format(name=name))
    image = engine.build(folder, options=pc.BuildOptions(network="none"))
    with engine.run(image, ["cat", "/listing"], wait_ready=False) as container:
        container.wait(60)
        return str(container.logs().stdout).splitlines()


def apart(ours: list[str], theirs: list[str], explained: tuple[str, ...]) -> list[str]:
    """Return the lines that only one side has, but for those that begin as explained."""
    return sorted(
        [f"ours {line}" for line in set(ours) - set(theirs) if not line.startswith(explained)]
        + [f"theirs {line}" for line in set(theirs) - set(ours) if not line.startswith(explained)]
    )


def config_of(engine: pc.Engine, name: str) -> dict[str, Any]:
    config = engine.images.inspect(name)["config"]
    return {key: value for key, value in config.items() if value and key != "ArgsEscaped"}


@pytest.fixture(scope="module")
def docker_with_base(
    builder: pc.Engine, base_archive: Path, docker: Callable[..., str]
) -> Callable[..., str]:
    docker("load", "--quiet", "-i", str(base_archive))
    return docker


@pytest.mark.needs("docker")
def test_docker_agrees_about_every_rule(
    builder: pc.Engine, docker_with_base: Callable[..., str], context: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("DOCKER_BUILDKIT", "1")
    builder.build(context, tags=("ours:1",), options=pc.BuildOptions(network="none"))
    docker_with_base("build", "--quiet", "--network=none", "-t", "theirs:1", str(context))
    docker_with_base("save", "-o", str(tmp_path / "theirs.tar"), "theirs:1")
    builder.images.load(tmp_path / "theirs.tar", name="theirs:1")
    ours = listing(builder, "ours:1", tmp_path / "o")
    theirs = listing(builder, "theirs:1", tmp_path / "t")
    assert apart(ours, theirs, OLD_IN_DOCKER) == []
    assert config_of(builder, "ours:1") == config_of(builder, "theirs:1")


@pytest.mark.needs("docker")
@pytest.mark.parametrize("kind", [kind for kind in IGNORE_FILES if kind not in OLD_IGNORE_FILES])
def test_docker_leaves_out_the_same(
    builder: pc.Engine, docker_with_base: Callable[..., str], context: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, kind: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("DOCKER_BUILDKIT", "1")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY . /cases/\n")
    (context / ".dockerignore").write_text(IGNORE_FILES[kind])
    builder.build(context, tags=("ignored:1",))
    docker_with_base("build", "-o", str(tmp_path / "theirs"), str(context))
    root = tmp_path / "theirs" / "cases"
    theirs = {f"./{path.relative_to(root)}" for path in root.rglob("*")}
    lines = listing(builder, "ignored:1", tmp_path / "o")
    ours = {line.partition("|")[0] for line in lines if "|" in line}
    ours |= {line.partition(" -> ")[0] for line in lines if " -> " in line}
    assert ours - {"."} == theirs


@pytest.mark.needs("docker")
@pytest.mark.parametrize("pattern", REFUSED)
def test_docker_refuses_the_same_patterns(
    builder: pc.Engine, docker_with_base: Callable[..., str], context: Path, pattern: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("DOCKER_BUILDKIT", "1")
    (context / ".dockerignore").write_text(f"{pattern}\n")
    with pytest.raises(AssertionError):
        docker_with_base("build", "--quiet", str(context))
    with pytest.raises(pc.BuildError):
        builder.build(context)


@pytest.mark.needs("buildah")
@pytest.mark.long
def test_buildah_agrees_about_every_rule(
    builder: pc.Engine, base_archive: Path, context: Path, tmp_path: Path, short_path: Path
) -> None:
    command = ["buildah", f"--root={short_path}/b", f"--runroot={short_path}/br",
               "--storage-driver=vfs"]  # fmt: skip

    def buildah(*arguments: str) -> str:
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    text = "\n".join(line for line in CASES.splitlines() if not line.startswith(NOT_IN_BUILDAH))
    (context / "Dockerfile").write_text(text)
    buildah("pull", "-q", f"docker-archive:{base_archive}")
    buildah("build", "-q", "--isolation=chroot", "--network=host", "--format=docker",
            "-t", "theirs:2", str(context))  # fmt: skip
    buildah("push", "-q", "theirs:2", f"docker-archive:{tmp_path / 'theirs.tar'}:theirs:2")
    builder.images.load(tmp_path / "theirs.tar", name="theirs:2")
    builder.build(context, tags=("ours:2",), options=pc.BuildOptions(network="none"))
    ours = listing(builder, "ours:2", tmp_path / "o")
    theirs = listing(builder, "theirs:2", tmp_path / "t")
    assert apart(ours, theirs, OTHER_IN_BUILDAH) == []
