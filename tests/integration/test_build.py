"""Builds in a real runtime: what each instruction leaves, and what is done again."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.layouts import Layout, busybox, layer, member, output
from helpers.registry import Proxy

import pytest_containers as pc
from pytest_containers.build.progress import Display

Build = Callable[..., pc.Image]
PATH = "/usr/bin:/bin"


class Lines(Display):
    """Collects what is shown."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def done(self) -> list[str]:
        """Titles of the steps that were done and not found."""
        titles, ended = {}, {}
        for line in self.text.splitlines():
            number, _, rest = line.partition(" ")
            titles.setdefault(number, rest)
            if rest == "CACHED" or rest.startswith("DONE"):
                ended[number] = rest
        layered = {number: title for number, title in titles.items() if "FROM" not in title}
        return [
            title.partition("] ")[2]
            for number, title in layered.items()
            if ended.get(number, "").startswith("DONE")
        ]


@pytest.fixture(scope="module")
def base_layer() -> bytes:
    programs = ("ls", "cat", "id", "mkdir", "touch", "stat", "ln", "sleep", "find", "env", "rm")
    return layer(
        [
            *busybox(*programs),
            *(member(name, type=b"5") for name in ("proc", "sys", "dev")),
            ("etc/passwd", {"mode": 0o644}, b"root:x:0:0::/root:/bin/sh\napp:x:7:8::/:/bin/sh\n"),
            ("etc/group", {"mode": 0o644}, b"root:x:0:\napp:x:8:\nstaff:x:9:\n"),
        ]
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("builds")


@pytest.fixture(scope="module")
def builder(home: Path, base_layer: bytes) -> Any:
    layout = Layout(home / "layout")
    layout.image([base_layer], {"Env": [f"PATH={PATH}"], "Cmd": ["/bin/sh"]})
    with pc.Engine(home=home / "store") as engine:
        engine.images.load(home / "layout", name="base:1")
        yield engine


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "context").mkdir()
    return tmp_path / "context"


@pytest.fixture
def build(builder: pc.Engine, context: Path) -> Build:
    """Builds a Dockerfile in the test's context."""

    def build(
        text: str, *, tags: tuple[str, ...] = (), display: Display | None = None, **options: Any
    ) -> pc.Image:
        (context / "Dockerfile").write_text(textwrap.dedent(text))
        return builder.build(
            context, tags=tags, options=pc.BuildOptions(**options), display=display
        )

    return build


def shell(engine: pc.Engine, image: pc.Image, script: str) -> str:
    return output(engine, image, script)  # type: ignore[arg-type]  # an image is one too


# ------------------------------------------------------------------------ RUN


def test_run(build: Build, builder: pc.Engine) -> None:
    image = build("""\
        FROM base:1
        RUN echo one > /one && mkdir /dir
        RUN ["/bin/sh", "-c", "cat /one; echo two > /dir/two"]
        RUN rm /one
    """)
    assert (
        shell(builder, image, "cat /dir/two; ls /")
        == "two\nbin\ndev\ndir\netc\nlib\nlib64\nproc\nsys\n"
    )


def test_arguments_and_environment(build: Build) -> None:
    shown = Lines()
    build(
        """\
        ARG outside=o
        FROM base:1
        ARG a=1
        ARG b
        ARG outside
        ARG TARGETARCH
        ENV e=$a-x b="from env"
        RUN echo "[$a] [$b] [$e] [$outside] [$HTTP_PROXY] [${TARGETARCH:+arch}]"
        """,
        args={"a": "2", "HTTP_PROXY": "http://p"}, display=shown,
    )  # fmt: skip
    assert "[2] [from env] [2-x] [o] [http://p] [arch]" in shown.text


def test_an_argument_that_changed_runs_again_and_a_proxy_does_not(build: Build) -> None:
    text = "FROM base:1\nARG a\nRUN echo $a $HTTPS_PROXY > /a\n"
    build(text, args={"a": "1"})
    again, proxied = Lines(), Lines()
    build(text, args={"a": "2"}, display=again)
    build(text, args={"a": "2", "HTTPS_PROXY": "x"}, display=proxied)
    assert again.done() == ["RUN echo $a $HTTPS_PROXY > /a"]
    assert proxied.done() == []


