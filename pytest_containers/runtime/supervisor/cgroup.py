"""The cgroups of a container, as the supervisor holds them: to join, to read, to let go of."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_containers.linux.program import Value
from pytest_containers.runtime.wire.message import close_all
from pytest_containers.runtime.wire.operations import host
from pytest_containers.runtime.wire.peer import Peer
from pytest_containers.runtime.wire.tasks import owned

_MOST_READ_BYTES = 1 << 16
_MOST_LEFT_BYTES, _LEFT_PART = 1 << 20, 64
"""The memory that a dead container may leave to the next one, and the part of its limit. The kernel
gives back what it keeps for each processor (up to 256 KB) when the limit is reached."""

_KEPT_OPEN = frozenset({
    "memory.usage_in_bytes", "memory.current", "memory.oom_control", "memory.events",
    "cpuacct.usage", "cpu.stat",
})  # fmt: skip
"""The files that `Cgroup.renew` reads, of either version."""


class Cgroup:
    """The cgroups of one container; without any, its processes are where the supervisor is.

    Owns its descriptors. When the last process has ended, `retire` tells whose they are then.

    Attributes:
        key: Its name for the launcher; empty if it has none any more.
        resources: Its limits, as an OCI config has them.
        is_ready: True if they count from the beginning: new ones, and those renewed.
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
        self.key: str = key
        self.resources: Mapping[str, Any] = resources or {}
        self.is_ready: bool = True
        self.memory_limit_bytes: int = ((resources or {}).get("memory") or {}).get("limit", 0)
        self.pids_limit: int | None = ((resources or {}).get("pids") or {}).get("limit")
        self._directories: dict[str, int] = {}
        self._seen_kills = 0
        self._cpu_s_before = 0.0
        self._reusable = False
        self._resets: dict[str, tuple[int, bytes]] = {}
        self._open: dict[tuple[int, str], int] = {}
        self._was_unreadable = False
        self.tasks: Sequence[int] = ()
        self.into: int | None = None
        self._procs = -1
        self._files: Sequence[int] = ()
        if made is not None:
            self._take(made)

    def _take(self, made: host.CgroupFiles) -> None:
        self._files = made.files
        self._reusable = made.reusable
        files = iter(made.files)
        for controllers in made.hierarchies:
            self._directories |= dict.fromkeys(controllers.split(","), next(files))
            if controllers:
                self.tasks = (*self.tasks, next(files))
            else:
                self._procs, self.into = next(files), next(files)
        self._resets = {
            name: (fd, value.encode())
            for (name, value), fd in zip(made.resets.items(), files, strict=True)
        }

    @classmethod
    async def make(cls, launcher: Peer, key: str, resources: Mapping[str, Any]) -> Cgroup:
        """Have the launcher make them.

        Raises:
            FaultError: There is none for one of the limits.
        """

        def release(made: host.CgroupFiles) -> None:
            cls(key, resources, made).close()
            launcher.request(host.RemoveCgroups(keys=[key]))

        answer = launcher.request(host.MakeCgroup(key=key, resources=resources))
        made: host.CgroupFiles = await owned(answer, release)
        return cls(key, resources, made)

    @property
    def exists(self) -> bool:
        """True if it has cgroups of its own."""
        return bool(self.key)

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
            self._reusable = False
            self.into = None
            self.tasks = (*self.tasks, self._procs)

    def retire(self) -> Cgroup | None:
        """Give them up, now that the last process has ended.

        Returns:
            The same for another container; None if it cannot have them, and they are to be removed.
        """
        if not self._reusable:
            self.close()
            return None
        next_one = object.__new__(type(self))
        next_one.__dict__.update(self.__dict__)  # copy.copy takes 25 µs
        next_one.is_ready = False
        self._forget()
        return next_one

    def renew(self) -> bool:
        """Have them count from the beginning; False if they cannot, at least not yet."""
        self._was_unreadable = False
        self._seen_kills = self._memory_kills()
        if "cpuacct" in self._directories or self.into is not None:
            self._cpu_s_before += self.cpu_s()
        most_left = min(_MOST_LEFT_BYTES, (self.memory_limit_bytes or sys.maxsize) // _LEFT_PART)
        if self.memory_bytes() > most_left:  # not freed yet, or files that the kernel has read
            return False
        try:
            for fd, value in self._resets.values():
                os.pwrite(fd, value, 0)
        except OSError:  # EINVAL: not of this kernel
            self._reusable = False
            return False
        self.is_ready = not self._was_unreadable  # for want of descriptors: what was read is no 0
        return self.is_ready

    @property
    def reusable(self) -> bool:
        """True if another container may have them."""
        return self._reusable

    def close(self) -> None:
        """Close its descriptors."""
        close_all(self._files)
        close_all([*self._open.values()])
        self._forget()

    def _forget(self) -> None:
        self.key, self._reusable = "", False
        self._files, self._resets, self._open = (), {}, {}
        self._directories, self.tasks, self.into = {}, (), None

    # --------------------------------------------------------------- what it uses

    def new_memory_kills(self) -> str:
        """Tell of processes that the kernel has killed for memory since the last call, if any."""
        if not self._directories:
            return ""
        kills = self._memory_kills()
        new, self._seen_kills = kills - self._seen_kills, kills
        if not new:
            return ""
        limit = f"its memory limit of {self.memory_limit_bytes / (1 << 20):g} MB"
        if not self.memory_limit_bytes:
            limit = "the memory limit of all containers (the setting max_memory)"
        return f"{'' if new == 1 else f'{new} processes '}killed: over {limit}"

    def _memory_kills(self) -> int:
        return self._value("memory", "memory.oom_control", "memory.events", "oom_kill")

    def has(self, controller: str) -> bool:
        """True if a controller counts what the container uses."""
        if controller in self._directories:
            return True
        return controller in self._read(self._directories.get("", -1), "cgroup.controllers").split()

    def cpu_s(self) -> float:
        """Return the time of processors that it has used."""
        if "cpuacct" in self._directories:
            used_s = self._value("cpuacct", "cpuacct.usage", "") / 1e9
        else:
            used_s = self._value("cpu", "", "cpu.stat", "usage_usec") / 1e6
        return used_s - self._cpu_s_before

    def memory_bytes(self) -> int:
        """Return the memory that it uses now."""
        return self._value("memory", "memory.usage_in_bytes", "memory.current")

    def memory_peak_bytes(self) -> int | None:
        """Return the most memory that it has used (of version 2: from Linux 5.19)."""
        reset = self._resets.get("memory.peak")
        if reset is not None:
            with contextlib.suppress(OSError):
                return int(os.pread(reset[0], 32, 0))
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
        lines = self._read(directory, name).splitlines()
        if not field:
            return int(lines[0]) if lines and lines[0].isdecimal() else 0
        numbers = (line.split()[1] for line in lines if line.startswith(f"{field} "))
        return int(next(numbers, 0))

    def _read(self, directory: int, name: str) -> str:
        """Return the text of a file, which stays open if it is of `_KEPT_OPEN`; "" without one."""
        file = directory, name
        try:
            if file not in self._open:
                self._open[file] = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
            return os.pread(self._open[file], _MOST_READ_BYTES, 0).decode()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                self._was_unreadable = True
            return ""
        finally:
            if name not in _KEPT_OPEN and file in self._open:
                os.close(self._open.pop(file))
