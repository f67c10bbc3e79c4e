"""Directories on disk for writable layers, each under a lock that dies with the launcher."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from typing import Any

from pytest_containers.linux import mount
from pytest_containers.runtime.identity import Identity
from pytest_containers.runtime.jobs import CLEAR
from pytest_containers.runtime.launcher.jobs import Jobs
from pytest_containers.runtime.wire.operations.host import StartJob


class Scratch:
    """Directories for writable layers; also removes those that a killed run has left.

    Args:
        home: The image store; the directories are made in ``scratch`` below it.
        jobs: Deletes files that belong to container users.
        identity: The run's map of ids.
    """

    def __init__(self, home: str, jobs: Jobs, identity: Identity) -> None:
        self._base = os.path.join(home, "scratch")
        self._jobs = jobs
        self._identity = identity
        self._held: dict[str, int] = {}
        self._swept = False

    def make(self) -> tuple[str, int]:
        """Make a directory; return its path and, as host root, a mount of it, else -1.

        Raises:
            OSError: It cannot be made there.
        """
        os.makedirs(self._base, mode=0o700, exist_ok=True)
        if not self._swept:
            self._swept = True
            self._sweep()
        path = os.path.join(self._base, os.urandom(8).hex())
        os.mkdir(path, 0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX)
        self._held[path] = fd
        if self._identity.mode != "root":
            return path, -1
        os.chown(path, self._identity.uid_map[0][1], self._identity.gid_map[0][1])
        return path, mount.open_tree(path)

    def remove(self, path: str, done: Callable[[Any], None]) -> None:
        """Delete a directory; an unknown one is gone already."""
        fd = self._held.pop(path, -1)
        if fd < 0:
            done(None)
            return
        self._delete(path, fd, done)

    def _sweep(self) -> None:
        """Delete directories that no living launcher holds."""
        for name in os.listdir(self._base):
            path = os.path.join(self._base, name)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue  # another sweeper was here
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            self._delete(path, fd, lambda result: None)

    def _delete(self, path: str, fd: int, done: Callable[[Any], None]) -> None:
        def cleared(result: Any) -> None:
            with contextlib.suppress(OSError):  # not empty: the next run's sweep tries again
                os.rmdir(path)
            os.close(fd)
            done(result)

        job = StartJob(function=CLEAR.function, args={}, search_path=(), descriptors=[os.dup(fd)])
        self._jobs.start(job, cleared)