def test_heredocs(build: Build, builder: pc.Engine) -> None:
    image = build("""\
        FROM base:1
        ENV who=world
        RUN <<EOF
        echo "hello $who" > /a
        false || echo again >> /a
        EOF
        RUN <<-"EOF"
        #!/bin/sh -e
        \techo "script $0" > /b
        EOF
        RUN cat > /c <<A && cat > /d <<"B"
        $who
        A
        $who
        B
        COPY <<one <<"two" /files/
        x=${who}
        one
        x=${who}
        two
        """)
    script = "cat /a /b /c /d /files/one /files/two; stat -c %a /files/one"
    assert shell(builder, image, script) == (
        "hello world\nagain\nscript /dev/pipes/EOF\nworld\n$who\nx=world\nx=${who}\n644\n"
    )


def test_shell_user_and_workdir(build: Build, builder: pc.Engine) -> None:
    image = build(
        """\
        FROM base:1
        WORKDIR /a
        WORKDIR b
        SHELL ["/bin/sh", "-xc"]
        RUN pwd > here
        """
    )
    assert shell(builder, image, "cat /a/b/here") == "/a/b\n"
    assert image.config.workdir == "/a/b"
    assert image.config.shell == ("/bin/sh", "-xc")


@pytest.mark.needs("id range")
def test_user(build: Build, builder: pc.Engine) -> None:
    image = build("""\
        FROM base:1
        RUN mkdir -m 777 /w
        USER app
        RUN id > /w/id
        USER 12:staff
        RUN touch /w/file
        """)
    assert "uid=7(app) gid=8(app)" in shell(builder, image, "cat /w/id")
    assert shell(builder, image, "stat -c %u:%g /w/file") == "12:9\n"


def test_what_mounts_need_is_not_kept(build: Build, builder: pc.Engine) -> None:
    image = build(
        """\
        FROM base:1
        RUN --mount=type=cache,target=/var/cache/x --mount=type=tmpfs,target=/t \\
            --mount=type=secret,id=s --mount=target=/context touch /t/a /var/cache/x/b
        """,
        secrets={"s": b"top secret"},
    )
    assert shell(builder, image, "ls /; ls /etc") == (
        "bin\ndev\netc\nlib\nlib64\nproc\nsys\ngroup\nhostname\nhosts\npasswd\nresolv.conf\n"
    )


def test_a_run_that_writes_nothing_makes_no_layer(build: Build, builder: pc.Engine) -> None:
    image = build("FROM base:1\nRUN true\n", tags=("nothing:1",))
    assert len(image.layers) == 1
    (step, *_) = builder.images.history("nothing:1")
    assert step["created_by"] == "RUN /bin/sh -c true"


# ---------------------------------------------------------------------- mounts


def test_bind_mounts(build: Build, context: Path) -> None:
    (context / "sub").mkdir()
    (context / "sub" / "file").write_text("one\n")
    (context / "hidden").write_text("x")
    (context / ".dockerignore").write_text("hidden\n")
    shown = Lines()
    build(
        """\
        FROM base:1 AS other
        RUN echo other > /other
        FROM base:1
        RUN --mount=target=/c ls /c; touch /c/x || echo read-only
        RUN --mount=source=sub/file,target=/f,rw echo two >> /f; cat /f
        RUN --mount=from=other,source=/other,target=/o cat /o; ls /
        """,
        display=shown,
    )
    assert "hidden" not in shown.text
    for line in ("read-only", "one", "two", "other"):
        assert f" {line}\n" in shown.text
    assert (context / "sub" / "file").read_text() == "one\n"


