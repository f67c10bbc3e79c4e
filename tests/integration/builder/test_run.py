"""RUN: what it runs, what it sees, what it leaves."""

from __future__ import annotations

import os
import socket
import tarfile
from pathlib import Path

import pytest
from helpers.builds import Build, Lines, shell

import pytest_containers as pc


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


@pytest.mark.long
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
def test_system_calls_are_filtered(build: Build, builder: pc.Engine) -> None:
    image = build("""
        FROM base:1
        RUN while read name value; do case $name in Seccomp:) echo $value;; esac; done \\
            < /proc/self/status > /seccomp
    """)
    assert shell(builder, image, "cat /seccomp") == "2\n"


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


@pytest.mark.parametrize("way", ["RUN --network=none", "option"])
def test_without_a_network(build: Build, way: str) -> None:
    shown = Lines()
    build(
        f"FROM base:1\nRUN {'--network=none ' if way != 'option' else ''}cat /proc/net/route; echo {way} end\n",
        network="none" if way == "option" else "default", display=shown,
    )  # fmt: skip
    lines = [line for line in shown.text.splitlines() if "\t" in line]
    assert len(lines) == 1  # of headings
    assert "network: " not in shown.text


def test_the_network_of_the_host(build: Build) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        shown = Lines()
        build(f"FROM base:1\nRUN --network=host cat /proc/net/tcp; echo {port}\n", display=shown)
    assert f"0100007F:{port:04X}" in shown.text


def test_a_private_cache_is_for_one_at_a_time(build: Build) -> None:
    """Two stages that run together, and each waits until both have written."""
    number = os.urandom(4).hex()
    run = (
        "RUN --mount=type=cache,target=/c,id=private-{id},sharing=private "
        "--mount=type=cache,target=/m,id=meet-{id} "
        "touch /c/{me} /m/{me}; while ! test -e /m/{other}; do sleep 0.01; done; ls /c > /seen\n"
    )
    shown = Lines()
    build(
        f"FROM base:1 AS a\n{run.format(me='a', other='b', id=number)}"
        f"FROM base:1 AS b\n{run.format(me='b', other='a', id=number)}"
        "FROM base:1\nRUN --mount=from=a,target=/a --mount=from=b,target=/b "
        "echo saw $(cat /a/seen) $(cat /b/seen)\n",
        display=shown,
    )
    assert " saw a b\n" in shown.text


def test_a_bind_mount_with_options(build: Build, context: Path) -> None:
    (context / "sub").mkdir()
    (context / "sub" / "f").write_text("f\n")
    shown = Lines()
    build(
        """\
        FROM base:1
        WORKDIR /w
        ARG part=sub
        RUN --mount=type=bind,src=$part,dst=relative,readonly=false echo g > relative/g; ls relative
        RUN --mount=type=tmpfs,target=/t,size=64k stat -f -c '%b of %S' /t
        """,
        display=shown,
    )
    assert " f\n" in shown.text
    assert " g\n" in shown.text
    assert " 16 of 4096\n" in shown.text
    assert [path.name for path in (context / "sub").iterdir()] == ["f"]


def test_mounts_take_variables(build: Build) -> None:
    shown = Lines()
    text = """\
        FROM base:1
        ARG kind=Secret
        ARG sharing=LOCKED
        ARG yes=true
        ARG mode=0440
        ARG uid=7
        RUN --mount=type=$kind,id=s,target=/s,required=$yes,mode=$mode,uid=$uid,gid=$uid \\
            --mount=type=cache,target=/c,sharing=$sharing,mode=$mode,uid=$uid,id=variables \\
            --mount=target=/b,ro=$yes \\
            stat -c '%n %a %u' /s /c; touch /b/x || echo read-only
        """
    build(text, secrets={"s": b"a secret"}, display=shown, args={"uid": "0"})
    for line in ("/s 440 0", "/c 440 0", "read-only"):
        assert f" {line}\n" in shown.text


@pytest.mark.needs("id range")
def test_mounts_take_owners_from_variables(build: Build) -> None:
    shown = Lines()
    build(
        """\
        FROM base:1
        ARG uid=7
        RUN --mount=type=secret,id=s,target=/s,uid=$uid --mount=type=cache,target=/c,uid=$uid \\
            stat -c '%n %u' /s /c
        """,
        secrets={"s": b"a secret"}, display=shown,
    )  # fmt: skip
    assert " /s 7\n" in shown.text
    assert " /c 7\n" in shown.text


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ("type=$v,target=/a", "--mount=type=$v,target=/a: there is no type 'w'"),
        ("type=cache,target=/a,sharing=$v", "sharing=w: expected one of shared"),
        ("target=/a,ro=$v", "ro=w: expected true or false"),
        ("target=$none", "nothing can be mounted over the root"),
        ("type=cache,target=/a,uid=$v", "uid=w: expected a number"),
        ("type=cache,target=/a,mode=$v", "mode=w: expected an octal number"),
    ],
)
def test_a_variable_of_a_mount_may_be_wrong(build: Build, mount: str, message: str) -> None:
    with pytest.raises(pc.DockerfileError) as caught:
        build(f"FROM base:1\nARG v=w\nRUN --mount={mount} true\n")
    assert (caught.value.line, message in caught.value.message) == (3, True)


@pytest.mark.parametrize(
    ("sharing", "tries", "order"),
    [("shared", 1000, "begin begin end end"), ("locked", 50, "begin end begin end")],
)
def test_a_locked_cache_is_for_one_at_a_time(
    build: Build, sharing: str, tries: int, order: str
) -> None:
    """Two stages that run together, and each waits a while for the other to begin."""
    cache = f"--mount=type=cache,target=/c,id=log-{os.urandom(4).hex()},sharing={sharing}"
    run = (
        f"RUN {cache} echo begin >> /c/log; touch /c/{{0}}; n=0; while ! test -e /c/{{1}} && "
        f"test $n -lt {tries}; do sleep 0.01; n=$((n + 1)); done; echo end >> /c/log\n"
    )
    shown = Lines()
    build(
        f"FROM base:1 AS a\n{run.format('a', 'b')}FROM base:1 AS b\n{run.format('b', 'a')}"
        f"FROM base:1\nRUN {cache} --mount=from=a,target=/a --mount=from=b,target=/b "
        "echo $(cat /c/log)\n",
        display=shown,
    )
    assert f" {order}\n" in shown.text


def test_a_cache_begins_with_files_of_a_stage(build: Build) -> None:
    number = os.urandom(4).hex()
    stage = "FROM base:1 AS made\nRUN mkdir -p /d/sub && echo first > /d/sub/f && echo x > /d/g\n"
    mount = f"type=cache,target=/c,id=from-{number},from=made"
    shown, again = Lines(), Lines()
    build(
        f"{stage}FROM base:1\nRUN --mount={mount},source=/d/sub cat /c/f; ls /c; echo new > /c/f\n"
        f'RUN --mount={mount} ls /c/d; echo "bin $(ls -d /c/bin)"\n',
        display=shown,
    )
    for line in ("first", "f", "sub", "g", "bin /c/bin"):
        assert f" {line}\n" in shown.text
    build(f"{stage}FROM base:1\nRUN --mount={mount},source=/d/sub echo again; cat /c/f\n",
          display=again)  # fmt: skip
    assert " new\n" in again.text  # what it began with is not put there a second time
