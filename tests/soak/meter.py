"""What the processes of a run hold at a moment, and what the kernel holds for them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from helpers import cgroups

ROLES = ("test", "launcher", "supervisor", "network")
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


def sample(home: Path, test: int) -> dict[str, float]:
    """Return the figures of a test process and of its only run.

    Memory is in KiB: ``rss`` and, of pages that no other process has, ``private``. What is counted
    for the run is the sum over its processes.
    """
    settle(test)
    figures: dict[str, float] = {}
    pids = processes(test)
    for role, pid in pids.items():
        rollup = _fields(f"/proc/{pid}/smaps_rollup")
        figures[f"{role} rss"] = rollup["Rss"]
        figures[f"{role} private"] = rollup["Private_Clean"] + rollup["Private_Dirty"]
        figures[f"{role} threads"] = _fields(f"/proc/{pid}/status")["Threads"]
        figures[f"{role} descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
        figures[f"{role} mounts"] = _lines(f"/proc/{pid}/mountinfo")
        figures[f"{role} links"] = _lines(f"/proc/{pid}/net/dev")
        figures[f"{role} sockets"] = _lines(f"/proc/{pid}/net/unix")
    figures["processes"] = len(cgroups.below(test))
    figures["namespaces"] = len(_namespaces(pids.values()))
    figures["cgroups"] = sum(
        1 for run in cgroups.of_runs_below(test) for path in run.rglob("*") if path.is_dir()
    )
    figures["store files"], figures["store KiB"] = _size(home)
    return figures


def kernel() -> dict[str, float]:
    """Return what the kernel of the whole machine holds, in KiB, after it has let go of caches.

    As root only; other programs of the machine are in it as well.
    """
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("2")
    time.sleep(0.5)
    memory = _fields("/proc/meminfo")
    figures = {name: memory[name] for name in ("Slab", "SUnreclaim", "Percpu")}
    for line in Path("/proc/slabinfo").read_text().splitlines()[2:]:
        name, active, _, size = line.split()[:4]
        figures[f"slab {name}"] = int(active) * int(size) / 1024
    return figures


def processes(test: int) -> dict[str, int]:
    """Return the pids of a test process and of the three of its run, by role."""
    names = {
        process.name: pid for pid, process in cgroups.below(test).items() if process.state != "Z"
    }
    return {"test": test, **{role: names[f"pc-{role}"] for role in ROLES[1:]}}


def settle(test: int) -> None:
    """Wait until what was removed is gone: the number of processes and descriptors stays."""
    last, end = None, time.monotonic() + 5
    while time.monotonic() < end:
        counts = [len(os.listdir(f"/proc/{pid}/fd")) for pid in processes(test).values()]
        state = (counts, len(cgroups.below(test)))
        if state == last:
            return
        last = state
        time.sleep(0.1)


def _fields(path: str) -> dict[str, int]:
    """Return the numbers of a file of ``Name:  number`` lines."""
    lines = re.findall(r"^(\w+):\s+(\d+)(?: kB)?$", Path(path).read_text(), re.MULTILINE)
    return {name: int(value) for name, value in lines}


def _lines(path: str) -> int:
    return len(Path(path).read_text(errors="replace").splitlines())


def _namespaces(pids: Iterable[int]) -> set[str]:
    """Return the namespaces of processes, and those that they hold by a descriptor."""
    links = set()
    for pid in pids:
        links |= {os.readlink(f"/proc/{pid}/ns/{kind}") for kind in _NAMESPACES}
        for number in os.listdir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{number}")
            except FileNotFoundError:
                continue
            if target.partition(":")[0] in _NAMESPACES:
                links.add(target)
    return links


def _size(home: Path) -> tuple[int, float]:
    count, blocks = 0, 0
    for folder, _, names in os.walk(home):
        for name in names:
            try:
                blocks += os.lstat(os.path.join(folder, name)).st_blocks
            except FileNotFoundError:
                continue
            count += 1
    return count, blocks / 2