def test_a_cache_lasts_and_is_no_part_of_the_image(build: Build, builder: pc.Engine) -> None:
    run = "RUN --mount=type=cache,target=/c,sharing={} echo {} >> /c/log; cat /c/log > /seen\n"
    first = build("FROM base:1\n" + run.format("shared", 1))
    second = build("FROM base:1\n" + run.format("locked", 2))
    assert shell(builder, first, "cat /seen; test -e /c || echo gone") == "1\ngone\n"
    assert shell(builder, second, "cat /seen") == "1\n2\n"


@pytest.mark.needs("id range")
def test_a_cache_has_an_owner(build: Build) -> None:
    shown = Lines()
    build(
        "FROM base:1\nUSER app\nRUN --mount=type=cache,target=/o,uid=7,gid=8,mode=0700 "
        "touch /o/x; stat -c %u:%g:%a /o\n",
        display=shown,
    )
    assert " 7:8:700\n" in shown.text


def test_secrets_are_seen_and_never_kept(
    build: Build, builder: pc.Engine, home: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2-of-the-test\n")
    shown = Lines()
    text = """\
        FROM base:1
        RUN --mount=type=secret,id=s --mount=type=secret,id=s,env=S,target=/t,mode=0444 \\
            cat /run/secrets/s /t; echo "is $S"; stat -c %a /run/secrets/s /t > /modes
        """
    image = build(text, secrets={"s": secret}, display=shown, tags=("secret:1",))
    assert shell(builder, image, "cat /modes") == "400\n444\n"
    assert shown.text.count("***") == 3
    assert "hunter2" not in shown.text
    builder.images.save(["secret:1"], tmp_path / "saved.tar")
    with tarfile.open(tmp_path / "saved.tar") as saved:
        for one in saved:
            file = saved.extractfile(one)
            data = file.read() if file is not None else b""
            assert b"hunter2" not in data
    for path in (home / "store").rglob("*.json"):
        assert b"hunter2" not in path.read_bytes()
    again = Lines()
    build(text, secrets={"s": b"another"}, display=again)  # no part of the key
    assert again.done() == []


def test_a_secret_may_be_required(build: Build) -> None:
    with pytest.raises(pc.BuildError, match="the secret 's' was not given: add --secret id=s"):
        build("FROM base:1\nRUN --mount=type=secret,id=s,required true\n")
    build("FROM base:1\nRUN --mount=type=secret,id=s test ! -e /run/secrets/s\n")


def test_an_agent(build: Build, tmp_path: Path) -> None:
    import socket

    place = Path("/tmp") / f"pc-agent-{os.getpid()}"  # socket paths are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        try:
            shown = Lines()
            build(
                "FROM base:1\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo $SSH_AUTH_SOCK\n",
                ssh={"default": place}, display=shown,
            )  # fmt: skip
        finally:
            place.unlink()
    assert " /run/buildkit/ssh_agent.0\n" in shown.text
    with pytest.raises(pc.BuildError, match="no agent 'default' was given"):
        build("FROM base:1\nRUN --mount=type=ssh,required true\n")


# ----------------------------------------------------------------- COPY and ADD


def tree_of(engine: pc.Engine, image: pc.Image, path: str) -> list[str]:
    script = f"cd {path}; find . -exec stat -c '%n %F %a' '{{}}' ';'"
    return sorted(shell(engine, image, script).splitlines())


@pytest.fixture
def files(context: Path) -> Path:
    (context / "a.txt").write_text("a\n")
    (context / "b.txt").write_text("b\n")
    (context / "a.txt").chmod(0o640)
    (context / "dir" / "sub").mkdir(parents=True)
    (context / "dir" / "sub" / "c").write_text("c\n")
    (context / "dir" / "link").symlink_to("sub/c")
    (context / "dir").chmod(0o750)
    (context / "to-dir").symlink_to("dir")
    return context


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
        ("--chmod=700 dir/sub /x", ["./x directory 755", "./x/c regular file 700"]),
        ("--chmod=u=rwX,go= a.txt /x", ["./x regular file 600"]),
        ("--exclude=*.txt . /x", None),
        ("--parents dir/sub/c a.txt /x/", ["./x directory 755", "./x/a.txt regular file 640",
                                           "./x/dir directory 755", "./x/dir/sub directory 755",
                                           "./x/dir/sub/c regular file 644"]),
        ("--parents dir/./sub/c /x/", ["./x directory 755", "./x/sub directory 755",
                                       "./x/sub/c regular file 644"]),
        ("--link a.txt /x", ["./x regular file 640"]),
    ],
)  # fmt: skip
def test_copy(
    build: Build, builder: pc.Engine, files: Path, copy: str, expected: list[str] | None
) -> None:
    for path in files.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.name != "a.txt":
            path.chmod(0o644)
    (files / "dir" / "sub").chmod(0o755)
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
        ("COPY *.c /x/", "'\\*.c' matches nothing"),
        ("COPY ../a /x", "leads out of the context"),
        ("COPY left-out /x", ".dockerignore excludes it"),
        ("COPY a.txt b.txt /x", "several sources need a directory as destination: write /x/"),
        ("COPY --chmod=x a.txt /x", "'x' is not a mode"),
        ("COPY --chown=nobody-here a.txt /x", "user 'nobody-here' is not in"),
        ("COPY --from=base:1 /no /x", "there is no 'no' in image base:1"),
        ("COPY --from=no-such:1 /no /x", "no-such:1"),
        ("COPY dir /bin/sh", "/bin/sh of the image is not a directory"),
        ("RUN --mount=source=no,target=/x true", "there is no 'no' in the context"),
        ("EXPOSE x", "'x' is not a port"),
        ("STOPSIGNAL a-b", "is not a signal"),
        ("ENV a=${b:?needed}", "b: needed"),
        ("RUN --security=insecure true", "--security=insecure is not possible"),
    ],
)
def test_what_is_not_there(build: Build, files: Path, text: str, message: str) -> None:
    (files / "left-out").write_text("x")
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
    with pytest.raises(pc.BuildError, match="which leads out of it"):
        build("FROM base:1\nADD a.tar /\n")


