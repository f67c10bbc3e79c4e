"""The suite's own leak checks see what this process leaves, and nothing that others leave."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import leaks

TESTS = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}

MAKE = """
import subprocess, sys
from pyroute2 import IPRoute

def make(name, folder):
    target = f"{folder}/{name}"
    subprocess.run(["mkdir", target], check=True)
    subprocess.run(["mount", "-t", "tmpfs", name, target], check=True)
    with IPRoute() as route:
        route.link("add", ifname=name, kind="veth", peer=f"{name}-peer")
"""
OTHERS = """
folder, watcher = sys.argv[1:]
with subprocess.Popen(
    [sys.executable, "-c", watcher, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
) as child:
    print(child.stdout.readline(), end="")
    make("theirs", folder)
    print(child.communicate("made")[0], end="")
"""
WATCHER = """
from helpers import leaks
from pytest_containers.linux.process import CLONE_NEWNET, CLONE_NEWNS

leaks.isolate(CLONE_NEWNS | CLONE_NEWNET)
mounts, links = leaks.mounts(), leaks.links()

def show():
    new = [mount.target.rpartition("/")[2] for mount in leaks.mounts() - mounts]
    print(sorted(new), sorted(leaks.links() - links), flush=True)

show()
sys.stdin.read()
show()
make("ours", sys.argv[1])
show()
"""


@pytest.mark.needs("root")
@pytest.mark.parametrize("propagation", ["private", "shared"])
def test_mounts_and_links_are_those_of_this_process(tmp_path: Path, propagation: str) -> None:
    unshare = ["unshare", "--mount", f"--propagation={propagation}", "--net"]
    program = [sys.executable, "-c", MAKE + OTHERS, str(tmp_path), MAKE + WATCHER]
    done = subprocess.run([*unshare, *program], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "[] []",
        "[] []",
        "['ours'] ['ours', 'ours-peer']",
    ], done.stderr


CHAOS = """
import chaos, os, socket, sys
from pathlib import Path
from helpers import leaks
from pytest_containers.linux.process import CLONE_NEWNET, CLONE_NEWNS

leaks.isolate(CLONE_NEWNS | CLONE_NEWNET)
temporary = Path(sys.argv[1])
before = chaos.state(temporary)
print(chaos.leftovers(before, chaos.holdings([]), temporary))
make("ours", temporary)
with IPRoute() as route:
    (index,) = route.link_lookup(ifname="ours")
    route.link("set", index=index, state="up")
    route.addr("add", index=index, address="192.0.2.1", prefixlen=24)
    (peer,) = route.link_lookup(ifname="ours-peer")
    route.link("set", index=peer, state="up")
with socket.socket(socket.AF_UNIX) as sock:
    sock.bind(b"\\0ours")
    held = chaos.holdings([os.getpid()])
    left = chaos.leftovers(before, held, temporary)
print(sorted(left), left["links"], left["files"])
print("sockets" in chaos.leftovers(before, held, temporary))
"""


@pytest.mark.needs("root")
def test_what_a_killed_run_leaves_is_told(tmp_path: Path) -> None:
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:{TESTS}/integration"}
    done = subprocess.run(
        [sys.executable, "-c", MAKE + CHAOS, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [
        "{}",
        "['files', 'links', 'mounts', 'routes', 'sockets'] ['ours', 'ours-peer'] ['ours']",
        "False",
    ], done.stderr


def test_nothing_is_counted_that_everybody_makes() -> None:
    program = "from helpers import leaks; leaks.mounts()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert "isolate() comes before counting" in done.stderr


@pytest.mark.long
@pytest.mark.needs("root")
def test_a_test_that_leaves_a_mount_is_told(pytester: pytest.Pytester) -> None:
    """With the fixture of this suite, in a session of its own."""
    shutil.copy(TESTS / "conftest.py", pytester.path / "conftest.py")
    folder = pytester.mkdir("integration")
    (folder / "test_it.py").write_text(
        "import os, subprocess\n"
        "def test_clean(engine, tmp_path):\n"
        "    subprocess.run(['mount', '-t', 'tmpfs', 'x', tmp_path], check=True)\n"
        "    subprocess.run(['umount', tmp_path], check=True)\n"
        "def test_mount(engine, tmp_path):\n"
        "    subprocess.run(['mount', '-t', 'tmpfs', 'x', tmp_path], check=True)\n"
        "def test_descriptors(engine):\n"
        "    for _ in range(9): os.open('/', os.O_RDONLY)\n"
    )
    pytester.makeini(f"[pytest]\npythonpath = {TESTS} {TESTS.parent}\n")
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:asyncio")
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(
        [
            "E  *Mount(*/test_mount0'*",
            "ERROR *::test_mount - AssertionError: *",
            "ERROR *::test_descriptors - AssertionError: *",
        ]
    )


def test_processes_are_those_below_this_one() -> None:
    program = ["sh", "-c", "sleep 100 & echo $!; wait"]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        sleeper = int(shell.stdout.readline())
        try:
            table = leaks.process_table()
        finally:
            os.kill(sleeper, signal.SIGKILL)
    below = leaks.descendants(table)
    assert {shell.pid, sleeper} <= below.keys()
    # The shell's child may still be called sh: it is itself before it is sleep.
    assert below[shell.pid].name == "sh"
    assert os.getppid() in table
    assert not {os.getpid(), os.getppid(), 1} & below.keys()


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that has a bound socket."""
    program = (
        "import os, socket, sys\n"
        "sock = socket.socket(socket.AF_UNIX); sock.bind(f'\\0stranger-{os.getpid()}')\n"
        "print('bound', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid


def test_sockets_are_those_that_the_processes_have(stranger: int) -> None:
    address = f"leak-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"\0{address}")
        inode = os.fstat(sock.fileno()).st_ino
        own = leaks.sockets([os.getpid()])
        assert f"{inode} @{address}" in own
        assert not [entry for entry in own if f"@stranger-{stranger}" in entry]
        assert [entry for entry in leaks.sockets([stranger]) if f"@stranger-{stranger}" in entry]
    assert f"{inode} @{address}" not in leaks.bound_sockets()


@pytest.mark.needs("cgroups")
def test_cgroups_are_those_that_the_processes_are_in(stranger: int) -> None:
    root = leaks.writable_cgroup()
    assert root is not None
    ours, theirs = root / f"leak-{os.getpid()}", root / f"theirs-{os.getpid()}"
    ours.mkdir()
    theirs.mkdir()
    try:
        (ours / "cgroup.procs").write_text(str(stranger))
        assert leaks.cgroups([stranger]) == {ours}
        assert leaks.cgroups([os.getpid()]) == set()
    finally:
        (root / "cgroup.procs").write_text(str(stranger))
        ours.rmdir()
        theirs.rmdir()
