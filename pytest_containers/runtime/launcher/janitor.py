"""Removes the cgroups of a run at its end, however it ends: no kernel does that by itself.

A process of its own, started with the first cgroup. It has no parent-death signal: when pytest and
the launcher are killed, it waits for the end of the supervisor, which takes all containers along,
and then removes what they were in. Should it be killed as well, the cgroups stay, empty, until the
next run that makes one in the same place: the lock of the directory tells that nobody has it.

It also thaws what a container of version 1 has frozen in its own cgroup, where that is its own: a
frozen process of version 1 does not die, and neither would the supervisor, which is its PID 1.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import time
from collections.abc import Iterable

from pytest_containers.linux import process

PREFIX = "pytest-containers-"
_PATIENCE_S, _PAUSE_MS = 10.0, 20


class Janitor:
    """The process. It is told of each directory, before that is made.

    Args:
        pidfd: Of the supervisor: when it has ended, the directories are removed.
    """

    def __init__(self, pidfd: int) -> None:
        self._swept: set[str] = set()
        self._locks: list[int] = []
        self._to_janitor, from_launcher = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            _run(pidfd, from_launcher)
        from_launcher.close()

    def make(self, parent: str) -> str:
        """Make a locked directory below `parent`, which is removed at the end of the run.

        Raises:
            OSError: It cannot be made.
        """
        if parent not in self._swept:
            self._swept.add(parent)
            sweep(parent)
        while True:
            path = os.path.join(parent, f"{PREFIX}{os.urandom(6).hex()}")
            os.mkdir(path)
            self._to_janitor.send(path.encode())
            fd = _lock(path)
            if fd >= 0:
                self._locks.append(fd)
                # The lock is that of the open file, which the janitor holds as well from now on.
                socket.send_fds(self._to_janitor, [b"lock"], [fd])
                return path

    def wait(self) -> None:
        """Wait for its end, which comes soon after that of the supervisor."""
        self._to_janitor.close()
        os.waitpid(self._pid, 0)


def sweep(parent: str) -> None:
    """Remove the directories below `parent` that were left by runs of which nothing is left."""
    try:
        entries = os.listdir(parent)
    except OSError:
        return
    for entry in entries:
        if entry.startswith(PREFIX):
            path = os.path.join(parent, entry)
            fd = _lock(path)
            if fd >= 0:
                remove_tree(path)
                os.close(fd)


def remove_tree(path: str) -> bool:
    """Remove a cgroup with all below it; False if a process is in one of them."""
    with contextlib.suppress(OSError):  # most have nothing below
        os.rmdir(path)
        return True
    for folder, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return not os.path.exists(path)


def _lock(path: str) -> int:
    """Open and lock a directory; -1 if another process has it, or it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.exists(path):  # else its owner, or another sweeper, was faster
            return fd
    except OSError:
        pass
    os.close(fd)
    return -1


def _run(pidfd: int, orders: socket.socket) -> None:
    """The process."""
    try:
        process.set_name("pc-cgroups")
        os.setsid()  # not of the group that a terminal, or a CI system, kills first
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        kept = sorted((pidfd, orders.fileno()))
        for low, high in zip((2, *kept), (*kept, 1 << 20), strict=True):
            os.closerange(low + 1, high)
        _remove_all(_paths_until_the_end(pidfd, orders))
    finally:
        os._exit(0)


def _paths_until_the_end(pidfd: int, orders: socket.socket) -> list[str]:
    paths: list[str] = []
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(orders, select.POLLIN)
    pause_ms = None
    while True:
        ready = {fd for fd, _ in poll.poll(pause_ms)}
        if pause_ms is not None:
            thaw(paths)
        if orders.fileno() in ready:
            data, _, _, _ = socket.recv_fds(orders, 4096, 1)
            if not data:  # the launcher is gone, and the supervisor dies
                poll.unregister(orders)
                pause_ms = _PAUSE_MS
            elif data != b"lock":
                paths.append(data.decode())
        elif pidfd in ready:
            return paths


def thaw(paths: Iterable[str]) -> None:
    """Let frozen processes of version 1 die."""
    for path in paths:
        for folder, _, files in os.walk(path):
            if "freezer.state" in files:
                with contextlib.suppress(OSError), open(f"{folder}/freezer.state", "w") as file:
                    file.write("THAWED")


def _remove_all(paths: list[str]) -> None:
    end = time.monotonic() + _PATIENCE_S
    while paths and time.monotonic() < end:
        paths = [path for path in paths if not remove_tree(path)]
        if paths:
            time.sleep(0.01)