def test_add_from_addresses(build: Build, builder: pc.Engine, tmp_path: Path) -> None:
    import functools
    import hashlib
    import http.server

    served = tmp_path / "served"
    served.mkdir()
    (served / "file.txt").write_text("served\n")
    asked: list[tuple[str, str | None]] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("If-Modified-Since")))
            super().do_GET()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(served))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/file.txt"
    digest = f"sha256:{hashlib.sha256(b'served' + bytes([10])).hexdigest()}"
    try:
        image = build(f"FROM base:1\nADD {address} /x/\nADD --chmod=644 {address} /y\n")
        assert shell(builder, image, "cat /x/file.txt /y; stat -c %a /x/file.txt /y") == (
            "served\nserved\n600\n644\n"
        )
        assert asked[0][1] is None
        assert asked[1][1] is not None  # asked whether it changed
        count = len(asked)
        build(f"FROM base:1\nADD --checksum={digest} {address} /z\n")
        assert len(asked) == count  # known by its digest
        with pytest.raises(pc.BuildError, match="has the digest .* it is not used"):
            build(f"FROM base:1\nADD --checksum=sha256:{'0' * 64} {address} /z\n")
        with pytest.raises(pc.BuildError, match="the server answered 404"):
            build(f"FROM base:1\nADD {address}x /z\n")
    finally:
        server.shutdown()
        server.server_close()


