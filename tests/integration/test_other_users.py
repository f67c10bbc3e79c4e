"""Another user of the machine gets nothing of a run: its processes, sockets, files."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from helpers import leaks

import pytest_containers as pc
from pytest_containers.engines.native.broker import NativeBroker

pytestmark = pytest.mark.needs("root")

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
