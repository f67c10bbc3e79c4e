"""Another user of the machine, and a container, get nothing of a run: processes, sockets, files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import leaks

import pytest_containers as pc
from pytest_containers.engines.native.broker import NativeBroker
from pytest_containers.engines.native.kept import kept_runs
from pytest_containers.model.kept import KeepLimits

as_root = pytest.mark.needs("root")

PYTHON = "/usr/bin/python3"
"""The system's: others may not look into the home of root."""
NOBODY = 65534
ATTACK = """
import ctypes, json, os, socket, sys
pids, address, store = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
got = []

def attempt(what, work):
    try:
        got.append([what, repr(work())])
    except OSError:
        pass

def system_call(*arguments):
    result = libc.syscall(*map(ctypes.c_long, arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result

for pid in pids:
    attempt(f"signal {pid}", lambda: os.kill(pid, 0))
    for name in ("fd", "task", "ns"):
        folder = f"/proc/{pid}/{name}"
        if name != "task":
            attempt(f"list {folder}", lambda: os.listdir(folder) and os.readlink(f"{folder}/net"))
    for name in ("root", "cwd", "exe"):
        attempt(f"follow {pid} {name}", lambda: os.listdir(f"/proc/{pid}/{name}/"))
    for name in ("mem", "environ", "maps", "syscall", "stack"):
        attempt(f"read {pid} {name}", lambda: open(f"/proc/{pid}/{name}", "rb").read(1))
    attempt(f"trace {pid}", lambda: system_call(101, 16, pid, 0, 0))  # PTRACE_ATTACH
    attempt(f"take a descriptor of {pid}", lambda: system_call(438, os.pidfd_open(pid), 0, 0))
    attempt(f"enter {pid}", lambda: system_call(308, os.pidfd_open(pid), 0x10000000))

def join():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect("\\0" + address)
        answer = sock.recv(100)
        if not answer:
            raise ConnectionError("closed")
        return answer

attempt("join the run", join)
for folder in (store, store + "/layers", store + "/blobs"):
    attempt(f"list {folder}", lambda: os.listdir(folder))
    attempt(f"write to {folder}", lambda: open(folder + "/x", "w"))
print(json.dumps(got))
"""


def attack(uid: int, pids: list[int], address: str, store: Path) -> list[list[str]]:
    """Return what a user has got at."""
    done = subprocess.run(
        [PYTHON, "-I", "-S", "-c", ATTACK, json.dumps([pids, address, str(store)])],
        user=uid, group=uid, extra_groups=[], stdout=subprocess.PIPE, check=True, cwd="/",
    )  # fmt: skip
    got: list[list[str]] = json.loads(done.stdout)
    return got


@as_root
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="needs x86_64: numbers of system calls")
def test_nothing_for_others(store_home: Path) -> None:
    earlier = leaks.descendants(leaks.process_table())
    with pc.Engine(home=store_home) as engine, engine.run("host:", ["sleep", "1000"]):
        broker = NativeBroker(lambda: engine)
        try:
            below = leaks.descendants(leaks.process_table())
            # A zombie shows empty files to everybody.
            pids = [pid for pid in below if pid not in earlier and below[pid].state != "Z"]
            assert len(pids) >= 3  # launcher, supervisor, program
            assert attack(NOBODY, pids, broker.address, store_home) == []
            # The attempts are possible ones: their user may do most of it.
            own = attack(0, pids, "no such", store_home)
            assert len({what.split()[0] for what, _ in own}) > 5
        finally:
            broker.close()


# ------------------------------------------------------------------- sockets of kept runs

JOIN = """
import os, socket, sys
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        if name.endswith(".socket"):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(10)
                try:
                    sock.connect(os.path.join(folder, name))
                    print("answer", sock.recv(100))
                except OSError as error:
                    print(error.strerror)
"""


@pytest.fixture
def sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of the sockets of kept runs."""
    with tempfile.TemporaryDirectory(prefix="pc-", dir="/tmp") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        yield Path(name)


def test_a_container_does_not_join_a_kept_run(each_engine: pc.Engine, sockets: Path) -> None:
    # Container root is the user who runs pytest, and the directory was bound: as /home, say.
    bind = pc.Bind(sockets, "/sockets", read_only=True)
    with (
        each_engine.run("host:", ["sleep", "1000"]) as kept,
        each_engine.run("host:", ["sleep", "1000"], mounts=[bind]) as box,
    ):
        each_engine.keep(kept, test="", limits=KeepLimits(1, 5.0))
        try:
            assert len(list(sockets.rglob("*.socket"))) == 1
            attempt = box.exec(["python3", "-c", JOIN, "/sockets"], text=True, check=True)
            assert attempt.stdout in ("answer b''\n", "")  # closed, or a directory of others
            own = subprocess.run(
                [sys.executable, "-c", JOIN, sockets], stdout=subprocess.PIPE, text=True, check=True
            )
            assert '"ok"' in own.stdout
        finally:
            for run in kept_runs():
                run.drop(None)
                run.close()


@as_root
def test_another_user_does_not_join_a_kept_run(store_home: Path, sockets: Path) -> None:
    with pc.Engine(home=store_home) as engine, engine.run("host:", ["sleep", "1000"]) as kept:
        engine.keep(kept, test="", limits=KeepLimits(1, 5.0))
        try:
            # Even if the user has opened all of it to others.
            for path in (sockets, *sockets.rglob("*")):
                path.chmod(0o777)
            attempt = subprocess.run(
                [PYTHON, "-I", "-S", "-c", JOIN, sockets],
                user=NOBODY, group=NOBODY, extra_groups=[], stdout=subprocess.PIPE, text=True,
                check=True, cwd="/",
            )  # fmt: skip
            assert attempt.stdout == "answer b''\n"
        finally:
            (sockets / "pytest-containers").chmod(0o700)
            for run in kept_runs():
                run.drop(None)
                run.close()