def test_add_from_git(
    build: Build, builder: pc.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "repository.git"
    work = tmp_path / "work"
    (work / "sub").mkdir(parents=True)
    (work / "sub" / "file").write_text("of git\n")
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (
        ["git", "init", "-q", "-b", "main", str(work)], ["git", "-C", str(work), "add", "."],
        ["git", "-C", str(work), *who, "commit", "-q", "-m", "x"],
        ["git", "clone", "-q", "--bare", str(work), str(bare)],
    ):  # fmt: skip
        subprocess.run(command, check=True)
    # The addresses that ADD knows are all of other machines; git is told where that one is.
    config = tmp_path / "gitconfig"
    config.write_text(f'[url "file://{bare}"]\n  insteadOf = https://example.org/r.git\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    image = build("""\
        FROM base:1
        ADD https://example.org/r.git#main:sub /a/
        ADD --keep-git-dir=true https://example.org/r.git /b
        """)
    assert shell(builder, image, "cat /a/file /b/sub/file; ls /a; ls -d /b/.git") == (
        "of git\nof git\nfile\n/b/.git\n"
    )
    with pytest.raises(pc.BuildError, match="git failed"):
        build("FROM base:1\nADD https://example.org/r.git#no-such-branch /a/\n")


# ---------------------------------------------------------------- the config


def test_config(build: Build, builder: pc.Engine) -> None:
    build(
        """\
        FROM base:1
        MAINTAINER Somebody
        LABEL a=1 "b c"="d e"
        EXPOSE 80 81-82/udp
        VOLUME /v /x
        VOLUME ["/w"]
        USER 7
        STOPSIGNAL SIGINT
        HEALTHCHECK --interval=5s --retries=2 CMD true
        ONBUILD RUN echo triggered
        ENTRYPOINT ["/bin/cat"]
        CMD ["/etc/group"]
        """,
        labels={"given": "1"}, tags=("config:1",),
    )  # fmt: skip
    config = builder.images.inspect("config:1")["config"]
    assert config["Labels"] == {"a": "1", "b c": "d e", "given": "1"}
    assert list(config["ExposedPorts"]) == ["80/tcp", "81/udp", "82/udp"]
    assert list(config["Volumes"]) == ["/v", "/w", "/x"]
    assert (config["User"], config["StopSignal"]) == ("7", "SIGINT")
    assert config["Healthcheck"] == {
        "Test": ["CMD-SHELL", "true"], "Interval": 5 * 10**9, "Retries": 2,
    }  # fmt: skip
    assert config["OnBuild"] == ["RUN echo triggered"]
    assert (config["Entrypoint"], config["Cmd"]) == (["/bin/cat"], ["/etc/group"])


def test_an_entrypoint_drops_an_inherited_command(build: Build) -> None:
    assert build('FROM base:1\nENTRYPOINT ["a"]\n').config.cmd == ()
    assert build('FROM base:1\nCMD b\nENTRYPOINT ["a"]\n').config.cmd == ("/bin/sh", "-c", "b")


def test_history_tells_which_steps_made_layers(build: Build, builder: pc.Engine) -> None:
    build("FROM base:1\nENV a=1\nARG b=2\nRUN touch /x\nCMD true\n", tags=("history:1",))
    found = [(one["created_by"], one["size_bytes"]) for one in builder.images.history("history:1")]
    assert [by for by, _ in found[:4]] == [
        'CMD ["/bin/sh", "-c", "true"]', "RUN |1 b=2 /bin/sh -c touch /x", "ARG b=2", "ENV a=1",
    ]  # fmt: skip


@pytest.mark.parametrize("base", ["base:1", "scratch"])
def test_the_same_build_gives_the_same_image(
    build: Build, builder: pc.Engine, files: Path, base: str
) -> None:
    """Also on a base that does not tell when it was made: states stand on this id."""
    text = f"FROM {base}\nENV a=1\nCOPY a.txt /same\nCMD true\n"
    first, second = build(text), build(text, tags=("same:1",))
    assert (first.id, first.base_id) == (second.id, second.base_id)
    *_, (_, made), (_, env) = [
        (one["created_by"], one["created"]) for one in builder.images.history("same:1")[:3]
    ]
    assert made
    assert not env


def test_triggers_run_in_the_next_build(build: Build, builder: pc.Engine, files: Path) -> None:
    build("FROM base:1\nONBUILD COPY a.txt /t/\nONBUILD RUN touch /t/ran\n", tags=("trigger:1",))
    image = build("FROM trigger:1\nRUN touch /t/own\n", tags=("triggered:1",))
    assert shell(builder, image, "ls /t") == "a.txt\nown\nran\n"
    assert "OnBuild" not in builder.images.inspect("triggered:1")["config"]


def test_what_is_suspicious_is_warned_of(build: Build) -> None:
    shown = Lines()
    build(
        "FROM base:1\nARG rev\nRUN true \\\n\n  && true\n",
        args={"rve": "1", "HTTP_PROXY": "x"}, display=shown,
    )  # fmt: skip
    warnings = [line for line in shown.text.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert "an empty line inside an instruction" in warnings[0]
    assert warnings[1].endswith("no ARG declares the build argument 'rve'; did you mean 'rev'?")


def test_a_trigger_may_need_a_stage(build: Build, builder: pc.Engine) -> None:
    build("FROM base:1\nONBUILD COPY --from=made /made /t\n", tags=("needing:1",))
    image = build("FROM base:1 AS made\nRUN echo x > /made\nFROM needing:1\nRUN cat /t > /u\n")
    assert shell(builder, image, "cat /u") == "x\n"


# ----------------------------------------------------------------- stages, cache


def test_only_what_is_needed_is_built(build: Build) -> None:
    shown = Lines()
    build(
        """\
        FROM base:1 AS unused
        RUN false
        FROM base:1 AS wanted
        RUN touch /wanted
        FROM wanted
        RUN false
        """,
        target="wanted", display=shown,
    )  # fmt: skip
    assert shown.done() == ["RUN touch /wanted"]


def test_stages_run_at_the_same_time(build: Build) -> None:
    """Each waits for what the other does."""
    text = (
        "FROM base:1 AS {me}\nRUN --mount=type=cache,target=/c,id=meet-{id} touch /c/{me}; "
        "while ! test -e /c/{other}; do sleep 0.01; done\n"
    )
    number = os.urandom(4).hex()
    build(
        text.format(me="a", other="b", id=number) + text.format(me="b", other="a", id=number)
        + "FROM base:1\nRUN --mount=from=a,target=/a --mount=from=b,target=/b true\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM base:1 AS a\nCOPY --from=b / /\nFROM a AS b\nCOPY x /\n", "stages need each other"),
        ("FROM $nothing\n", "is empty: give it a value"),
        ("FROM --platform=linux/s390x base:1\n", "this machine builds linux/"),
        ("FROM no-such-image:1\n", "no-such-image:1"),
        ("FROM base:1 AS a\n", "there is no stage 'b'; there are a"),
    ],
)
def test_stages_that_cannot_be(build: Build, text: str, message: str) -> None:
    options = {"target": "b"} if message.startswith("there is no stage") else {}
    with pytest.raises(pc.DockerfileError, match=message.replace("$", "\\$")):
        build(text, **options)


def test_a_change_does_again_what_depends_on_it(build: Build, files: Path) -> None:
    text = """\
        FROM base:1
        COPY a.txt /a
        RUN cat /a > /ran-a
        COPY dir /dir
        RUN cat /dir/sub/c > /ran-c
        """
    build(text)
    again, touched, changed, renamed = Lines(), Lines(), Lines(), Lines()
    build(text, display=again)
    os.utime(files / "dir" / "sub" / "c", (1, 1))
    build(text, display=touched)
    (files / "dir" / "sub" / "c").write_text("changed\n")
    build(text, display=changed)
    (files / "dir" / "sub" / "c").rename(files / "dir" / "sub" / "d")
    (files / "dir" / "sub" / "c").symlink_to("d")
    build(text, display=renamed)
    assert (again.done(), touched.done()) == ([], [])
    assert changed.done() == renamed.done() == ["COPY dir /dir", "RUN cat /dir/sub/c > /ran-c"]


def test_an_equal_result_of_another_stage_changes_nothing(build: Build) -> None:
    text = """\
        FROM base:1 AS made
        RUN {} > /made
        FROM base:1
        COPY --from=made /made /x
        RUN cat /x > /y
        """
    build(text.format("echo 1"))
    shown = Lines()
    build(text.format("echo  1"), display=shown)
    assert shown.done() == ["RUN echo 1 > /made", "COPY --from=made /made /x"]


def test_no_cache_does_it_again(build: Build) -> None:
    build("FROM base:1\nRUN touch /x\n")
    shown = Lines()
    build("FROM base:1\nRUN touch /x\n", no_cache=True, display=shown)
    assert shown.done() == ["RUN touch /x"]


def test_two_builds_at_once_do_the_work_once(
    build: Build, builder: pc.Engine, context: Path
) -> None:
    number = os.urandom(4).hex()
    text = f"FROM base:1\nRUN echo {number} && sleep 0.3 && touch /x\n"
    (context / "Dockerfile").write_text(text)
    shown = [Lines() for _ in range(3)]
    images: list[str] = []

    def one(display: Lines) -> None:
        images.append(builder.build(context, display=display).id)

    threads = [threading.Thread(target=one, args=(display,)) for display in shown]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(display.done()) for display in shown) == [0, 0, 1]
    assert len(set(images)) == 1


def test_equal_digests_on_two_machines(base_layer: bytes, tmp_path: Path) -> None:
    """Two stores, two checkouts at different times, one SOURCE_DATE_EPOCH."""
    found = []
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "context" / "dir").mkdir(parents=True)
        (folder / "context" / "dir" / "file").write_text("x\n")
        os.utime(folder / "context" / "dir" / "file", (len(found) * 1000, 7))
        (folder / "context" / "Dockerfile").write_text(
            "FROM base:1\nCOPY dir /made/dir\nRUN echo y > /made/y && mkdir /made/z\nWORKDIR /w\n"
        )
        layout = Layout(folder / "layout")
        layout.image([base_layer], {"Env": [f"PATH={PATH}"]})
        with pc.Engine(home=folder / "store") as engine:
            engine.images.load(folder / "layout", name="base:1")
            options = pc.BuildOptions(epoch=1_600_000_000)
            engine.build(folder / "context", tags=("made:1",), options=options)
            engine.images.save(["made:1"], folder / "saved.tar")
            found.append(engine.images.inspect("made:1")["digest"])
    assert found[0] == found[1] != ""


def test_an_epoch_of_nothing_is_an_epoch(build: Build, builder: pc.Engine) -> None:
    build("FROM base:1\nENV a=1\nRUN touch /x\nCMD true\n", tags=("epoch:1",), epoch=0)
    times = {one["created"] for one in builder.images.history("epoch:1")[:3]}
    assert times == {"1970-01-01T00:00:00Z"}


def test_only_what_is_asked_for_is_read(build: Build, context: Path) -> None:
    (context / "huge").mkdir()
    (context / "huge" / "file").write_text("x")
    (context / "huge" / "file").chmod(0)
    (context / "huge").chmod(0)
    (context / "small").write_text("x")
    (context / ".dockerignore").write_text("huge\n")
    try:
        build("FROM base:1\nCOPY . /x\n")
    finally:
        (context / "huge").chmod(0o700)


# ------------------------------------------------------------------- failures


def test_a_failing_run_says_where_and_why(build: Build) -> None:
    with pytest.raises(pc.DockerfileError) as caught:
        build("FROM base:1\n\nRUN echo almost; \\\n    echo there >&2; exit 3\n")
    error = caught.value
    assert (error.line, error.exit_code) == (3, 3)
    assert "it failed with exit code 3: /bin/sh -c echo almost; echo there >&2; exit 3" in str(
        error
    )
    assert "  3 | RUN echo almost; \\\n" in str(error)
    assert "Its last lines:\n" in str(error)
    assert set(error.log_tail.splitlines()) == {"almost", "there"}


def test_a_program_that_is_not_there(build: Build) -> None:
    with pytest.raises(pc.DockerfileError, match="/no/such/program"):
        build('FROM base:1\nRUN ["/no/such/program"]\n')


def test_a_failed_step_may_be_kept(build: Build, builder: pc.Engine) -> None:
    with pytest.raises(pc.DockerfileError, match="run -it failed:1 /bin/sh"):
        build("FROM base:1\nRUN echo here > /trace; false\n", keep_failed="failed:1")
    assert shell(builder, builder.image("failed:1"), "cat /trace") == "here\n"


def test_nothing_of_a_failed_step_is_reused(build: Build, builder: pc.Engine) -> None:
    number = os.urandom(4).hex()
    text = (
        f"FROM base:1\nRUN --mount=type=cache,target=/c,id=flaky-{number} echo x >> /half; "
        "test -e /c/again || { touch /c/again; false; }\n"
    )
    with pytest.raises(pc.BuildError):
        build(text)
    assert shell(builder, build(text), "cat /half") == "x\n"


def test_a_run_that_forks_without_end_ends(build: Build) -> None:
    with pytest.raises(pc.DockerfileError):
        build("FROM base:1\nRUN f() { f | f & f; }; f; exit 1\n")


def test_a_run_that_fills_its_disk_ends(build: Build, builder: pc.Engine) -> None:
    shown = Lines()
    with pytest.raises(pc.DockerfileError, match="exit code"):
        build(
            "FROM base:1\nRUN --mount=type=tmpfs,target=/t,size=1m cat /dev/zero > /t/x\n",
            display=shown,
        )
    assert "No space left on device" in shown.text


@pytest.mark.parametrize("kind", ["missing", "file", "no Dockerfile", "named"])
def test_contexts_that_are_none(builder: pc.Engine, tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("x")
    place = {"missing": tmp_path / "no", "file": tmp_path / "file"}.get(kind, tmp_path)
    message = {
        "missing": "the context does not exist", "file": "the context is not a directory",
        "no Dockerfile": "there is no Dockerfile in it", "named": "No such file",
    }[kind]  # fmt: skip
    with pytest.raises(pc.BuildError, match=message):
        builder.build(place, dockerfile="other" if kind == "named" else None)


# ------------------------------------------------------------- names, the store


def test_a_built_image_is_an_image_as_any_other(
    build: Build, builder: pc.Engine, proxy: Proxy, tmp_path: Path, home: Path
) -> None:
    name = f"{proxy.address}/built:1"
    build("FROM base:1\nRUN echo x > /x\nCMD cat /x\n", tags=(name, "also:1"))
    pushed = builder.images.push(name)
    builder.images.save(["also:1"], tmp_path / "saved.tar")
    with pc.Engine(home=tmp_path / "elsewhere") as other:
        assert other.images.pull(name).digest == pushed
        with other.run(name, wait_ready=False) as container:
            container.wait(10)
            assert container.logs().stdout == "x\n"
        (loaded,) = other.images.load(tmp_path / "saved.tar")
        assert other.images.inspect(loaded)["id"] == builder.images.inspect("also:1")["id"]


def test_pruning(build: Build, builder: pc.Engine) -> None:
    number = os.urandom(4).hex()
    text = f"FROM base:1\nRUN --mount=type=cache,target=/c,id={number} echo {number} > /c/x > /x\n"
    build(text, tags=("pruned:1",))
    kept = builder.images.prune()
    assert kept.steps == 0
    shown = Lines()
    build(text, display=shown)
    assert shown.done() == []
    assert builder.images.prune(unused_for_s=3600).steps == 0


def test_from_the_host(build: Build, builder: pc.Engine) -> None:
    text = 'FROM host:\nRUN echo x > /var/x\nENV made=1\nRUN cat /var/x > /var/y\nCMD ["cat", "/var/y"]\n'
    image = build(text, tags=("of-host:1",))
    for one in (image, builder.image("of-host:1")):
        with builder.run(one, wait_ready=False) as container:
            container.wait(10)
            assert container.logs().stdout == "x\n"
            assert container.image.config.env["made"] == "1"
    with pytest.raises(pc.ImageError, match="this machine's own programs"):
        builder.images.push("of-host:1", "127.0.0.1:1/x:1")


def test_options_are_checked(builder: pc.Engine, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM base:1\n")
    with pytest.raises(pc.BuildError, match="this machine builds linux/"):
        builder.build(context, options=pc.BuildOptions(platform="linux/s390x"))
    with pytest.raises(pc.ImageError):
        builder.build(context, tags=("Not A Name",))
