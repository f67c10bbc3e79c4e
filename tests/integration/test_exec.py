"""More programs in a running container."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import pytest_containers as pc


@pytest.fixture
def container(engine: pc.Engine) -> Iterator[pc.Container]:
    with engine.run("host:", ["sleep", "1000"], env={"OWN": "1"}) as container:
        yield container


def test_bytes_and_text(container: pc.Container) -> None:
    result = container.exec(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.returncode, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    assert container.exec(["echo", "ä"], text=True).stdout == "ä\n"


def test_input_of_any_size(container: pc.Container) -> None:
    data = bytes(range(256)) * 8192
    assert container.exec(["cat"], input=data).stdout == data


def test_input_that_nobody_reads(container: pc.Container) -> None:
    assert container.exec(["true"], input=b"x" * 1_000_000).returncode == 0


def test_environment_and_directory(container: pc.Container) -> None:
    script = "echo $OWN $MORE; pwd"
    result = container.exec(["sh", "-c", script], env={"MORE": "2"}, workdir="/var", text=True)
    assert result.stdout == "1 2\n/var\n"


def test_check_raises_with_all_facts(container: pc.Container) -> None:
    with pytest.raises(pc.ExecError, match="exit code 9: sorry") as caught:
        container.exec(["sh", "-c", "echo sorry >&2; exit 9"], check=True)
    assert caught.value.returncode == 9
    assert caught.value.stderr == b"sorry\n"


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [("nosuch", 127, "was not found"), ("/nosuch", 127, "is not there"),
     ("/etc/passwd", 126, "cannot be executed"), ("/tmp", 126, "cannot be executed")],
)  # fmt: skip
def test_programs_that_cannot_be_run(
    container: pc.Container, command: str, code: int, words: str
) -> None:
    with pytest.raises(pc.StartError, match=words) as caught:
        container.exec([command])
    assert caught.value.exit_code == code


def test_a_timeout_kills_the_program(container: pc.Container) -> None:
    with pytest.raises(pc.WaitTimeoutError, match="was killed"):
        container.exec(["sleep", "777"], timeout_s=0.1)
    assert "777" not in container.exec(["ps", "ax"], text=True).stdout


def test_a_signal_is_128_and_its_number(container: pc.Container) -> None:
    assert container.exec(["sh", "-c", "kill -TERM $$"]).returncode == 143


def test_a_terminal(container: pc.Container) -> None:
    result = container.exec(["sh", "-c", "tty; stty -echo; read x; echo got $x"], tty=True,
                            input="hello\n", text=True)  # fmt: skip
    assert "/dev/pts/" in result.stdout
    assert "got hello" in result.stdout


def test_not_in_an_ended_container(container: pc.Container) -> None:
    container.kill()
    container.wait(60)
    with pytest.raises(pc.NotRunningError, match="is not running"):
        container.exec(["true"])


def test_the_end_of_the_container_ends_it(engine: pc.Engine) -> None:
    with engine.run("host:", ["sleep", "0.1"]) as container:
        assert container.exec(["sleep", "100"]).returncode == 137


def test_no_capability_is_inheritable(container: pc.Container) -> None:
    status = container.exec(["cat", "/proc/self/status"], text=True).stdout
    found = dict(line.split(":\t", 1) for line in status.splitlines() if line.startswith("Cap"))
    assert found["CapInh"] == found["CapAmb"] == "0" * 16
    assert found["CapBnd"] == found["CapEff"] == "00000000a80425fb"
