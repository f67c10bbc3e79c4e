"""`pytest-containers build`, and where bases come from."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.builds import Build, Lines, command, shell
from helpers.registry import Proxy

import pytest_containers as pc

TEXT = """\
FROM base:1 AS first
ARG given
ARG named
ARG unset=default
RUN --mount=type=secret,id=token --mount=type=secret,id=key,env=KEY \\
    echo "$given $named $unset $(cat /run/secrets/token) ${#KEY}" > /x
FROM base:1
"""


def run(context: Path, home: Path, *arguments: str, **env: str) -> tuple[int, str, str]:
    with command(context, home / "store", "--network=none", *arguments, **env) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.long
def test_options(builder: pc.Engine, home: Path, context: Path, tmp_path: Path) -> None:
    (context / "Other").write_text(TEXT)
    (tmp_path / "key").write_text("five5")
    code, out, err = run(
        context, home, "-f", str(context / "Other"), "--target=first", "-t", "made:1", "-t=made:2",
        "--build-arg=given=1", "--build-arg=named", "--build-arg=unset", "--label=a=b",
        "--secret=id=token,env=TOKEN", f"--secret=id=key,src={tmp_path / 'key'}",
        f"--iidfile={tmp_path / 'iid'}", named="from-outside", TOKEN="hidden", NO_COLOR="1",
    )  # fmt: skip
    assert code == 0, err
    assert out.strip() == (tmp_path / "iid").read_text()
    assert "hidden" not in err
    assert "made:2" in [one["name"] for one in builder.images.list()]
    config = builder.images.inspect("made:1")["config"]
    assert config["Labels"] == {"a": "b"}
    text = shell(builder, builder.image("made:2"), "cat /x")
    assert text == "1 from-outside default hidden 5\n"
    code, again, err = run(context, home, "-q", "-f", str(context / "Other"), "--target=first",
                           "--build-arg=given=1", "--build-arg=named=from-outside",
                           "--label=a=b", "--secret=id=token,env=TOKEN",
                           f"--secret=id=key,src={tmp_path / 'key'}", TOKEN="hidden")  # fmt: skip
    assert (code, again, err) == (0, out, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--secret=src=x"], "--secret src=x: expected id=ID,src=FILE or id=ID,env=NAME"),
        (["--secret=id=x,env=NOT_THERE"], "NOT_THERE is not in the environment"),
        (["--secret=id=x,src=/not/there"], "there is no file /not/there"),
        (["--ssh=default=/not/there"], "there is no agent at /not/there"),
        (["--scratch-size=much"], "'much' is not a size"),
        (["-f", "/not/there"], "/not/there: No such file or directory"),
        (["--target=none"], "there is no stage 'none'; there are 0"),
        (["-t", "Not A Name"], "Not A Name"),
    ],
)
def test_options_that_cannot_be(
    builder: pc.Engine, home: Path, context: Path, arguments: list[str], message: str
) -> None:
    (context / "Dockerfile").write_text("FROM base:1\n")
    code, out, err = run(context, home, *arguments)
    assert (code, out) == (1, "")
    assert message in err
    assert "Traceback" not in err


def test_a_failed_step_can_be_entered(builder: pc.Engine, home: Path, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM base:1\nRUN echo here > /trace; cat /no-such-file\n")
    code, out, err = run(context, home, "--keep-failed")
    assert (code, out) == (1, "")
    assert "Dockerfile:2:1: RUN: it failed with exit code 1" in err
    assert "  2 | RUN echo here > /trace; cat /no-such-file\n    | ^\n" in err
    assert "enter them with pytest-containers run -it failed-build /bin/sh" in err
    with builder.run("failed-build", ["cat", "/trace"], wait_ready=False) as container:
        assert container.wait(60) == 0
        assert container.logs().stdout == "here\n"


@pytest.mark.parametrize("stages", [1, 2])
def test_an_interrupted_build(builder: pc.Engine, home: Path, context: Path, stages: int) -> None:
    number = os.urandom(4).hex()
    first = f"FROM base:1 AS one\nRUN echo {number} up; sleep ${{SLEEP:-0}}\n"
    second = "FROM base:1\nCOPY --from=one /bin/sh /x\nRUN true\n" if stages == 2 else ""
    (context / "Dockerfile").write_text(first.replace("RUN", "ARG SLEEP\nRUN") + second)
    with command(context, home / "store", "--network=none", "--build-arg=SLEEP=100") as process:
        assert process.stderr is not None
        while f"{number} up\n" not in (line := process.stderr.readline()) or "echo" in line:
            assert line
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    again = Lines()
    builder.build(context, options=pc.BuildOptions(args={"SLEEP": "0"}), display=again)
    assert any(number in title for title in again.done())


def test_bases_come_from_the_store_and_then_from_a_registry(
    build: Build, proxy: Proxy, published: Callable[[str], str]
) -> None:
    name = f"{proxy.address}/{published('base-of-a-build')}"
    image = build(f"FROM {name}\nRUN read x < /data; echo $x > /seen\n")
    assert image.config.cmd[0] == "/bin/sh"
    asked = len(proxy.requests)
    assert asked
    build(f"FROM {name}\nRUN read x < /data; echo $x > /again\n")
    assert len(proxy.requests) == asked
    build(f"FROM {name}\nRUN read x < /data; echo $x > /pulled\n", pull=True)
    assert len(proxy.requests) > asked


def test_a_base_that_cannot_be_had_says_where_it_was_wanted(build: Build) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        name = f"127.0.0.1:{nobody.getsockname()[1]}/x:1"
        with pytest.raises(pc.DockerfileError, match="cannot be reached") as caught:
            build(f"# a comment\nFROM {name}\n")
    assert (caught.value.line, caught.value.column) == (2, 1)
