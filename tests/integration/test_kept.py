"""Kept containers: who reaches them, how many there are, and that nothing of them stays."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import leaks

import pytest_containers as pc
from pytest_containers import cli
from pytest_containers.engines.choose import kept_runs
from pytest_containers.model.kept import KeepLimits, KeptContainer, KeptRun

from .test_run_command import Typist, typist  # noqa: F401 - a fixture

COMMAND = [sys.executable, "-c", "from pytest_containers.cli import main; raise SystemExit(main())"]
SCRIPT = """
import os, sys
import pytest_containers as pc
from pytest_containers.model.kept import KeepLimits

home, most, keep_s, count = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
with pc.Engine(home=home) as engine:
    parent = engine.create_network()
    other = engine.run("host:", ["sleep", "1000"], name="other", network=parent)
    for number in range(count):
        network = engine.create_network([parent])
        container = engine.run(
            "host:", ["sh", "-c", "seq 3; echo err >&2; until [ -e /end ]; do sleep .02; done; exit 4"], name=f"box{number}",
            network=network, ready=pc.wait.log("err"), env={"SECRET": "x"},
        )
        engine.keep(container, test=f"t.py::t{number}", limits=KeepLimits(most, keep_s))
        container.remove()
        network.remove()
    engine.run("host:", ["sleep", "1000"], name="removed")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = open(f"/proc/{pid}/stat").read()
        except OSError:
            continue
        if "(pc-launcher)" in line and int(line.rsplit(")", 1)[1].split()[1]) == os.getpid():
            print(pid)
