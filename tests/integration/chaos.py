"""Kill parts of a test run at random instants and look at what is left (`test_cleanup` runs it).

A program of its own: it becomes the subreaper of all it starts (PR_SET_CHILD_SUBREAPER), so that
no orphan escapes its count, and runs in namespaces of its own, so that it counts nothing that
others on this machine make. ``python chaos.py SEED TRIALS HOME TMP KIND`` prints a JSON object per
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
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest has it for the tests

from helpers import leaks
from helpers.leaks import Process

from pytest_containers.linux.process import CLONE_NEWNET, CLONE_NEWNS

LIMIT_S = 1.0
HEAD = """
import os
import pytest
import pytest_containers as pc
from pytest_containers.runtime.network.outside import way_out

EGRESS = bool(way_out()[0])  # processes of the host's side that have to go as well
"""
SUITE = f"""{HEAD}
TAG = f"1000.{{os.getpid()}}"
"""
SUITE += """

@pytest.fixture(scope="session", autouse=True)
def lasting(session_containers):
    return session_containers.run("host:", ["sleep", TAG], name="lasting", egress=EGRESS)

@pytest.mark.parametrize("number", range(200))
def test_it(containers, number):
    script = f"(sleep {TAG} &); echo up; sleep {TAG}"
    for _ in range(20):
        c = containers.run("host:", ["sh", "-c", script], ready=pc.wait.log("up"))
        assert c.exec(["true"]).returncode == 0
        c.remove()
"""
ENGINE = f"""{HEAD}
import sys, threading
"""
ENGINE += """
engine = pc.Engine(home=sys.argv[1])
lasting = engine.run("host:", ["sleep", "1000"], egress=EGRESS)
def work():
    while True:
        script = "(sleep 1000 &); echo up; sleep 1000"
        with engine.run("host:", ["sh", "-c", script], ready=pc.wait.log("up")) as c:
            c.exec(["true"])
for _ in range(2):
    threading.Thread(target=work).start()
"""


def living() -> dict[int, Process]:
    """All living processes below this one, after the dead were reaped."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    below = leaks.descendants(leaks.process_table())
    return {pid: process for pid, process in below.items() if process.state not in "ZX"}


def state(tmp: Path) -> dict[str, set[Any]]:
    """Return what a run could leave where nobody else makes anything."""
    return {
        "mounts": leaks.mounts(),
        "links": leaks.links(),
        "routes": leaks.routes(),
        "files": {name for name in os.listdir(tmp) if not name.startswith("pytest-of-")},
    }


def holdings(pids: Iterable[int]) -> dict[str, set[Any]]:
    """Return what these processes have that others have as well."""
    return {"sockets": leaks.sockets(pids), "cgroups": leaks.cgroups(pids)}


def leftovers(
    before: dict[str, set[Any]], held: dict[str, set[Any]], tmp: Path
) -> dict[str, list[str]]:
    """Return what is there now and was not before, and what is left of what the run held."""
    left = {name: things - before[name] for name, things in state(tmp).items()}
    left["sockets"] = held["sockets"] & leaks.bound_sockets()
    left["cgroups"] = {path for path in held["cgroups"] if path.is_dir()}
    return {name: sorted(map(str, things)) for name, things in left.items() if things}


def main(seed: str, trials: str, home: str, tmp: str, kind: str) -> None:
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    leaks.isolate(CLONE_NEWNS | CLONE_NEWNET)
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
    held = holdings(living())
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
        names = {
            "pc-launcher", "pc-supervisor", "pc-network", "sleep", "sh",
            "pc-egress", "pc-egress-init", "slirp4netns", "pasta", "passt.avx2",
        }  # fmt: skip
        doomed = {pid for pid, entry in table.items() if pid not in keep and entry[1] in names}
        gone = wait_for(lambda: not doomed & living().keys(), LIMIT_S)
    else:
        gone = wait_for(lambda: not doomed & living().keys(), LIMIT_S)
    result["seconds"] = round(time.monotonic() - start, 3)
    result["left_of_run"] = [] if gone else [str(entry) for entry in living().values()]
    kill(main_process.pid, signal.SIGKILL)
    main_process.wait()
    # The next test has begun another run: its interpreters start first, and then see the end.
    wait_for(lambda: not living(), 10 * LIMIT_S)
    result["left_processes"] = [f"{pid} {entry}" for pid, entry in living().items()]
    # Namespaces are taken down by the kernel's own workers, after their last process.
    wait_for(lambda: leftovers(before, held, tmp) == {}, LIMIT_S)
    result["left"] = leftovers(before, held, tmp)
    for pid in living():
        kill(pid, signal.SIGKILL)
    return result


def containers(table: Mapping[int, Process]) -> set[str]:
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
