"""The cgroups of a container, as the supervisor holds them: to join, to read, to let go of."""

from __future__ import annotations

import contextlib
import json
import os
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from pytest_containers.linux.program import Value
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.message import close_all
from pytest_containers.runtime.wire.operations import host
from pytest_containers.runtime.wire.peer import Peer
from pytest_containers.runtime.wire.tasks import Future, owned, run_task

_STOCK_KINDS, _STOCK_AFTER_S = 4, 0.003


class Cgroup:
    """The cgroups of one container; without any, its processes are where the supervisor is.

    Owns its descriptors; `remove` closes them, once the last process has ended.

    Attributes:
        tasks: Files of version 1 that a process writes 0 to, to join.
        into: The directory of version 2 that processes are started in; None for none.
        memory_limit_bytes: Its memory limit; 0 for none.
        pids_limit: How many processes and threads it may have; None without a limit.
    """

    def __init__(
        self,
        key: str = "",
        resources: Mapping[str, Any] | None = None,
        made: host.CgroupFiles | None = None,
    ) -> None:
        self._key = key
        self.memory_limit_bytes: int = ((resources or {}).get("memory") or {}).get("limit", 0)
        self.pids_limit: int | None = ((resources or {}).get("pids") or {}).get("limit")
        self._directories: dict[str, int] = {}
        self._seen_kills = 0
        self.tasks: Sequence[int] = ()
        self.into: int | None = None
        self._procs = -1
        self._files: Sequence[int] = ()
        if made is not None:
            self._take(made)

    def _take(self, made: host.CgroupFiles) -> None:
        self._files = made.files
        files = iter(made.files)
        for controllers in made.hierarchies:
            self._directories |= dict.fromkeys(controllers.split(","), next(files))
            if controllers:
                self.tasks = (*self.tasks, next(files))
            else:
                self._procs, self.into = next(files), next(files)

    @classmethod
    async def make(cls, launcher: Peer, key: str, resources: Mapping[str, Any]) -> Cgroup:
        """Have the launcher make them.

        Raises:
            FaultError: There is none for one of the limits.
        """

        def release(made: host.CgroupFiles) -> None:
            cls(key, resources, made).remove(launcher)

        answer = launcher.request(host.MakeCgroup(key=key, resources=resources))
        made: host.CgroupFiles = await owned(answer, release)
        return cls(key, resources, made)

    @property
    def exists(self) -> bool:
        """True if it has cgroups of its own."""
        return bool(self._key)

    def parameters(self) -> dict[str, Value]:
        """Return the files to join by as parameters of `Program.bind`."""
        return {f"tasks:{number}": fd for number, fd in enumerate(self.tasks)}

    def thaw(self) -> None:
        """Let its processes die that have frozen themselves: of version 1, they would not.

        Where they could, its files are theirs and ours.
        """
        freezer = self._directories.get("freezer")
        if freezer is None:
            return
        for _, _, files, folder in os.fwalk(".", dir_fd=freezer):
            if "freezer.state" in files:
                with contextlib.suppress(OSError):
                    fd = os.open("freezer.state", os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
                    with open(fd, "w") as file:
                        file.write("THAWED")

    def leave_namespace(self) -> None:
        """Have processes join it by themselves, which takes longer.

        It is not in the supervisor's new cgroup namespace: where the hierarchy is mounted with
        nsdelegate, nothing can be started in it.
        """
        if self.into is not None:
            self.into = None
            self.tasks = (*self.tasks, self._procs)

    def remove(self, launcher: Peer) -> None:
        """Remove them, now that the last process has ended; a second time does nothing."""
        if not self._key:
            return
        key, self._key = self._key, ""
        close_all(self._files)
        self._directories, self.tasks, self.into = {}, (), None
        launcher.request(host.RemoveCgroup(key=key))

    # --------------------------------------------------------------- what it uses

    def new_memory_kills(self) -> str:
        """Tell of processes that the kernel has killed for memory since the last call, if any."""
        if not self._directories:
            return ""
        kills = self._value("memory", "memory.oom_control", "memory.events", "oom_kill")
        new, self._seen_kills = kills - self._seen_kills, kills
        if not new:
            return ""
        limit = f"its memory limit of {self.memory_limit_bytes / (1 << 20):g} MB"
        if not self.memory_limit_bytes:
            limit = "the memory limit of all containers (the setting max_memory)"
        return f"{'' if new == 1 else f'{new} processes '}killed: over {limit}"

    def has(self, controller: str) -> bool:
        """True if a controller counts what the container uses."""
        if controller in self._directories:
            return True
        return controller in _read(self._directories.get("", -1), "cgroup.controllers").split()

    def cpu_s(self) -> float:
        """Return the time of processors that it has used."""
        if "cpuacct" in self._directories:
            return self._value("cpuacct", "cpuacct.usage", "") / 1e9
        return self._value("cpu", "", "cpu.stat", "usage_usec") / 1e6

    def memory_bytes(self) -> int:
        """Return the memory that it uses now."""
        return self._value("memory", "memory.usage_in_bytes", "memory.current")

    def memory_peak_bytes(self) -> int | None:
        """Return the most memory that it has used (of version 2: from Linux 5.19)."""
        return self._value("memory", "memory.max_usage_in_bytes", "memory.peak") or None

    def pids(self) -> int:
        """Return how many processes and threads it has."""
        return self._value("pids", "pids.current", "pids.current")

    def _value(self, controller: str, name1: str, name2: str, field: str = "") -> int:
        """Return a number of a file, of either version; 0 where there is none."""
        directory = self._directories.get(controller)
        name = name1
        if directory is None:
            directory, name = self._directories.get("", -1), name2
        lines = _read(directory, name).splitlines()
        if not field:
            return int(lines[0]) if lines and lines[0].isdecimal() else 0
        numbers = (line.split()[1] for line in lines if line.startswith(f"{field} "))
        return int(next(numbers, 0))


class CgroupStock:
    """Cgroups made ahead: one each for the limits that were used last.

    A round trip to the launcher, and what the kernel takes to make them, are off the way then.

    Args:
        loop: Tells when there is time.
        launcher: Makes them.
    """

    def __init__(self, loop: Loop, launcher: Peer) -> None:
        self._loop = loop
        self._launcher = launcher
        self._count = 0
        self._ready: dict[str, Cgroup] = {}
        self._used: dict[str, Mapping[str, Any]] = {}
        self._making = False
        self._taken: weakref.WeakSet[Cgroup] = weakref.WeakSet()

    async def take(self, resources: Mapping[str, Any]) -> Cgroup:
        """Take the cgroups for a container with these limits, ready or new.

        Raises:
            FaultError: There is none for one of the limits.
        """
        kind = json.dumps(resources)
        cgroup = self._ready.pop(kind, None) or await self._make(resources)
        self._taken.add(cgroup)
        self._used.pop(kind, None)
        self._used[kind] = resources
        if not self._making:
            self._making = True
            self._loop.call_at_leisure(_STOCK_AFTER_S, lambda: run_task(self._fill()))
        return cgroup

    def leave_namespace(self) -> None:
        """Let go of what is outside of the supervisor's new cgroup namespace."""
        for cgroup in self._ready.values():
            cgroup.remove(self._launcher)
        self._ready.clear()
        for cgroup in self._taken:
            cgroup.leave_namespace()

    def _make(self, resources: Mapping[str, Any]) -> Coroutine[Future[Any], None, Cgroup]:
        self._count += 1
        return Cgroup.make(self._launcher, str(self._count), resources)

    async def _fill(self) -> None:
        try:
            while len(self._used) > _STOCK_KINDS:
                kind = next(iter(self._used))
                del self._used[kind]
                if kind in self._ready:
                    self._ready.pop(kind).remove(self._launcher)
            for kind, resources in list(self._used.items()):
                if kind not in self._ready:
                    made = await self._make(resources)
                    self._ready[kind] = made
        except FaultError:
            pass  # made ahead of need: whoever needs one is told
        finally:
            self._making = False


def _read(directory: int, name: str) -> str:
    try:
        with open(name, opener=lambda path, flags: os.open(path, flags, dir_fd=directory)) as file:
            return file.read()
    except OSError:
        return ""
