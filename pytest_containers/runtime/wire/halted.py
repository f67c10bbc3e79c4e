"""Which processes of a run are stopped, as by SIGSTOP or a debugger: they do not answer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from pytest_containers.linux.process import read_proc

_NAMES = ("pc-launcher", "pc-supervisor", "pc-network")
_STOPPED = "Tt"


def halted(errors_fd: int) -> list[tuple[str, int]]:
    """Return name and pid of each stopped process of a run.

    Args:
        errors_fd: The file that is the standard error of the run's processes, by which the
            launcher is known; the others are its children.
    """
    table = dict(_processes())
    launchers = {pid for pid, (name, _, _) in table.items() if _writes_to(pid, name, errors_fd)}
    return [
        (name, pid)
        for pid, (name, state, parent) in table.items()
        if (pid in launchers or parent in launchers) and name in _NAMES and state in _STOPPED
    ]


def _writes_to(pid: int, name: str, errors_fd: int) -> bool:
    if name == "pc-launcher":
        with suppress(OSError):
            return os.path.samestat(os.stat(f"/proc/{pid}/fd/2"), os.fstat(errors_fd))
    return False


def _processes() -> Iterator[tuple[int, tuple[str, str, int]]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):  # it has ended
                name, _, rest = read_proc(f"/proc/{entry}/stat").partition("(")[2].rpartition(") ")
                state, parent = rest.split()[:2]
                yield int(entry), (name, state, int(parent))
