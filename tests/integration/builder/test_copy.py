"""COPY and ADD: what is found, and what becomes of it."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.builds import PATH, Build, shell
from helpers.layouts import Layout

import pytest_containers as pc


def tree_of(engine: pc.Engine, image: pc.Image, path: str) -> list[str]:
    script = f"cd {path}; find . -exec stat -c '%n %F %a' '{{}}' ';'"
    return sorted(shell(engine, image, script).splitlines())


@pytest.mark.parametrize(
    ("copy", "expected"),
    [
        ("a.txt /x", ["./x regular file 640"]),
        ("a.txt /x/", ["./x directory 755", "./x/a.txt regular file 640"]),
        ("a.txt .", ["./a.txt regular file 640"]),
        ("a.txt /there", ["./there directory 755", "./there/a.txt regular file 640"]),
        ("*.txt /x/", ["./x directory 755", "./x/a.txt regular file 640",
                       "./x/b.txt regular file 644"]),
        ("dir /x", ["./x directory 755", "./x/link symbolic link 777", "./x/sub directory 755",
                    "./x/sub/c regular file 644"]),
        ("to-dir/sub /x", ["./x directory 755", "./x/c regular file 644"]),
        ("--chmod=700 dir/sub /x", ["./x directory 700", "./x/c regular file 700"]),
        ("--chmod=u=rwX,go= a.txt /x", ["./x regular file 600"]),
        ("--exclude=*.txt . /x", None),
        ("--parents dir/sub/c a.txt /x/", ["./x directory 755", "./x/a.txt regular file 640",
                                           "./x/dir directory 755", "./x/dir/sub directory 755",
                                           "./x/dir/sub/c regular file 644"]),
        ("--parents dir/./sub/c /x/", ["./x directory 755", "./x/sub directory 755",
                                       "./x/sub/c regular file 644"]),
        ("--parents dir/./sub/./c /x/", ["./x directory 755", "./x/sub directory 755",
                                         "./x/sub/c regular file 644"]),
        ("--parents d*/./s*/c /x/", ["./x directory 755", "./x/sub directory 755",
                                     "./x/sub/c regular file 644"]),
        ("--parents **/c /x/", ["./x directory 755", "./x/dir directory 755",
                                "./x/dir/sub directory 755", "./x/dir/sub/c regular file 644"]),
        ("to-dir/s*/c /x", ["./x regular file 644"]),
        ("[[]odd /x", ["./x regular file 644"]),
        ("away/[a].t?t /x", ["./x regular file 640"]),
        ("--exclude=*.txt away/** /x/", None),
        ("--exclude=* . /x", ["./x directory 755"]),
        ("--link a.txt /x", ["./x regular file 640"]),
    ],
)  # fmt: skip
def test_copy(
    build: Build, builder: pc.Engine, files: Path, copy: str, expected: list[str] | None
) -> None:
    (files / "[odd").write_text("x")
    for path in files.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.name != "a.txt":
            path.chmod(0o644)
    (files / "dir" / "sub").chmod(0o755)
    (files / "away").symlink_to("/")
    image = build(f"FROM base:1\nWORKDIR /w/there\nWORKDIR /w\nCOPY {copy.replace(' /', ' /w/')}\n")
    found = [line for line in tree_of(builder, image, "/w") if line != ". directory 755"]
    if expected is None:
        assert not any("txt" in line for line in found)
        assert "./x/dir/sub/c regular file 644" in found
        return
    if not any("there" in line for line in expected):
        found.remove("./there directory 755")
    assert found == expected


def test_copy_keeps_links_and_bytes(build: Build, builder: pc.Engine, files: Path) -> None:
    (files / "big").write_bytes(os.urandom(5_000_000))
    image = build("FROM base:1\nCOPY dir big /x/\n")
    with builder.run(image, ["sleep", "100"]) as container:
        assert container.read_bytes("/x/big") == (files / "big").read_bytes()
        assert container.read_text("/x/link") == "c\n"


@pytest.mark.long
def test_a_context_of_many_directories(build: Build, builder: pc.Engine, context: Path) -> None:
    """More than a process may have open."""
    for number in range(1500):
        (context / "many" / str(number) / "inner").mkdir(parents=True)
        (context / "many" / str(number) / "inner" / "f").write_text("x")
    image = build("FROM base:1\nCOPY many /many\n")
    script = "find /many -type f | while read -r f; do echo; done"
    assert len(shell(builder, image, script)) == 1500


@pytest.mark.needs("id range")
@pytest.mark.parametrize(
    ("chown", "expected"),
    [("app", "7:8"), ("app:staff", "7:9"), ("5", "5:5"), ("5:app", "5:8"), ("$U:$U", "3:3")],
)
def test_chown(build: Build, builder: pc.Engine, files: Path, chown: str, expected: str) -> None:
    image = build(f"FROM base:1\nARG U=3\nCOPY --chown={chown} dir /new/x\n")
    script = "stat -c %u:%g /new/x/link /new/x /new /"
    assert shell(builder, image, script).split() == [expected, expected, expected, "0:0"]


@pytest.mark.long
def test_without_subordinate_ids_there_is_only_root(
    base_layer: bytes, tmp_path: Path, context: Path
) -> None:
    (context / "a").write_text("x")
    Layout(tmp_path / "layout").image([base_layer], {"Env": [f"PATH={PATH}"]})
    with pc.Engine(home=tmp_path / "store", identity="single") as engine:
        engine.images.load(tmp_path / "layout", name="base:1")
        (context / "Dockerfile").write_text("FROM base:1\nCOPY a /x\nRUN cat /x > /y\n")
        assert shell(engine, engine.build(context), "cat /y") == "x"
        (context / "Dockerfile").write_text("FROM base:1\nCOPY --chown=7 a /x\n")
        with pytest.raises(pc.DockerfileError, match="owner 7:7: this account has no subordinate"):
            engine.build(context)


@pytest.mark.needs("id range")
def test_copy_from_a_stage_keeps_owners(build: Build, builder: pc.Engine) -> None:
    image = build(
        """\
        FROM base:1 AS made
        RUN mkdir -p /d/e && touch /d/f && ln /d/f /d/g && ln -s f /d/h
        USER app
        RUN --mount=type=tmpfs,target=/tmp true
        USER root
        COPY --chown=app a.txt /d/e/
        FROM base:1
        COPY --from=made /d /x/
        COPY --from=0 --chown=5 /d/f /y
        COPY --from=made /d/*f /z/
        """.replace(
            "COPY --chown=app a.txt /d/e/", "COPY --chown=app <<a /d/e/\n        1\n        a"
        )
    )
    script = "stat -c %n:%u:%g:%h /x/e/a /x/f /x/g /y /z/f; ls -l /x/h"
    found = shell(builder, image, script)
    assert found.startswith("/x/e/a:7:8:1\n/x/f:0:0:2\n/x/g:0:0:2\n/y:5:5:1\n/z/f:0:0:1\n")
    assert "/x/h -> f" in found


def test_copy_from_an_image(build: Build, builder: pc.Engine) -> None:
    image = build("FROM scratch\nCOPY --from=base:1 / /\n")
    assert shell(builder, image, "cat /etc/group").startswith("root:x:0:\n")


def test_links_of_the_image_are_followed_inside_it(
    build: Build, builder: pc.Engine, files: Path
) -> None:
    image = build("""\
        FROM base:1
        RUN mkdir /real && ln -s /real /absolute && ln -s ../../../real /dots && ln -s real /r
        COPY a.txt /absolute/
        COPY a.txt /dots/b.txt
        COPY dir /r
        """)
    assert shell(builder, image, "ls /real") == "a.txt\nb.txt\nlink\nsub\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("COPY nothing /x", "there is no 'nothing' in the context"),
        ("COPY a.tx /x", "did you mean 'a.txt'?"),
        ("COPY ../a /x", "leads out of the context"),
        ("COPY left-out /x", ".dockerignore excludes it"),
        ("COPY left-out/x /x", ".dockerignore excludes 'left-out'"),
        # Of what a link names on this machine, messages say nothing.
        ("COPY out/passwd /x", "there is no 'out/passwd' in the .*: its link 'out' to '/etc' is "),
        ("COPY out/passwdx /x", "there is no 'out/passwdx' in the .*: its link 'out' to '/etc' "),
        ("COPY [a /x", "the pattern '\\[a' is not understood: a '\\[' is not closed"),
        ("COPY --exclude=[a a.txt /x", "--exclude: the pattern '\\[a' is not understood"),
        (
            f"ADD --checksum=sha256:{'0' * 64} a.txt /x",
            "is for what is fetched, and 'a.txt' is not",
        ),
        (
            f"ADD --checksum=sha256:{'0' * 64} http://127.0.0.1:1/a http://127.0.0.1:1/b /x/",
            "is of one source: write an ADD for each of the 2",
        ),
        ("COPY a.txt b.txt /x", "several sources need a directory as destination: write /x/"),
        ("COPY --chmod=x a.txt /x", "'x' is not a mode"),
        ("COPY --from=base:1 /no /x", "there is no 'no' in image base:1"),
        ("COPY --from=no-such:1 /no /x", "no-such:1"),
        ("COPY dir /bin/sh", "/bin/sh of the image is not a directory"),
        ("RUN --mount=source=no,target=/x true", "there is no 'no' in the context"),
        ("EXPOSE x", "'x' is not a port"),
        ("STOPSIGNAL SIGKILLL", "'SIGKILLL' does not exist"),
        ("COPY https://a.example/b /x", "only ADD fetches"),
        ("ADD http://127.0.0.1:1/b /x", "127.0.0.1:1/b cannot be fetched: Connection refused\n"),
        ("ENV a=${b:?needed}", "b: needed"),
        ("RUN --security=insecure true", "--security=insecure is not possible"),
    ],
)
def test_what_is_not_there(build: Build, files: Path, text: str, message: str) -> None:
    (files / "left-out").write_text("x")
    (files / "out").symlink_to("/etc")
    (files / ".dockerignore").write_text("left-out\n")
    with pytest.raises(pc.DockerfileError, match=message) as caught:
        build(f"FROM base:1\nRUN true\n{text}\n")
    assert caught.value.line == 3
    assert f"  3 | {text}\n" in caught.value.message


def test_a_link_out_of_the_context_is_a_link(build: Build, files: Path) -> None:
    (files / "out").symlink_to("/etc/passwd")
    (files / "up").symlink_to("../../..")
    with pytest.raises(pc.BuildError, match="there is no 'out/x'|there is no 'etc/passwd'|'out'"):
        build("FROM base:1\nCOPY out /x\n")
    build("FROM base:1\nCOPY up/dir /x\n")  # as if the context were the root


def test_a_file_that_changes_while_it_is_read(build: Build, files: Path) -> None:
    big = files / "big"
    big.write_bytes(bytes(60_000_000))
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            with big.open("r+b") as file:
                file.write(os.urandom(8))

    thread = threading.Thread(target=change)
    thread.start()
    try:
        with pytest.raises(
            pc.BuildError, match="'big' of the context .* changed while it was read"
        ):
            build("FROM base:1\nCOPY big /x\n")
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz"])
def test_add_unpacks(build: Build, builder: pc.Engine, context: Path, suffix: str) -> None:
    mode: Any = f"w:{suffix.lstrip('.')}" if suffix else "w"
    with tarfile.open(context / f"a.tar{suffix}", mode) as tar:
        for name, kind, target in (
            ("d", tarfile.DIRTYPE, ""), ("d/f", tarfile.REGTYPE, ""),
            ("d/l", tarfile.SYMTYPE, "f"), ("d/h", tarfile.LNKTYPE, "d/f"),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, target, 0o755
            info.size = 2 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"x\n") if info.size else None)
    image = build(f"FROM base:1\nADD a.tar{suffix} /x\nADD --unpack=false a.tar{suffix} /y/\n")
    assert shell(builder, image, "cat /x/d/l /x/d/h; stat -c %h /x/d/f; ls /y") == (
        f"x\nx\n2\na.tar{suffix}\n"
    )


def test_an_archive_does_not_leave_the_image(
    build: Build, builder: pc.Engine, context: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o777)
    with tarfile.open(context / "a.tar", "w") as tar:
        link = tarfile.TarInfo("l")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        tar.addfile(link)
        inner = tarfile.TarInfo("l/evil")
        inner.size = 1
        tar.addfile(inner, io.BytesIO(b"x"))
    image = build("FROM base:1\nADD a.tar /\n")
    assert list(outside.iterdir()) == []
    assert shell(builder, image, f"cat {outside}/evil") == "x"
    with tarfile.open(context / "a.tar", "w") as tar:
        up = tarfile.TarInfo("../../evil")
        tar.addfile(up)
    with pytest.raises(pc.BuildError, match="leads out of the archive"):
        build("FROM base:1\nADD a.tar /\n")


class Served:
    """Files at an address of this machine, and what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str | None] = []
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.headers.get("If-Modified-Since"))
                super().do_GET()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
        )
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "served").mkdir()
    served = Served(tmp_path / "served")
    thread = threading.Thread(target=served.server.serve_forever)
    thread.start()
    yield served
    served.server.shutdown()
    served.server.server_close()
    thread.join()


def test_add_from_addresses(build: Build, builder: pc.Engine, served: Served) -> None:
    (served.folder / "file.txt").write_text("served\n")
    address = f"{served.address}/file.txt"
    digest = f"sha256:{hashlib.sha256(b'served' + bytes([10])).hexdigest()}"
    image = build(f"FROM base:1\nADD {address} /x/\nADD --chmod=644 {address} /y\n")
    assert shell(builder, image, "cat /x/file.txt /y; stat -c %a /x/file.txt /y") == (
        "served\nserved\n600\n644\n"
    )
    assert served.asked[0] is None
    assert served.asked[1] is not None  # asked whether it changed
    count = len(served.asked)
    build(f"FROM base:1\nADD --checksum={digest} {address} /z\n")
    assert len(served.asked) == count  # known by its digest
    with pytest.raises(pc.BuildError, match="has the digest .* it is not used"):
        build(f"FROM base:1\nADD --checksum=sha256:{'0' * 64} {address} /z\n")
    with pytest.raises(pc.BuildError, match="the server answered 404"):
        build(f"FROM base:1\nADD {address}x /z\n")


def tar_of(path: Path, name: str) -> None:
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.size = 2
        tar.addfile(info, io.BytesIO(b"x\n"))


def test_an_archive_that_is_fetched_is_unpacked_where_it_is_asked_for(
    build: Build, builder: pc.Engine, served: Served
) -> None:
    tar_of(served.folder / "a.tgz", "d/f")
    address = f"{served.address}/a.tgz"
    image = build(f"""\
        FROM base:1
        ADD --unpack=true {address} /x
        ADD --unpack=false {address} /y/
        ADD {address} /z/
        """)
    assert shell(builder, image, "cd /; find x y z -type f") == "x/d/f\ny/a.tgz\nz/a.tgz\n"


def test_what_is_no_archive_is_not_unpacked(
    build: Build, builder: pc.Engine, served: Served, files: Path
) -> None:
    (served.folder / "f.tgz").write_text("no archive\n")
    image = build(f"""\
        FROM base:1
        ADD --unpack=true {served.address}/f.tgz /x/
        ADD --unpack=true a.txt /y
        """)
    assert shell(builder, image, "cat /x/f.tgz /y") == "no archive\na\n"


def test_an_archive_of_the_context_is_unpacked_where_it_is_asked_for(
    build: Build, builder: pc.Engine, files: Path
) -> None:
    tar_of(files / "a.tgz", "d/f")
    image = build("FROM base:1\nADD --unpack=true a.tgz a.txt /x/\nADD --unpack a.tgz /y\n")
    found = shell(builder, image, "cd /; find x y -type f").split()
    assert sorted(found) == ["x/a.txt", "x/d/f", "y/d/f"]


def test_add_excludes(build: Build, builder: pc.Engine, files: Path) -> None:
    (files / ".dockerignore").write_text("Dockerfile\n")
    image = build("FROM base:1\nARG X=b\nADD --exclude=$X.* --exclude=**/c . /x/\n")
    assert shell(builder, image, "cd /x; find . -type f") == "./.dockerignore\n./a.txt\n"


