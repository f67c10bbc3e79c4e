"""What the process engine cannot do, refused by name, with an engine that can."""

from __future__ import annotations

import dataclasses
from typing import Any

from pytest_containers.model.errors import UnsupportedError, hide_frames
from pytest_containers.model.spec import Bind, ContainerSpec, VolumeMount

__tracebackhide__ = hide_frames

_REASONS = {
    "cap_add": "it takes no capability from namespaces",
    "cap_drop": "capabilities are those of Docker, without SYS_CHROOT, MKNOD and NET_RAW",
    "privileged": "it has no namespaces",
    "security_opt": "its filter of system calls is its own",
    "read_only": "it has no mounts",
    "mem_limit": "it has no cgroups",
    "memswap_limit": "it has no cgroups",
    "cpus": "it has no cgroups",
    "cpu_shares": "it has no cgroups",
    "cpuset": "it has no cgroups",
    "pids_limit": "it has no cgroups",
    "blkio_weight": "it has no cgroups",
    "device_read_bps": "it has no cgroups",
    "device_write_bps": "it has no cgroups",
    "device_read_iops": "it has no cgroups",
    "device_write_iops": "it has no cgroups",
    "oom_score_adj": "files of /proc are read-only",
    "shm_size": "it has no mounts",
    "scratch_size_bytes": "it has no mounts",
    "hostname": "all processes have the host name of the machine",
}
_FIELDS = {field.name: field for field in dataclasses.fields(ContainerSpec)}


def refuse(what: str, reason: str) -> UnsupportedError:
    """Return the error for something that only the native engine does."""
    return UnsupportedError(
        f"engine 'process' does not support {what}: {reason}; use engine 'native'",
        engine="process",
        engines=["native"],
    )


def check(spec: ContainerSpec, *, is_tree: bool) -> None:
    """Raise for an option that cannot be kept.

    Args:
        is_tree: True for an image that is entered by chroot(2).

    Raises:
        UnsupportedError: There is one.
    """
    for name, reason in _REASONS.items():
        if getattr(spec, name) != _default(name):
            raise refuse(f"{name}=", reason)
    for port in spec.parsed_ports:
        if port.host is not None and port.protocol == "udp":
            raise refuse(f"port {port} at a port of the host", "it forwards TCP only")
    for mount in spec.parsed_mounts:
        if is_tree and isinstance(mount, VolumeMount):
            raise refuse(f"a volume at {mount.target} of an image", "it has no mounts")
        if is_tree and isinstance(mount, Bind) and not mount.read_only:
            raise refuse(f"a writable bind at {mount.target} of an image", "it has no mounts")


def _default(name: str) -> Any:
    field = _FIELDS[name]
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