"""


@pytest.fixture
def home(tmp_path: Path, store_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The image store; kept runs are listed in a directory of this test."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("PYTEST_CONTAINERS_HOME", str(store_home))
    return store_home


@pytest.fixture
def keep(home: Path) -> Iterator[Callable[..., int]]:
    """Start a run that keeps containers and ends; returns the pid of its launcher."""
    launchers: list[int] = []

    def keep(count: int = 1, most: int = 10, keep_s: float = 300.0) -> int:
        arguments = [sys.executable, "-c", SCRIPT, home, str(most), str(keep_s), str(count)]
        done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True)
        launchers.append(int(done.stdout))
        return launchers[-1]

    yield keep
    assert cli.main(["rm", "--all"]) == 0
    for launcher in launchers:
        wait_until(lambda launcher=launcher: not family(launcher))
    assert os.listdir(Path(os.environ["XDG_RUNTIME_DIR"], "pytest-containers")) == []


def family(launcher: int) -> dict[int, leaks.Process]:
    """Return the living processes of a run."""
    table = leaks.process_table()
    if launcher not in table or table[launcher].name != "pc-launcher":
        return {}
    pids = [launcher]
    for pid in pids:  # which grows
        pids += [child for child, process in table.items() if process.parent == pid]
    return {pid: table[pid] for pid in pids if table[pid].state not in "ZX"}


def wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def listed() -> list[KeptContainer]:
    """Return all kept containers."""
    containers = with_runs(lambda runs: [each for run in runs for each in run.containers()])
    return sorted(containers, key=lambda container: container.kept_at)


def with_runs(use: Callable[[list[KeptRun]], Any]) -> Any:
    runs = list(kept_runs())
    try:
        return use(runs)
    finally:
        for run in runs:
            run.close()


def test_a_network_that_tests_still_use_outlives_its_kept_containers(home: Path) -> None:
    limits = KeepLimits(1, 60)
    with pc.Engine(home=home) as engine:
        networks = [engine.create_network() for _ in range(2)]
        for network in networks:  # the second container that is kept drops the first
            container = engine.run("host:", ["sleep", "1000"], name="box", network=network)
            engine.keep(container, test="t.py::t", limits=limits)
            container.remove()
        with engine.run("host:", ["true"], network=networks[0], wait_ready=False) as container:
            assert container.wait(60) == 0
        networks[0].remove()
        with pytest.raises(pc.ContainersError, match="removed"):
            engine.run("host:", ["true"], network=networks[0])
    assert cli.main(["rm", "--all"]) == 0


def test_a_kept_container_is_used_by_commands(keep, capfd: pytest.CaptureFixture[str]) -> None:
    launcher = keep(2)
    first, last = listed()
    assert (first.name, first.test, first.status) == ("box0", "t.py::t0", "running")
    assert last.kept and last.ends_in_s is not None and 0 < last.ends_in_s <= 300
    names = {process.name for process in family(launcher).values()}
    assert {"pc-launcher", "pc-supervisor"} <= names
    assert cli.main(["ps"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["NAME", "box0", "box1"]
    assert cli.main(["logs", "box0"]) == 0
    assert capfd.readouterr() == ("1\n2\n3\n", "err\n")
    assert cli.main(["logs", "--tail", "2", last.id[:8]]) == 0
    assert capfd.readouterr() == ("3\n", "err\n")
    command = [
        "exec",
        "-e",
        "A=b",
        "-w",
        "/tmp",
        "last",
        "sh",
        "-c",
        "echo $A $SECRET $PWD; exit 7",
    ]
    assert cli.main(command) == 7
    assert capfd.readouterr().out == "b x /tmp\n"
    assert cli.main(["exec", "box0", "nosuch"]) == 127
    assert "'nosuch' was not found" in capfd.readouterr().err
    done = subprocess.run(
        [*COMMAND, "enter"],
        input="hostname; exit 3", stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "box1\n")
    # A following reader ends with the container.
    follower = subprocess.Popen(
        [*COMMAND, "logs", "-f", "box0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert follower.stdout is not None
    assert follower.stdout.readline() == "1\n"
    assert cli.main(["rm", "box0"]) == 0
    follower.communicate(timeout=20)
    assert [container.name for container in listed()] == ["box1"]
    assert cli.main(["exec", "box0", "true"]) != 0
    assert "no container 'box0' is kept" in capfd.readouterr().err
    assert cli.main(["rm", "box1"]) == 0
    wait_until(lambda: not family(launcher))  # the run ends with its last container


@pytest.mark.long
def test_the_oldest_goes_first_also_of_other_runs(keep) -> None:
    keep(3, most=2)
    assert [container.test for container in listed()] == ["t.py::t1", "t.py::t2"]
    keep(1, most=2)
    assert [container.test for container in listed()] == ["t.py::t2", "t.py::t0"]


def test_everything_goes_when_the_time_is_over(keep) -> None:
    launcher = keep(1, keep_s=0.5)
    wait_until(lambda: not family(launcher))
    assert listed() == []


@pytest.mark.parametrize("victim", ["pc-launcher", "pc-supervisor", "pc-network"])
def test_nothing_is_left_when_a_process_of_a_kept_run_is_killed(keep, victim: str) -> None:
    launcher = keep()
    members = family(launcher)
    assert len(members) >= 4
    pid = next(pid for pid, process in members.items() if process.name == victim)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid, process) for pid, process in members.items()))
    assert listed() == []  # which removes the socket that a killed launcher leaves


def is_alive(pid: int, process: leaks.Process) -> bool:
    now = leaks.process_table().get(pid)
    return now is not None and now.name == process.name and now.state not in "ZX"


def test_a_kept_container_that_ends_stays_until_it_is_removed(keep, capfd) -> None:
    keep()
    # The container may end before the program that ends it, which is killed then.
    assert cli.main(["exec", "last", "touch", "/end"]) in (0, 137)
    wait_until(lambda: listed()[0].status == "exited")
    assert cli.main(["ps"]) == 0
    assert "exited (4)" in capfd.readouterr().out
    assert cli.main(["logs"]) == 0
    assert capfd.readouterr().out == "1\n2\n3\n"
    assert cli.main(["enter"]) == 125
    error = capfd.readouterr().err
    assert "has ended with exit code 4" in error
    assert "pytest-containers logs box0" in error


@pytest.mark.long
def test_a_shell_at_a_terminal(keep, typist: type[Typist]) -> None:  # noqa: F811
    keep()
    user = typist("-it", "-e", "PS1=ready> ", "last", "/bin/sh", command="exec")
    user.see("ready> ")
    user.type("stty size\r")
    user.see("33 101")
    # A shell that is just forking would lose the signal.
    user.type("sh -c 'echo up; exec sleep 1000'\r")
    user.see("up\r\n")
    user.type("\x03")  # Ctrl-C ends the program, and neither the shell nor the container
    user.see("ready> ")
    user.type("exit 5\r")
    assert user.end() == 5
    assert termios.tcgetattr(user.terminal) == user.before
    user = typist(command="enter")
    user.see("# ")
    user.type("echo $((6*7)) $(hostname)\r")
    user.see("42 box0")
    user.see("# ")
    user.type("\x04")  # Ctrl-D
    assert user.end() == 0
    assert listed()[0].status == "running"


def test_other_users_reach_nothing(keep, tmp_path: Path) -> None:
    keep()
    directory = Path(os.environ["XDG_RUNTIME_DIR"], "pytest-containers")
    (path,) = directory.iterdir()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # Names of others are left alone, and a socket without a listener goes.
    (directory / "../other.socket").touch()
    (directory / "notes").touch()
    fd = os.open(directory, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"/proc/self/fd/{fd}/{'0' * 16}.socket")
    os.close(fd)
    assert len(listed()) == 1
    assert sorted(os.listdir(directory)) == sorted([path.name, "notes"])
    (directory / "notes").unlink()
    directory.chmod(0o755)
    try:
        with pytest.raises(pc.ContainersError, match="is open to others"):
            kept_runs()
    finally:
        directory.chmod(0o700)


@pytest.mark.needs("root")
def test_the_launcher_admits_the_user_only(keep, tmp_path: Path) -> None:
    keep()
    directory = Path(os.environ["XDG_RUNTIME_DIR"], "pytest-containers")
    (path,) = directory.iterdir()
    # As if the modes of directories and socket did not matter.
    fd = os.open(path, os.O_PATH)
    path.chmod(0o666)
    code = (
        "import os, socket; os.setgroups([]); os.setresgid(*[65534] * 3); os.setresuid(*[65534] * 3)\n"
        f"s = socket.socket(socket.AF_UNIX); s.connect('/proc/self/fd/{fd}')\n"
        "print(s.recv(100))"
    )
    arguments = [sys.executable, "-c", code]
    done = subprocess.run(arguments, pass_fds=[fd], capture_output=True, text=True)
    os.close(fd)
    assert done.stdout == "b''\n", done.stderr
    assert len(listed()) == 1
