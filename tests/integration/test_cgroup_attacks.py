"""Attacks of containers on the cgroups of those that run them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import cgroups

import pytest_containers as pc

pytestmark = pytest.mark.needs("cgroups")

_ATTACK = r"""
import os, subprocess
VALUES = {
    "cgroup.kill": "1", "cgroup.freeze": "1", "freezer.state": "FROZEN",
    "memory.limit_in_bytes": "4096", "memory.max": "4096", "pids.max": "1", "cpu.cfs_quota_us": "1000",
    "cpuset.cpus": "0",
}
KINDS = [("cgroup2", "rw")] + [
    ("cgroup", names) for names in
    ("freezer", "memory", "pids", "cpu", "cpuacct", "blkio", "devices", "cpuset", "none,name=systemd")
]
os.mkdir("/tmp/all")
for number, (kind, options) in enumerate(KINDS):
    os.mkdir(f"/tmp/all/{number}")
    subprocess.run(["mount", "-t", kind, "-o", options, "none", f"/tmp/all/{number}"], capture_output=True)
# What would stop this very process comes last.
files = [
    (list(VALUES).index(name), os.path.join(folder, name))
    for folder, _, names in os.walk("/tmp/all") for name in names if name in VALUES
]
print("mounted", len(files), flush=True)
for _, path in sorted(files, key=lambda entry: entry[0], reverse=True):
    try:
        with open(path, "w") as file:
            file.write(VALUES[os.path.basename(path)])
    except OSError as error:
        pass
"""

_VICTIM = """
import json, os, subprocess, sys, pytest_containers as pc
attack, options, home, identity, tests = json.loads(sys.argv[1])
sys.path.insert(0, tests)
from helpers import cgroups

def ended(container):
    try:
        return container.wait(0.05) is not None
    except pc.WaitTimeoutError:
        return False

def frozen():
    try:
        runs = cgroups.of_runs_below(os.getpid())
        files = [file for run in runs for file in run.rglob("*inside/*")]
        return any(
            file.name == "freezer.state" and file.read_text() == "FROZEN\\n"
            or file.name == "cgroup.events" and "frozen 1" in file.read_text()
            for file in files
        )
    except OSError:  # another container's was removed
        return False

with pc.Engine(home=home, identity=identity) as engine:
    with engine.run("host:", ["sleep", "1000"]) as neighbour:
        with engine.run("host:", attack, wait_ready=False, **options) as container:
            while not ended(container) and not frozen():
                pass
            print(container.logs())
        assert neighbour.exec(["true"]).returncode == 0
        subprocess.run(["true"], check=True)
        print("alive")
"""


class TestAttacks:
    """A container mounts the hierarchies itself, and writes to all that it finds there.

    The tests that are attacked are in a cgroup of their own, whose files belong to root.
    """

    @pytest.mark.parametrize("identity", ["root", "range", "single"])
    @pytest.mark.parametrize(
        ("prefix", "options"),
        [
            (["unshare", "-U", "-r", "-m", "-C"], {"security_opt": ["seccomp=unconfined"]}),
            (["unshare", "-m"], {"cap_add": ["ALL"]}),
            ([], {"privileged": True, "mem_limit": "64m", "pids_limit": 50}),
            pytest.param(
                ["unshare", "-U", "-r", "-m", "-C"],
                {"privileged": True, "init": True},
                marks=pytest.mark.slow,
            ),
        ],
        ids=["nested", "capabilities", "privileged", "nested and privileged"],
    )
    def test_the_caller_and_its_neighbours_go_on(
        self, store_home: Path, identity: str, prefix: list[str], options: dict[str, object]
    ) -> None:
        attack = [*prefix, "python3", "-c", _ATTACK]
        with cgroups.own_place() as (folders, join):
            tests = str(Path(__file__).parents[1])
            arguments = json.dumps([attack, options, str(store_home), identity, tests])
            before = _limits(folders)
            victim = subprocess.Popen(
                [sys.executable, "-c", _VICTIM, arguments], preexec_fn=join, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                output, _ = victim.communicate(timeout=100)
            except subprocess.TimeoutExpired:
                _thaw(folders)
                victim.kill()
                raise
            finally:
                after = _limits(folders)
            assert victim.returncode == 0, output
            assert output.rstrip().endswith("alive")
            assert "mounted" in output
            assert after == before

    @pytest.mark.parametrize("identity", ["root", "single"])
    def test_its_limits_are_out_of_reach(self, store_home: Path, identity: str) -> None:
        script = (
            "mount -t cgroup -o pids none /mnt || mount -t cgroup2 none /mnt; ls /mnt; find /mnt -name pids.max -exec cat {} +;"
            "for f in $(find /mnt -name pids.max); do echo max > $f; done;"
            "for i in 1 2 3 4 5 6 7 8 9; do sleep 9 & done"
        )
        with (
            pc.Engine(home=store_home, identity=identity) as engine,
            engine.run(
                "host:",
                ["sh", "-c", script],
                wait_ready=False,
                pids_limit=6,
                cap_add=["SYS_ADMIN"],
            ) as container,
        ):
            container.wait(60)
            output = str(container.logs())
        assert "cgroup.procs" in output  # of version 2, its own has no limits at all
        assert "Cannot fork" in output


_LIMITS = ("memory.limit_in_bytes", "pids.max", "cpu.cfs_quota_us", "memory.max", "cgroup.freeze")


def _limits(folders: list[Path]) -> dict[Path, str]:
    files = [folder / name for folder in folders for name in _LIMITS]
    return {file: file.read_text() for file in files if file.exists()}


def _thaw(folders: list[Path]) -> None:
    for folder in folders:
        for name, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            if (folder / name).exists():
                (folder / name).write_text(value)
