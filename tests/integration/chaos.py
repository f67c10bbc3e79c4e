"""Kill parts of a test run at random instants and look at what is left (`test_cleanup` runs it).

A program of its own: it becomes the subreaper of all it starts (PR_SET_CHILD_SUBREAPER), so that
no orphan escapes its count. ``python chaos.py SEED TRIALS HOME TMP KIND`` prints a JSON object per
trial; KIND is ``engine``, ``pytest`` or ``xdist``.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT_S = 1.0
SUITE = """
import os
import pytest
import pytest_containers as pc

TAG = f"1000.{os.getpid()}"

@pytest.fixture(scope="session", autouse=True)
def lasting(session_containers):
    return session_containers.run("host:", ["sleep", TAG], name="lasting")

@pytest.mark.parametrize("number", range(200))
def test_it(containers, number):
    script = f"(sleep {TAG} &); echo up; sleep {TAG}"
    for _ in range(20):
        c = containers.run("host:", ["sh", "-c", script], ready=pc.wait.log("up"))
        assert c.exec(["true"]).returncode == 0
        c.remove()
"""
ENGINE = """
import sys, threading
import pytest_containers as pc
engine = pc.Engine(home=sys.argv[1])
lasting = engine.run("host:", ["sleep", "1000"])
def work():
    while True:
        script = "(sleep 1000 &); echo up; sleep 1000"
        with engine.run("host:", ["sh", "-c", script], ready=pc.wait.log("up")) as c:
            c.exec(["true"])
for _ in range(2):
    threading.Thread(target=work).start()
"""


def process_table() -> dict[int, tuple[int, str, str]]:
    """``(parent, name, state)`` by pid."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            name, rest = text[text.index("(") + 1 :].rsplit(")", 1)
            state, parent = rest.split()[:2]
            found[int(entry)] = int(parent), name, state
    return found


def descendants() -> dict[int, tuple[int, str, str]]:
    """All living processes below this one."""
    table = process_table()
    below = {os.getpid()}
    found: dict[int, tuple[int, str, str]] = {}
    grown = True
    while grown:
        grown = False
        for pid, (parent, name, state) in table.items():
            if parent in below and pid not in below:
                below.add(pid)
                found[pid] = parent, name, state
                grown = True
    return found


