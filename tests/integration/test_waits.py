"""Waits: what they see in output, jobs that end, the first of several, and health checks."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

import pytest_containers as pc
from pytest_containers.model.wait import until_ready

PIECES = (
    r"printf 'gr\303'; sleep .05; printf '\266\303\237e\r'; sleep .05; "
    r"printf '\nsecond\r\n'; sleep 60"
)


def test_log_joins_characters_and_lines_that_come_in_pieces(engine: pc.Engine) -> None:
    with engine.run("host:", ["sh", "-c", PIECES], ready=pc.wait.log("größe")) as container:
        for pattern in ("größe\nsecond", re.compile("^größe$"), re.compile("ß.*^second$", re.S)):
            pc.wait.log(pattern).until(container, pc.wait.Deadline(60))
        with pytest.raises(pc.WaitTimeoutError, match="log.'third'. came 0 times of 1"):
            pc.wait.log("third").until(container, pc.wait.Deadline(0.1))


def test_log_ignores_the_line_ends_of_a_terminal(engine: pc.Engine) -> None:
    ready = pc.wait.log(re.compile("^up$"))
    with engine.run("host:", ["sh", "-c", "echo up; sleep 60"], tty=True, ready=ready):
        pass


def test_exit_waits_for_the_end_of_a_job(engine: pc.Engine) -> None:
    with engine.run("host:", ["sh", "-c", "sleep .1; exit 3"], ready=pc.wait.exit(3)) as job:
        assert job.exit_code == 3
    with pytest.raises(pc.ExitedError) as caught:
        engine.run("host:", ["sh", "-c", "echo no table; exit 3"], ready=pc.wait.exit(0))
    message = "ended with exit code 3 and not with 0; its last output:\n    no table"
    assert str(caught.value).endswith(message)
    with pytest.raises(pc.ExitedError, match="exit code 1 and not with 0; it wrote nothing"):
        engine.run("host:", ["false"], ready=pc.wait.exit())
    with pytest.raises(pc.NotReadyError, match=r"exit\(0\): it did not end"):
        engine.run("host:", ["sleep", "60"], ready=pc.wait.exit(), ready_timeout_s=0.1)


def test_the_first_of_any_that_is_ready_wins(engine: pc.Engine) -> None:
    never = pc.wait.callable(lambda container: time.sleep(0.01) or False)
    ready = pc.wait.any_of(never, pc.wait.port(8000), pc.wait.log("up"))
    with engine.run("host:", ["sh", "-c", "echo up; sleep 60"], ready=ready):
        pass
    either = pc.wait.any_of(pc.wait.port(8000), pc.wait.exit(0))
    with engine.run("host:", ["true"], ready=either) as container:
        assert container.exit_code == 0


def test_the_error_of_any_of_tells_each(engine: pc.Engine) -> None:
    container = engine.run("host:", ["sleep", "60"])
    ready = pc.wait.any_of(pc.wait.log("up"), pc.wait.port(8000), pc.wait.exec(["false"]))
    with pytest.raises(pc.NotReadyError) as caught:
        until_ready(container, ready, 0.3)
    message = str(caught.value)
    assert "none of 3 was ready: log('up') came 0 times of 1; port(8000): " in message
    assert "nothing listens on 8000/tcp" in message
    assert "exec(['false']): exit code 1" in message
    with pytest.raises(pc.SpecError, match="no HEALTHCHECK"):
        until_ready(container, pc.wait.any_of(pc.wait.log("up"), pc.wait.health()), 5)
    with pytest.raises(pc.SpecError, match="at least one"):
        pc.wait.any_of()
    container.remove()


def test_any_of_tells_the_end_of_the_container(engine: pc.Engine) -> None:
    ready = pc.wait.any_of(pc.wait.log("up"), pc.wait.port(8000))
    with pytest.raises(pc.ExitedError, match="exit code 4") as caught:
        engine.run("host:", ["sh", "-c", "echo no config; exit 4"], ready=ready)
    assert caught.value.log_tail == ["no config"]


def test_a_probe_tells_its_output_and_ends_with_its_timeout(
    engine: pc.Engine, tmp_path: Path
) -> None:
    dockerfile = tmp_path / "Dockerfile"
    check = "HEALTHCHECK --timeout=100ms CMD [ -e /go ] || { echo no /go yet; exec sleep 61; }\n"
    dockerfile.write_text(f'FROM host:\n{check}CMD ["sleep", "60"]\n')
    image = engine.build(tmp_path)
    container = engine.run(image, wait_ready=False)
    with pytest.raises(pc.NotReadyError) as caught:
        until_ready(container, None, 0.5, image.config)
    assert "did not end within 0.1 s and was killed: no /go yet" in str(caught.value)
    assert b"sleep 61" not in container.exec(["ps", "ax"]).stdout
    container.write_text("/go", "")
    pc.wait.health().until(container, pc.wait.Deadline(60))
    failing = pc.wait.exec(["sh", "-c", "echo out; echo err >&2; exit 7"])
    with pytest.raises(pc.NotReadyError, match="exit code 7: out err"):
        until_ready(container, failing, 0.1)
    container.remove()
