"""Cgroups of the tests' own, for processes that a test starts."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from helpers import leaks
from pytest_containers.linux import cgroups

PREFIX = "pytest-containers-"
TEST_PREFIX = f"test-of-{PREFIX}"
"""Not that of runs: another one would take it for the rest of a dead one, and empty it."""


def own_path(controller: str) -> Path:
    """Return this process's cgroup in the hierarchy of a controller."""
    for tree in cgroups.hierarchies():
        if controller in tree.controllers:
            return Path(tree.path)
    raise LookupError(f"no hierarchy with the controller {controller!r} is mounted")


def of_runs_below(pid: int) -> set[Path]:
    """Return the cgroups of the runs that a process has started, of every hierarchy.

    By what their launchers have locked: other processes of the machine have runs as well.
    """
    return {
        Path(target)
        for number, process in below(pid).items()
        if process.name == "pc-launcher"
        for target in _open_files(number)
        if os.path.basename(target).startswith(PREFIX) and target.startswith("/sys/fs/cgroup/")
    }


def limit_of_runs(*names: str) -> str:
    """Read a limit of the only container with one; it has different files in both versions."""
    values = files_of_runs(*names)
    assert len(values) == 1, values
    return values[0].strip()


def files_of_runs(*names: str) -> list[str]:
    """Read files of the cgroups of containers of this process's runs, in all hierarchies."""
    files = [leaf / name for leaf in used_by_runs() for name in names]
    return [path.read_text() for path in files if path.exists()]


def used_by_runs() -> list[Path]:
    """Return the cgroups with processes of the containers of this process's runs."""
    runs = of_runs_below(os.getpid())
    return [leaf for run in runs for leaf in of_containers(run) if processes_of(leaf)]


def of_containers(run: Path) -> list[Path]:
    """Return the cgroups of containers below that of a run, those that wait for one included."""
    return [path for path in run.glob("*/") if path.name != "supervisor"]


def handed_down() -> set[str]:
    """Return the controllers that cgroups of ours may have, by their names of version 2."""
    found: set[str] = set()
    for tree in cgroups.hierarchies():
        place = tree.mount if os.access(tree.mount, os.W_OK) else tree.path
        if os.access(place, os.W_OK):
            words = cgroups.read(place, "cgroup.controllers").split()
            found |= tree.controllers if tree.version == 1 else set(words)
    return {{"blkio": "io"}.get(name, name) for name in found}


def counts_anew() -> bool:
    """True if a cgroup of memory can forget its peak: of version 2, from Linux 6.12."""
    trees = cgroups.hierarchies()
    old = any("memory" in tree.controllers and tree.version == 1 for tree in trees)
    return old or tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 12)


def processes_of(leaf: Path) -> str:
    """Return the processes in a container's cgroup."""
    return cgroups.read(str(leaf), "cgroup.procs") + cgroups.read(f"{leaf}/inside", "cgroup.procs")


def disk() -> str:
    """Return a whole disk of this machine, loop devices included."""
    for path in Path("/sys/block").iterdir():
        if (device := Path("/dev") / path.name).is_block_device():
            return str(device)
    raise LookupError("this machine has no disk")


def below(pid: int) -> dict[int, leaks.Process]:
    """Return the processes below a process."""
    table = leaks.process_table()
    return {number: process for number, process in table.items() if _is_below(table, number, pid)}


def alive(pids: Iterable[int]) -> bool:
    """True if one of these processes is there and no zombie."""
    table = leaks.process_table()
    return any(table[pid].state != "Z" for pid in pids if pid in table)


def _is_below(table: dict[int, leaks.Process], number: int, ancestor: int) -> bool:
    while number in table:
        number = table[number].parent
        if number == ancestor:
            return True
    return False


def _open_files(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):  # it has ended
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                yield os.readlink(f"/proc/{pid}/fd/{number}")


@contextlib.contextmanager
def own_place() -> Iterator[tuple[list[Path], Callable[[], None]]]:
    """Make a cgroup in each hierarchy; the value is their paths, and how a child joins them."""
    folders = []
    try:
        for tree in cgroups.hierarchies():
            if "cpuset" in tree.controllers and tree.version == 1:
                continue  # takes no process before it was filled in
            folder = Path(tree.path) / f"{TEST_PREFIX}{os.urandom(4).hex()}"
            folder.mkdir()
            folders.append(folder)
        yield folders, lambda: [_join(folder) for folder in folders] and None
    finally:
        for folder in folders:
            remove(folder)


@contextlib.contextmanager
def memory_limited(limit_bytes: int) -> Iterator[Callable[[], None]]:
    """Make a cgroup with a memory limit; the value is a function with which a child joins it."""
    own = own_path("memory")
    if (own / "cgroup.type").exists():  # version 2: where processes are, nothing below has limits
        own = own.parent
    folder = own / f"{TEST_PREFIX}{os.urandom(4).hex()}"
    folder.mkdir()
    try:
        name = "memory.max" if (folder / "cgroup.kill").exists() else "memory.limit_in_bytes"
        (folder / name).write_text(str(limit_bytes))
        yield lambda: _join(folder)
    finally:
        remove(folder)


def remove(folder: Path) -> None:
    """Remove a cgroup, whose last processes may still be ending."""
    end = time.monotonic() + 10
    while True:
        try:
            return folder.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _join(folder: Path) -> None:
    (folder / "cgroup.procs").write_text("0")