def living() -> dict[int, tuple[int, str, str]]:
    """The same after the dead were reaped."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    return {pid: entry for pid, entry in descendants().items() if entry[2] not in "ZX"}


def state(tmp: Path) -> dict[str, list[str]]:
    """What a run could leave on the machine, beside processes."""
    unix = Path("/proc/net/unix").read_text().split()
    return {
        "mounts": sorted(Path("/proc/self/mountinfo").read_text().splitlines()),
        "links": sorted(name for name in os.listdir("/sys/class/net") if name.startswith("pc")),
        "routes": sorted(
            line for line in Path("/proc/net/route").read_text().splitlines() if "pc" in line
        ),
        "sockets": sorted(name for name in unix if "pytest-containers" in name),
        "cgroups": sorted(str(path) for path in Path("/sys/fs/cgroup").glob("*/*pytest*")),
        "files": sorted(name for name in os.listdir(tmp) if not name.startswith("pytest-of-")),
    }


def leftovers(
    before: dict[str, list[str]], during: dict[str, list[str]], after: dict[str, list[str]]
) -> dict[str, list[str]]:
    """What came while it ran and is still there; not what another run on this machine has made."""
    found = {name: set(after[name]) & set(during[name]) - set(before[name]) for name in after}
    return {name: sorted(things) for name, things in found.items() if things}


def main(seed: str, trials: str, home: str, tmp: str, kind: str) -> None:
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    chance = random.Random(int(seed))
    suite = Path(tmp) / "suite"
    suite.mkdir(exist_ok=True)
    (suite / "test_suite.py").write_text(SUITE)
    plugin = ["-p", "pytest_containers.plugin"] if os.environ.get("CHAOS_LOAD_PLUGIN") else []
    commands = {
        "engine": [sys.executable, "-c", ENGINE, home],
        "pytest": [
            sys.executable,
            "-m",
            "pytest",
            *plugin,
            "-q",
            "-p",
            "no:cacheprovider",
            str(suite),
        ],
    }
    commands["xdist"] = [*commands["pytest"], "-n", "2"]
    for number in range(int(trials)):
        print(json.dumps(trial(chance, commands[kind], kind, home, Path(tmp), number)), flush=True)


def trial(
    chance: random.Random, command: list[str], kind: str, home: str, tmp: Path, number: int
) -> dict[str, Any]:
    before = state(tmp)
    environment = {**os.environ, "PYTEST_CONTAINERS_HOME": home, "TMPDIR": str(tmp)}
    output = tmp.with_name(f"{tmp.name}-output")
    with output.open("wb") as file:
        main_process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    # A container of each worker: its own tag is in their commands.
    tests = 2 if kind == "xdist" else 1
    alive = wait_for(lambda: len(containers(living())) >= tests, 20.0)
    time.sleep(chance.random() * 0.3)
    table = living()
    roles: dict[str, list[int]] = {
        role: [pid for pid, entry in table.items() if entry[1] == f"pc-{role}"]
        for role in ("launcher", "supervisor", "network")
    }
    roles["main"] = [main_process.pid]
    if kind == "xdist":
        roles["worker"] = [
            pid for pid, entry in table.items()
            if entry[0] == main_process.pid and entry[1].startswith("python")
        ]  # fmt: skip
    victim = sorted(roles)[number % len(roles)]
    # Whoever is to notice the death of another must be able to run; that of main, nobody must.
    stopped = chance.choice([None, *sorted(roles)]) if victim == "main" else None
    result: dict[str, Any] = {
        "kind": kind, "victim": victim, "stopped": stopped, "alive": alive,
        "containers": len(containers(table)),
    }  # fmt: skip
    if not alive or not result["containers"]:
        result["table"] = [f"{pid} {entry}" for pid, entry in table.items()]
        result["output"] = output.read_text(errors="replace")[-4000:]
    if stopped is not None:
        for pid in roles[stopped]:
            kill(pid, signal.SIGSTOP)
    if victim == "worker":
        worker = roles[victim][0]
        doomed = {worker, *(pid for pid in table if f"1000.{worker}" in command_line(pid))}
        result["containers"] = len(doomed) - 1
    during = state(tmp)
    start = time.monotonic()
    for pid in roles[victim][:1]:
        kill(pid, signal.SIGKILL)
    if victim == "main":
        # A worker that we have stopped is xdist's to end; what it had in the run is not.
        halted = set(roles.get("worker", [])) if stopped == "worker" else set()
        gone = wait_for(lambda: living().keys() <= halted, LIMIT_S)
        for pid in halted:
            kill(pid, signal.SIGKILL)
    elif victim != "worker":
        # The test process lives on and says what happened; of the run nothing is left.
        keep = set(roles["main"] + roles.get("worker", []))
        names = {"pc-launcher", "pc-supervisor", "pc-network", "sleep", "sh"}
        doomed = {pid for pid, entry in table.items() if pid not in keep and entry[1] in names}
        gone = wait_for(lambda: not doomed & living().keys(), LIMIT_S)
    else:
        gone = wait_for(lambda: not doomed & living().keys(), LIMIT_S)
    result["seconds"] = round(time.monotonic() - start, 3)
    result["left_of_run"] = [] if gone else [str(entry) for entry in living().values()]
    kill(main_process.pid, signal.SIGKILL)
    main_process.wait()
    wait_for(lambda: not living(), LIMIT_S)
    result["left_processes"] = [f"{pid} {entry}" for pid, entry in living().items()]
    # Namespaces are taken down by the kernel's own workers, after their last process.
    wait_for(lambda: leftovers(before, during, state(tmp)) == {}, LIMIT_S)
    after = state(tmp)
    result["left"] = leftovers(before, during, after)
    for pid in living():
        kill(pid, signal.SIGKILL)
    return result


def containers(table: dict[int, tuple[int, str, str]]) -> set[str]:
    """The commands that run in containers, each once."""
    return {command_line(pid) for pid, (_, name, _) in table.items() if name == "sleep"} - {""}


def kill(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


if __name__ == "__main__":
    main(*sys.argv[1:])
