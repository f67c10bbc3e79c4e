"""What a container uses: counted by its cgroup, or summed up over its processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from pytest_containers.linux.process import read_proc
from pytest_containers.runtime.supervisor.cgroup import Cgroup
from pytest_containers.runtime.wire.operations.containers import ContainerUsage

_TICKS = os.sysconf("SC_CLK_TCK")


class _Sum(NamedTuple):
    cpu_s: float = 0.0
    memory_bytes: int = 0
    threads: int = 0
    read_bytes: int = 0
    written_bytes: int = 0

    def plus(self, other: _Sum) -> _Sum:
        return _Sum(
            self.cpu_s + other.cpu_s,
            self.memory_bytes + other.memory_bytes,
            self.threads + other.threads,
            self.read_bytes + other.read_bytes,
            self.written_bytes + other.written_bytes,
        )


def usage_of(cgroup: Cgroup, init: int) -> ContainerUsage:
    """Read what a container uses.

    Args:
        cgroup: Its cgroups.
        init: Number of its PID 1 in ``/proc``, which runs.
    """
    total = _Sum()
    for pid in _processes(init):
        total = total.plus(_process(pid))
    received, sent = _network(init)
    memory = cgroup.has("memory")
    return ContainerUsage(
        cpu_s=cgroup.cpu_s() or total.cpu_s,
        memory_bytes=cgroup.memory_bytes() if memory else total.memory_bytes,
        memory_peak_bytes=cgroup.memory_peak_bytes() if memory else None,
        memory_limit_bytes=cgroup.memory_limit_bytes or None,
        pids=cgroup.pids() if cgroup.has("pids") else total.threads,
        pids_limit=cgroup.pids_limit,
        read_bytes=total.read_bytes,
        written_bytes=total.written_bytes,
        received_bytes=received,
        sent_bytes=sent,
    )


def _processes(init: int) -> Iterator[int]:
    """Return the numbers of all processes in the PID namespace of `init`."""
    namespace = _namespace(init)
    for entry in os.listdir("/proc"):
        if entry.isdigit() and _namespace(int(entry)) == namespace:
            yield int(entry)


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:  # it has ended
        return ""


def _process(pid: int) -> _Sum:
    try:
        fields = read_proc(f"/proc/{pid}/stat").rpartition(")")[2].split()
        status, io = _numbers(f"/proc/{pid}/status"), _numbers(f"/proc/{pid}/io")
    except OSError:  # it has ended
        return _Sum()
    return _Sum(
        sum(map(int, fields[11:15])) / _TICKS,
        (status.get("RssAnon", 0) + status.get("RssShmem", 0)) * 1024,
        int(fields[17]),
        io.get("read_bytes", 0),
        io.get("write_bytes", 0),
    )


def _numbers(path: str) -> dict[str, int]:
    """Read lines such as ``RssAnon:   12 kB``."""
    numbers = {}
    for line in read_proc(path).split("\n"):
        name, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdecimal():
            numbers[name] = int(words[0])
    return numbers


def _network(pid: int) -> tuple[int, int]:
    """Bytes received and sent by all devices but the loopback."""
    received = sent = 0
    try:
        with open(f"/proc/{pid}/net/dev") as file:
            lines = file.read().splitlines()[2:]
    except OSError:
        return 0, 0
    for line in lines:
        name, _, numbers = line.partition(":")
        if name.strip() != "lo":
            values = numbers.split()
            received += int(values[0])
            sent += int(values[8])
    return received, sent
