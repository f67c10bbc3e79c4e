"""Limits as an OCI config has them, written to the files of a cgroup of either version."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from pytest_containers.linux.cgroups import Hierarchy
from pytest_containers.runtime.wire.faults import FaultError

_PERIOD_US = 100_000
"""The kernel's own."""

NAMED = {
    "memory": "mem_limit or max_memory",
    "pids": "pids_limit",
    "cpu": "cpus or cpu_shares",
    "cpuset": "cpuset",
    "io": "blkio_weight or device_…_bps and _iops",
}
"""The options of `ContainerSpec` that need a controller, by its name in version 2."""
_QUOTAS = ("cpu.cfs_quota_us", "cpu.max")
_NAMES_OF_VERSION_1 = {"blkio": "io"}


def controllers_of(resources: Mapping[str, Any]) -> set[str]:
    """Return the controllers that ``linux.resources`` needs."""
    cpu = resources.get("cpu") or {}
    return {
        name
        for name, present in (
            ("memory", resources.get("memory")), ("pids", resources.get("pids")),
            ("cpu", "quota" in cpu or "shares" in cpu), ("cpuset", "cpus" in cpu),
            ("io", resources.get("blockIO")),
        )
        if present
    }  # fmt: skip


def names_of_version_2(controllers: frozenset[str]) -> set[str]:
    """Return controllers of version 1 by their names in version 2."""
    return {_NAMES_OF_VERSION_1.get(name, name) for name in controllers}


class LimitFile(NamedTuple):
    """A limit as the kernel takes it.

    Attributes:
        option: Of `ContainerSpec`.
        names: The files that it may be in: the first that is there.
        value: What is written.
        optional: True if it need not be there.
    """

    option: str
    names: tuple[str, ...]
    value: str
    optional: bool = False


def write_limits(
    folder: str, tree: Hierarchy, controllers: set[str], resources: Mapping[str, Any]
) -> None:
    """Write the limits of some controllers to the files of a cgroup.

    Raises:
        FaultError: The kernel does not take one, or has no file for it.
    """
    for limit in _limit_files(tree, controllers, resources):
        _write_limit(folder, limit)


def _write_limit(folder: str, limit: LimitFile) -> None:
    for name in limit.names:
        try:
            # Without O_CREAT, for which a file that is not there is "Permission denied" here.
            fd = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            os.write(fd, limit.value.encode())
        except OSError as error:
            raise FaultError(
                "StartError",
                f"{limit.option}: the kernel does not take {limit.value!r} for {name}: "
                f"{error.strerror}",
                errno=error.errno,
            ) from None
        finally:
            os.close(fd)
        return
    if not limit.optional:
        raise FaultError(
            "UnsupportedError",
            f"{limit.option}: this kernel has no {' or '.join(limit.names)}; leave it out",
        )


class Reset(NamedTuple):
    """A file of a cgroup by which it becomes as new.

    Attributes:
        fd: Opened to read and write. Of version 2, a peak is reset for its readers alone.
        value: What is to be written.
    """

    fd: int
    value: str


