"""Builds that cannot be, that fail and that end early."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from helpers.builds import Build, Lines, shell

import pytest_containers as pc


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
    assert set(error.log_tail) == {"almost", "there"}


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
    """A shell ends when it cannot fork; were there no limit, it would stop by itself at 5000."""
    with pytest.raises(pc.DockerfileError) as caught:
        build(
            "FROM base:1\nRUN trap 'echo forks: $n' EXIT; n=0; "
            "while test $n -lt 5000; do sleep 1000 & n=$((n + 1)); done; exit 99\n"
        )
    lines = caught.value.log_tail
    counted = next((line for line in lines if line.startswith("forks: ")), "forks: 0")
    assert any("fork" in line for line in lines if line != counted), lines
    assert 2000 < int(counted.removeprefix("forks: ")) <= 4096
    assert caught.value.exit_code != 99


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


def test_what_a_run_may_write_has_a_limit(build: Build) -> None:
    with pytest.raises(pc.DockerfileError) as caught:
        build("FROM base:1\nRUN cat /dev/zero > /x\n", scratch_size_bytes=1 << 20)
    assert "No space left on device" in caught.value.message
    assert "a RUN may write 1048576 bytes; scratch and scratch_size_bytes" in caught.value.message
    build("FROM base:1\nRUN true\n", scratch_size_bytes=1 << 20)


def test_a_run_may_write_to_the_disk(build: Build, builder: pc.Engine) -> None:
    image = build("FROM base:1\nRUN mkdir /d && echo x > /d/x && rm /bin/env\n", scratch="disk")
    assert shell(builder, image, "cat /d/x; ls /bin/env 2>/dev/null") == "x\n"
    with pytest.raises(pc.DockerfileError) as caught:
        build("FROM base:1\nRUN cat /dev/zero > /x\n", scratch="disk", scratch_size_bytes=10 << 20)
    assert "killed: the writable layer outgrew 10485760 bytes" in caught.value.message


@pytest.mark.parametrize("what", ["pipe", "thread"])
def test_a_machine_that_has_no_more_is_told(
    build: Build, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def no_pipe(_: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    build("FROM base:1\nCOPY <<EOF /file\nEOF\n")  # the base is read once, by a thread
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        if what == "pipe":
            patch.setattr(os, "pipe2", no_pipe)
        else:
            patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(pc.BuildError) as caught:
            build(f"FROM base:1\nCOPY <<EOF /file\n{what}\nEOF\n")
    code = errno.EMFILE if what == "pipe" else errno.EAGAIN
    assert f"send files to a step: {os.strerror(code)}" in str(caught.value)
    assert len(os.listdir("/proc/self/fd")) <= before