def test_a_linked_copy_replaces_a_link(build: Build, builder: pc.Engine, files: Path) -> None:
    """A layer that knows of none below cannot follow their links."""
    tar_of(files / "a.tgz", "f")
    image = build("""\
        FROM base:1
        RUN mkdir /real && ln -s /real /a && ln -s /real /b && ln -s /real/c /c
        COPY --link a.txt /a/
        ADD --link a.tgz /b/
        ADD --link a.txt /c
        """)
    script = "ls /real; stat -c %F /a /b /c; ls /a /b"
    assert shell(builder, image, script) == (
        "directory\ndirectory\nregular file\n/a:\na.txt\n\n/b:\nf\n"
    )


def git(*args: str | Path) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    always = ["-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", *who, *always, *args], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(repositories: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work tree whose commits are at https://example.org/r.git, with a submodule in another."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(repositories / "gitconfig"))
    return repositories / "r.git"


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, which no test changes, and the settings with which git finds them."""
    tmp_path = tmp_path_factory.mktemp("git")
    # The addresses that ADD knows are all of other machines; git is told where these are.
    (tmp_path / "gitconfig").write_text(
        f'[url "file://{tmp_path}/"]\n  insteadOf = https://example.org/\n'
        '[protocol "file"]\n  allow = always\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
        _make_repositories(tmp_path)
    return tmp_path


def _make_repositories(tmp_path: Path) -> None:
    for name, below in (("inner.git", ""), ("outer.git", "inner.git"), ("r.git", "outer.git")):
        work = tmp_path / name
        (work / "sub").mkdir(parents=True)
        (work / "sub" / "file").write_text(f"of {name}\n")
        git("init", "-q", work)
        if below:
            git("-C", work, "remote", "add", "origin", f"https://example.org/{name}")
            git("-C", work, "submodule", "--quiet", "add", f"../{below}", "module")
        git("-C", work, "add", ".")
        git("-C", work, "commit", "-q", "-m", "x")
    work = tmp_path / "r.git"
    git("-C", work, "tag", "v1")
    git("-C", work, "checkout", "-q", "-b", "other")
    (work / "sub" / "file").write_text("of a branch\n")
    (work / "sub" / "run").write_text("")
    (work / "sub" / "run").chmod(0o755)
    git("-C", work, "add", ".")
    git("-C", work, "commit", "-q", "-m", "y")
    git("-C", work, "checkout", "-q", "main")


def test_add_from_git(build: Build, builder: pc.Engine, files: Path, repository: Path) -> None:
    image = build("""\
        FROM base:1
        ADD https://example.org/r.git#main:sub /a/
        ADD --keep-git-dir=true https://example.org/r.git a.txt /b/
        """)
    assert shell(builder, image, "cat /a/file /b/sub/file; ls /a; ls -d /b/.git; cat /b/a.txt") == (
        "of r.git\nof r.git\nfile\n/b/.git\na\n"
    )
    with pytest.raises(pc.BuildError, match="git fetch failed"):
        build("FROM base:1\nADD https://example.org/r.git#no-such-branch /a/\n")
    with pytest.raises(pc.BuildError, match="there is no 'no' in https://example.org/r.git"):
        build("FROM base:1\nADD https://example.org/r.git#main:no /a/\n")


def test_add_from_git_brings_submodules(build: Build, builder: pc.Engine, repository: Path) -> None:
    image = build("FROM base:1\nADD https://example.org/r.git /a/\n")
    assert shell(builder, image, "cd /a; cat module/sub/file module/module/sub/file") == (
        "of outer.git\nof inner.git\n"
    )
    assert shell(builder, image, "find /a -name .git") == ""


def test_modes_of_git_are_the_same_for_everybody(
    build: Build, builder: pc.Engine, repository: Path
) -> None:
    before = os.umask(0o077)
    try:
        image = build("FROM base:1\nADD https://example.org/r.git#other /a/\n")
    finally:
        os.umask(before)
    found = shell(builder, image, "cd /a; stat -c %a . sub sub/file sub/run module/sub/file")
    assert found.split() == ["755", "755", "644", "755", "644"]


@pytest.mark.parametrize(
    ("query", "path", "expected"),
    [
        ("?ref=other", "sub/file", "of a branch\n"),
        ("?branch=other&subdir=sub", "file", "of a branch\n"),
        ("?tag=v1", "sub/file", "of r.git\n"),
        ("?ref=main#main:sub", "file", "of r.git\n"),
    ],
)
def test_add_from_git_with_a_query(
    build: Build, builder: pc.Engine, repository: Path, query: str, path: str, expected: str
) -> None:
    image = build(f"FROM base:1\nADD https://example.org/r.git{query} /a/\n")
    assert shell(builder, image, f"cat /a/{path}") == expected


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("r.git?depth=1", "git repositories have no 'depth'; there are ref, branch, tag, commit"),
        ("r.git?ref=", "'ref' is empty"),
        ("r.git?ref=main#other", "other and main contradict"),
        ("r.git?branch=main&tag=v1", "refs/heads/main and refs/tags/v1 contradict"),
        ("r.git?tag=v2", "git fetch failed"),
        ("r.git?commit=xyz", "the checksum xyz is not a commit"),
        (f"r.git?commit={'0' * 7}", "is at commit [0-9a-f]{40} and not 0000000; it is not used"),
    ],
)
def test_git_addresses_that_are_wrong(
    build: Build, repository: Path, address: str, message: str
) -> None:
    with pytest.raises(pc.BuildError, match=message):
        build(f"FROM base:1\nADD https://example.org/{address} /a/\n")


@pytest.mark.long
def test_a_commit_is_checked(build: Build, builder: pc.Engine, repository: Path) -> None:
    commit = git("-C", repository, "rev-parse", "other")
    address = "https://example.org/r.git"
    for line in (
        f"--checksum={commit} {address}#other", f"--checksum={commit[:12]} {address}#other",
        f"{address}?branch=other&commit={commit}", f"--checksum={commit} {address}",
    ):  # fmt: skip
        image = build(f"FROM base:1\nADD {line} /a/\n")
        assert shell(builder, image, "cat /a/sub/file") == "of a branch\n"
    with pytest.raises(pc.BuildError, match=f"is at commit .* and not {commit}; it is not used"):
        build(f"FROM base:1\nADD --checksum={commit} {address}#main /a/\n")


def test_a_dockerfile_may_have_an_ignore_file_of_its_own(
    builder: pc.Engine, context: Path, files: Path
) -> None:
    (context / "special.Dockerfile").write_text("FROM base:1\nCOPY . /x\n")
    (context / "special.Dockerfile.dockerignore").write_text(
        "\ufeff# the other is not read\n\n*\n!/dir\n**/link\n"
    )
    (context / ".dockerignore").write_text("dir\n")
    image = builder.build(context, dockerfile="special.Dockerfile")
    assert shell(builder, image, "cd /x; find . -type f -o -type l") == "./dir/sub/c\n"


def test_owners_and_modes_of_bound_and_linked_copies(
    build: Build, builder: pc.Engine, files: Path
) -> None:
    (files / "a.txt").chmod(0o4755)
    (files / "dir" / "sub" / "c").chmod(0o600)
    image = build("FROM base:1\nCOPY a.txt /x\nCOPY --link --chmod=a+r dir /l/\n")
    assert shell(builder, image, "stat -c %a:%u:%g /x /l/sub/c") == "4755:0:0\n644:0:0\n"


@pytest.mark.parametrize("source", ["a.txt", "--from=made /a.txt"])
@pytest.mark.parametrize("owner", ["", "0", "root"])
def test_a_linked_copy_is_not_the_one_that_was_not_linked(
    build: Build, builder: pc.Engine, files: Path, source: str, owner: str
) -> None:
    """A link of the image is followed by the one, and replaced by the other."""
    base = """\
        FROM base:1 AS made
        COPY a.txt /a.txt
        FROM base:1
        RUN mkdir /real && ln -s /real /alias
        """
    chown = f"--chown={owner}" if owner else ""
    image = build(f"{base}\n        COPY {chown} {source} /alias/\n")
    assert shell(builder, image, "ls /real") == "a.txt\n"
    image = build(f"{base}\n        COPY --link {chown} {source} /alias/\n")
    assert shell(builder, image, "ls /real; stat -c %F /alias; ls /alias") == "directory\na.txt\n"


@pytest.mark.needs("id range")
def test_a_linked_copy_with_an_owner_of_the_image(
    build: Build, builder: pc.Engine, files: Path
) -> None:
    """Names are those of the layers below, though it needs nothing else of them."""
    image = build("FROM base:1\nCOPY --link --chown=app:staff a.txt /new/x\n")
    assert shell(builder, image, "stat -c %u:%g /new/x /new") == "7:9\n7:9\n"
    text = "app:x:5:6::/:/bin/sh\\n"
    image = build(
        f"FROM base:1\nRUN printf '{text}' > /etc/passwd\nCOPY --link --chown=app a.txt /new/x\n"
    )
    assert shell(builder, image, "stat -c %u:%g /new/x") == "5:6\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("/srv/abs/*.txt", "a.txt\nb.txt\n"),
        ("/srv/abs/**/c", "c\n"),
        ("/*/abs/[a].txt", "a.txt\n"),
        ("--exclude=b.* /srv/abs/*.txt", "a.txt\n"),
        ("--parents /srv/abs/*.txt", "srv\n"),
        ("--parents /srv/./abs/**/c", "abs\n"),
    ],
)
def test_wildcards_below_a_link_of_a_stage(
    build: Build, builder: pc.Engine, files: Path, source: str, expected: str
) -> None:
    image = build(f"""\
        FROM base:1 AS m
        COPY a.txt b.txt /srv/real/
        COPY dir/sub/c /srv/real/d/c
        RUN ln -s /srv/real /srv/abs
        FROM base:1
        COPY --from=m {source} /g/
        """)
    assert shell(builder, image, "ls /g") == expected


def test_a_wildcard_over_a_link_that_leads_nowhere(
    build: Build, builder: pc.Engine, files: Path
) -> None:
    (files / "broken").symlink_to("nothing")
    image = build("FROM base:1\nCOPY [bd]*/sub/c /x\n")
    assert shell(builder, image, "cat /x") == "c\n"


@pytest.mark.parametrize("origin", ["", "--from=m "])
@pytest.mark.parametrize(
    ("copy", "expected"),
    [
        ("f/$P /g", "./g directory, ./g/a.txt regular file, ./g/b.txt regular file"),
        ("f/[a].txt /g", "./g regular file"),
        ("f/$ONE /g", "./g regular file"),
        ("f/[a].txt /g/", "./g directory, ./g/a.txt regular file"),
        ("f/a.txt f/foo.tx[t] /g/", "./g directory, ./g/a.txt regular file"),
        ("--exclude=$X f /g", "./g directory, ./g/a.txt regular file"),
        ("--exclude=* f /g", ""),
        ("--exclude=*.txt f/*.txt /g/", ""),
        ("--exclude=b.* f/*.txt /g", "./g regular file"),
        ("--parents **/b.txt /g/", "./g directory, ./g/f directory, ./g/f/b.txt regular file"),
        ("--parents f/./*.txt /g/",
         "./g directory, ./g/a.txt regular file, ./g/b.txt regular file"),
    ],
)  # fmt: skip
def test_a_stage_is_copied_from_as_the_context_is(
    build: Build, builder: pc.Engine, context: Path, origin: str, copy: str, expected: str
) -> None:
    (context / "f").mkdir()
    (context / "f" / "a.txt").write_text("a\n")
    (context / "f" / "b.txt").write_text("b\n")
    image = build(f"""\
        FROM scratch AS m
        COPY f /f
        FROM base:1
        ARG P=*.txt ONE=[a].txt X=b.txt
        WORKDIR /w
        COPY {origin}{copy.replace(" /", " /w/")}
        """)
    script = "cd /w; find . -exec stat -c '%n %F' '{}' ';'"
    found = sorted(shell(builder, image, script).splitlines())
    assert ", ".join(found[1:]) == expected
