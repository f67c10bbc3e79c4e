"""The end of processes without a pid namespace.

An init ends its container with one ``kill(-1)``: Landlock's scope of signals keeps it within, and
the kernel sends it to all processes at one moment, so that no fork escapes (`kill_domain`). What
an init leaves that was killed itself is found among the descendants of the watchers, since orphans
stay descendants of the nearest subreaper: `kill_descendants`, which a storm of forks may outrun.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

from pytest_containers.linux import landlock
from pytest_containers.linux.libc import syscall
from pytest_containers.linux.numbers import NR
from pytest_containers.linux.sysv import remove_segments

_PR_SET_CHILD_SUBREAPER = 36
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _LIMIT_S, _GRACE_S = 0.0005, 0.01, 10.0, 0.6
SEGMENTS = "segment-creators"
"""The file in the directory of a run with the processes that have made System V segments."""


def become_subreaper() -> None:
    """Become the parent of all orphans among the descendants (prctl(2))."""
    syscall(NR["prctl"], _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(
    root: int, proc: int | None = None, *, without: Collection[bytes] = (b"Z", b"X")
) -> list[int]:
    """Return the living descendants of a process, zombies not included.

    Those that are made, or lose their parent, meanwhile may be missing.

    Args:
        root: The process.
        proc: A descriptor of ``/proc``; None opens it.
        without: States (proc_pid_stat(5)) of processes to leave out.
    """
    opened = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if proc is None else proc
    try:
        found, left = [], [root]
        while left:
            below = _children(opened, left.pop())
            left += below
            found += below
        return [pid for pid in found if _state(opened, pid) not in (b"", *without)]
    finally:
        if proc is None:
            os.close(opened)


def children(pid: int) -> list[int]:
    """Return the children of a process, zombies included."""
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _children(proc, pid)
    finally:
        os.close(proc)


def _children(proc: int, pid: int) -> list[int]:
    """Return the children of all threads of a process (CONFIG_PROC_CHILDREN, as of Docker)."""
    found: list[int] = []
    try:
        folder = os.open(f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    except OSError:  # it has ended
        return found
    try:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            for thread in os.listdir(folder):
                found += map(int, _read(folder, f"{thread}/children").split())
    finally:
        os.close(folder)
    return found


def _state(proc: int, pid: int) -> bytes:
    """Return the state of a process, empty if it has ended."""
    fields = _read(proc, f"{pid}/stat").rpartition(b")")[2].split()
    return fields[0] if fields else b""


def _read(folder: int, path: str) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder), "rb") as file:
            return file.read()
    except OSError:
        return b""


def is_confined_from(outside: int) -> bool:
    """Return True if no signal of this process gets to a process that is not of its domain.

    Args:
        outside: The number of a living process outside, of the same user or anybody's for root.
    """
    if landlock.version() < landlock.SIGNALS_SINCE:
        return False
    try:
        os.kill(outside, 0)
    except PermissionError:
        return True
    except OSError:  # it has ended just now
        return False
    return False


def signal_domain(signum: int) -> None:
    """Send a signal to all other processes of the domain; only if `is_confined_from` is true."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signum)


def kill_domain() -> list[tuple[int, int]]:
    """Kill all other processes of the domain; return the children that were reaped."""
    ended: list[tuple[int, int]] = []
    pause_s, limit = _FIRST_PAUSE_S, time.monotonic() + _LIMIT_S
    while has_children() and time.monotonic() < limit:
        signal_domain(signal.SIGKILL)
        ended += reap()
        if has_children():
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
    return ended + reap()


def signal_descendants(root: int, proc: int, signum: int, *, without: Collection[bytes]) -> None:
    """Send a signal to all descendants, and those that they fork meanwhile.

    Args:
        without: States of processes that it has reached.
    """
    limit = time.monotonic() + _LIMIT_S
    while time.monotonic() < limit:
        left = descendants(root, proc, without=(b"Z", b"X", *without))
        if not left:
            return
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signum)
        time.sleep(_FIRST_PAUSE_S)


def await_end(but: Collection[int] = ()) -> None:
    """Give inits time to end their containers, which they do better; reap them.

    Args:
        but: Children that do not end.
    """
    limit = time.monotonic() + _GRACE_S
    while time.monotonic() < limit:
        reap()
        left = [pid for pid in descendants(os.getpid()) if pid not in but]
        if not left:
            return
        time.sleep(_LONGEST_PAUSE_S)


def reap() -> list[tuple[int, int]]:
    """Reap all children that have ended; return their numbers and wait statuses."""
    ended = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended.append((pid, status))
    return ended


def has_children() -> bool:
    """Return True if this process has a child, also one that was not reaped yet."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def kill_descendants(
    root: int, *, but: Collection[int] = (), proc: int | None = None
) -> list[tuple[int, int]]:
    """Kill all descendants of this process and reap them.

    Args:
        root: The number of this process.
        but: Descendants to leave alone.
        proc: As for `descendants`.

    Returns:
        What was reaped.
    """
    ended: list[tuple[int, int]] = []
    pause_s, limit = _FIRST_PAUSE_S, time.monotonic() + _LIMIT_S
    while time.monotonic() < limit:
        alive = [pid for pid in descendants(root, proc) if pid not in but]
        for pid in alive:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        ended += reap()
        # All orphans have become children of this process, a subreaper: without a child, there is
        # no descendant.
        if not (alive if but else has_children()):
            break
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
    return ended + reap()


def remove_segments_of(folder: Path, since_s: float) -> None:
    """Remove the System V segments that processes of a run have left."""
    with contextlib.suppress(OSError):
        creators = {int(line) for line in (folder / SEGMENTS).read_text().split()}
        remove_segments(creators, since_s)


def remove_folders(folders: Collection[str]) -> None:
    """Delete the directories of a run, with all that is in them."""
    import shutil

    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