def open_resets(
    folder: str, tree: Hierarchy, controllers: set[str], resources: Mapping[str, Any]
) -> dict[str, Reset]:
    """Open the files to be written to before another container has a cgroup, by their names.

    The peak of memory, which of version 2 can be reset from Linux 6.12 on, and the limit of time:
    what was used up of this period is there again then.
    """
    values: dict[str, str] = {}
    if "memory" in controllers:
        values["memory.max_usage_in_bytes" if tree.version == 1 else "memory.peak"] = "0"
    for limit in _limit_files(tree, controllers, resources):
        if limit.names[0] in _QUOTAS:
            values[limit.names[0]] = limit.value
    opened: dict[str, Reset] = {}
    for name, value in values.items():
        with suppress(FileNotFoundError):  # version 2 has no peak before Linux 5.19
            try:
                fd = os.open(f"{folder}/{name}", os.O_RDWR | os.O_CLOEXEC)
            except PermissionError:  # nothing resets it, so that the cgroup is not used again
                fd = os.open(f"{folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            opened[name] = Reset(fd, value)
    return opened


def write_memory_limit(folder: str, tree: Hierarchy, limit_bytes: int) -> None:
    """Write the memory limit of all containers of a run."""
    write_limits(folder, tree, {"memory"}, {"memory": {"limit": limit_bytes}})


Files = Iterator[LimitFile]


def _limit_files(tree: Hierarchy, controllers: set[str], resources: Mapping[str, Any]) -> Files:
    files = _files_of_version_1 if tree.version == 1 else _files_of_version_2
    return files(controllers, resources)


def _files_of_version_1(controllers: set[str], resources: Mapping[str, Any]) -> Files:
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    if "memory" in controllers and "limit" in memory:
        yield LimitFile("mem_limit", ("memory.limit_in_bytes",), str(memory["limit"]))
        both, optional = _memory_and_swap(memory)
        if both is not None:
            yield LimitFile("memswap_limit", ("memory.memsw.limit_in_bytes",), str(both), optional)
    if "pids" in controllers:
        yield LimitFile("pids_limit", ("pids.max",), str(resources["pids"]["limit"]))
    if "cpu" in controllers and "quota" in cpu:
        yield LimitFile("cpus", ("cpu.cfs_period_us",), str(cpu.get("period", _PERIOD_US)))
        yield LimitFile("cpus", ("cpu.cfs_quota_us",), str(cpu["quota"]))
    if "cpu" in controllers and "shares" in cpu:
        yield LimitFile("cpu_shares", ("cpu.shares",), str(cpu["shares"]))
    if "cpuset" in controllers:
        yield LimitFile("cpuset", ("cpuset.cpus",), cpu["cpus"])
    if "io" in controllers:
        yield from _block_io_of_version_1(resources["blockIO"])


def _block_io_of_version_1(block_io: Mapping[str, Any]) -> Files:
    if "weight" in block_io:
        names = ("blkio.weight", "blkio.bfq.weight")
        yield LimitFile("blkio_weight", names, str(block_io["weight"]))
    for throttle in THROTTLES:
        for device in block_io.get(throttle.name) or ():
            value = f"{device['major']}:{device['minor']} {device['rate']}"
            yield LimitFile(throttle.option, (throttle.file,), value)


def _files_of_version_2(controllers: set[str], resources: Mapping[str, Any]) -> Files:
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    if "memory" in controllers and "limit" in memory:
        yield LimitFile("mem_limit", ("memory.max",), str(memory["limit"]))
        both, optional = _memory_and_swap(memory)
        if both is not None:
            swap = "max" if both == -1 else str(both - memory["limit"])
            yield LimitFile("memswap_limit", ("memory.swap.max",), swap, optional)
    if "pids" in controllers:
        yield LimitFile("pids_limit", ("pids.max",), str(resources["pids"]["limit"]))
    if "cpu" in controllers and "quota" in cpu:
        value = f"{cpu['quota']} {cpu.get('period', _PERIOD_US)}"
        yield LimitFile("cpus", ("cpu.max",), value)
    if "cpu" in controllers and "shares" in cpu:
        yield LimitFile("cpu_shares", ("cpu.weight",), str(_weight(cpu["shares"])))
    if "cpuset" in controllers:
        yield LimitFile("cpuset", ("cpuset.cpus",), cpu["cpus"])
    if "io" in controllers:
        yield from _block_io_of_version_2(resources["blockIO"])


def _block_io_of_version_2(block_io: Mapping[str, Any]) -> Files:
    if "weight" in block_io:
        # io.weight is of another policy, io.cost, and has another range: no weight without BFQ.
        yield LimitFile("blkio_weight", ("io.bfq.weight",), str(block_io["weight"]))
    for throttle in THROTTLES:
        for device in block_io.get(throttle.name) or ():
            value = f"{device['major']}:{device['minor']} {throttle.key}={device['rate']}"
            yield LimitFile(throttle.option, ("io.max",), value)


class Throttle(NamedTuple):
    """A limit of disks.

    Attributes:
        name: In ``linux.resources.blockIO``.
        option: Of `ContainerSpec`.
        file: Of version 1.
        key: In ``io.max`` of version 2.
    """

    name: str
    option: str
    file: str
    key: str


THROTTLES = tuple(
    Throttle(
        f"throttle{direction.title()}{unit}Device",
        f"device_{direction}_{unit.lower()}",
        f"blkio.throttle.{direction}_{unit.lower()}_device",
        f"{direction[0]}{unit.lower()}",
    )
    for unit in ("Bps", "IOPS")
    for direction in ("read", "write")
)


def _memory_and_swap(memory: Mapping[str, Any]) -> tuple[int | None, bool]:
    """Return the limit of both, and whether it is a default: no matter if swap is not counted."""
    if "swap" in memory:
        return memory["swap"], False
    return memory.get("defaultSwap"), True


def _weight(shares: int) -> int:
    """Return ``cpu.weight`` for ``cpu.shares``, as runc 1.3.2 has it: 1024 is 100, both defaults.

    A curve through (2, 1), (1024, 100) and (262144, 10000).
    """
    exponent = math.log2(min(max(shares, 2), 1 << 18))
    return math.ceil(10 ** ((exponent**2 + 125 * exponent) / 612 - 7 / 34) - 1e-9)
