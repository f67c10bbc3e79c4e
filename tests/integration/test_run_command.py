"""`pytest-containers run`: its streams, as a user has them in a shell, in a pipe or typed."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

_MAIN = "import sys; from pytest_containers.cli import main; sys.exit(main())"
_TIMEOUT_S = 30


@pytest.fixture(autouse=True)
def _own_store(store_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_CONTAINERS_HOME", str(store_home))


def _command(arguments: Sequence[str], command: str = "run") -> list[str]:
    return [sys.executable, "-c", _MAIN, command, *arguments]


def run(*arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        _command(arguments), input=input, capture_output=True, timeout=_TIMEOUT_S, check=False
    )


def test_output_error_output_and_exit_code() -> None:
    done = run("host:", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 3)


def test_input_is_passed_on_only_if_wanted() -> None:
    assert run("-i", "host:", "cat", input=b"typed").stdout == b"typed"
    assert run("host:", "cat", input=b"typed").stdout == b""


def test_much_data_goes_through_both_ways() -> None:
    """More than a pipe, a frame or the log of a container holds."""
    data = os.urandom(1 << 20) * 24
    assert run("-i", "host:", "cat", input=data).stdout == data


def test_a_program_that_does_not_read_all_of_its_input() -> None:
    done = run("-i", "host:", "head", "-c", "3", input=b"abc" * 1_000_000)
    assert (done.stdout, done.returncode) == (b"abc", 0)


def test_a_slow_reader_holds_the_program_back() -> None:
    script = "dd if=/dev/zero bs=1M count=40 2>/dev/null; echo end >&2"
    with subprocess.Popen(
        _command(["host:", "sh", "-c", script]), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = os.read(process.stdout.fileno(), 1)
        assert not select.select([process.stderr], [], [], 0.5)[0]
        assert first + process.stdout.read() == bytes(40 << 20)
        assert process.stderr.read() == b"end\n"
        assert process.wait(_TIMEOUT_S) == 0


def test_a_reader_that_goes_away() -> None:
    with subprocess.Popen(
        _command(["host:", "sh", "-c", "while :; do echo line; done"]),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert os.read(process.stdout.fileno(), 5) == b"line\n"
        process.stdout.close()
        assert process.wait(_TIMEOUT_S) == 1
        assert process.stderr.read() == b""


def test_what_cannot_start() -> None:
    done = run("host:", "no-such-program")
    assert done.returncode == 127
    assert b"'no-such-program' was not found" in done.stderr


def test_a_terminal_needs_one_here() -> None:
    done = run("-it", "host:", "sh")
    assert done.returncode == 125
    assert b"standard input is not a terminal; leave -t away" in done.stderr


def test_a_terminal_without_ours() -> None:
    assert run("-t", "host:", "sh", "-c", "tty; echo $TERM").stdout == b"/dev/pts/0\r\nxterm\r\n"


def test_signals_are_the_default_ones_whatever_is_ignored_here() -> None:
    """As with nohup(1), and with ``&`` in a script."""
    done = subprocess.run(
        [
            "env", "--ignore-signal=HUP,INT,QUIT,USR1",
            *_command(["host:", "grep", "^SigIgn:", "/proc/self/status"]),
        ],
        capture_output=True, timeout=_TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.stdout == b"SigIgn:\t0000000000000000\n", done.stderr


class Typist:
    """Somebody at a terminal in which the command runs."""

    def __init__(self, *arguments: str, command: str = "run") -> None:
        self.terminal, inner = pty.openpty()
        self.resize(33, 101)
        self.before = termios.tcgetattr(self.terminal)
        # Ctrl-C is theirs, also if the tests run where it is ignored (`pytest &` in a script).
        self.process = subprocess.Popen(
            ["env", "--default-signal", *_command(arguments, command)],
            stdin=inner, stdout=inner, stderr=inner, start_new_session=True,
        )  # fmt: skip
        os.close(inner)
        self._seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def see(self, text: str) -> None:
        """Wait for it, behind what was seen before."""
        end = time.monotonic() + _TIMEOUT_S
        while text.encode() not in self._seen:
            left = end - time.monotonic()
            assert left > 0, self._seen
            if select.select([self.terminal], [], [], left)[0]:
                self._seen += os.read(self.terminal, 4096)
        self._seen = self._seen.partition(text.encode())[2]

    def end(self) -> int:
        return self.process.wait(_TIMEOUT_S)


@pytest.fixture
def typist() -> Iterator[type[Typist]]:
    made: list[Typist] = []

    class Ours(Typist):
        def __init__(self, *arguments: str, command: str = "run") -> None:
            super().__init__(*arguments, command=command)
            made.append(self)

    yield Ours
    for one in made:
        one.process.kill()
        one.process.wait()
        os.close(one.terminal)


def test_a_shell_to_type_into(typist: type[Typist]) -> None:
    user = typist("-it", "-e", "PS1=ready> ", "host:", "/bin/sh")
    user.see("ready> ")
    user.type("stty size\r")
    user.see("33 101")
    user.type("echo $((6*7))\r")
    user.see("42\r\n")
    user.type("exit 5\r")
    assert user.end() == 5
    assert termios.tcgetattr(user.terminal) == user.before


def test_keys_reach_the_program(typist: type[Typist]) -> None:
    script = """
        trap 'echo caught; waiting=' INT
        waiting=1
        echo up
        while [ "$waiting" ]; do sleep 0.05; done
        while read -r line; do echo "got $line"; done
    """
    user = typist("-it", "host:", "sh", "-c", script)
    user.see("up\r\n")
    user.type("\x03")  # Ctrl-C
    user.see("caught")
    user.type("more\r")
    user.see("got more")
    user.type("\x04")  # Ctrl-D
    assert user.end() == 0


def test_the_terminal_follows_the_size_of_ours(typist: type[Typist]) -> None:
    script = "trap 'stty size' WINCH; echo up; while :; do sleep 0.05; done"
    user = typist("-it", "host:", "sh", "-c", script)
    user.see("up")
    user.resize(44, 122)
    user.process.send_signal(signal.SIGWINCH)
    user.see("44 122")


def test_ctrl_c_ends_a_container_that_has_no_terminal(typist: type[Typist]) -> None:
    user = typist("host:", "sh", "-c", "echo up; sleep 1000")
    user.see("up")
    user.process.send_signal(signal.SIGINT)
    assert user.end() == 130


@pytest.mark.long
def test_system_calls_are_filtered_as_the_options_say(tmp_path: Path) -> None:
    show = ["host:", "sh", "-c", "grep Seccomp: /proc/self/status"]
    assert run(*show).stdout == b"Seccomp:\t2\n"
    assert run("--security-opt", "seccomp=unconfined", *show).stdout == b"Seccomp:\t0\n"
    rule = '{"names": ["getsid"], "action": "SCMP_ACT_ERRNO"}'
    profile = tmp_path / "profile.json"
    profile.write_text(f'{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}')
    done = run("--security-opt", f"seccomp={profile}", "host:", sys.executable, "-c",
               "import os; os.getsid(0)")  # fmt: skip
    assert b"PermissionError" in done.stderr
    for option in ("seccomp", "apparmor=x"):
        done = run("--security-opt", option, *show)
        assert done.returncode == 125
        assert f"security_opt {option!r} is not supported".encode() in done.stderr


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run another command than `run`."""
    line = [sys.executable, "-c", _MAIN, *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)


def test_a_container_that_goes_on_without_the_command() -> None:
    done = run("-d", "--rm", "--name", "detached", "host:", "sh", "-c", "echo up; exec sleep 1000")
    assert done.returncode == 0, done.stderr
    id_ = done.stdout.decode().strip()
    try:
        (line,) = [line for line in command("ps").stdout.splitlines() if id_[:12] in line]
        assert line.split()[1:3] == ["detached", "host:"]
        assert command("exec", id_, "hostname").stdout == "detached\n"
        assert command("logs", "detached").stdout == "up\n"
    finally:
        removed = command("rm", id_)
    assert removed.returncode == 0, removed.stderr
    assert id_[:12] not in command("ps").stdout


@pytest.mark.parametrize("option", ["-i", "-t", "--commit=x:1"])
def test_what_has_no_meaning_without_the_command(option: str) -> None:
    done = run("-d", option, "host:", "true")
    assert done.returncode == 125
    assert b"nothing would be connected to the container" in done.stderr
