"""OCI runtime-spec configs, made from a `ContainerSpec` and an image."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_containers.images.image import Image
from pytest_containers.model.errors import SpecError, StartError, hide_frames
from pytest_containers.model.limits import RATES
from pytest_containers.model.sizes import parse_size
from pytest_containers.model.spec import (
    ContainerSpec,
    Mount,
    Tmpfs,
    VolumeMount,
    normal_target,
)
from pytest_containers.runtime.plan import oci

__tracebackhide__ = hide_frames

_CPU_PERIOD_US = 100_000
"""The kernel's own, and Docker's for ``--cpus``."""

_NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "cgroup")


def process_of(
    args: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    *,
    terminal: bool,
    spec: ContainerSpec,
) -> dict[str, Any]:
    """Return an OCI process object."""
    process: dict[str, Any] = {
        "args": list(args),
        "env": [f"{name}={value}" for name, value in env.items()],
        "cwd": cwd or "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), granted(spec)),
    }
    if terminal:
        process["terminal"] = True
    if spec.no_new_privileges:
        process["noNewPrivileges"] = True
    if spec.oom_score_adj is not None:
        process["oomScoreAdj"] = spec.oom_score_adj
    if spec.ulimits:
        process["rlimits"] = [_limit(name, value) for name, value in spec.ulimits.items()]
    return process


def granted(spec: ContainerSpec) -> list[str]:
    """Return the capabilities of a container: ``CAP_CHOWN`` …"""
    if not (spec.cap_add or spec.cap_drop or spec.egress or spec.privileged):
        return list(oci.DEFAULT_CAPABILITIES)
    add, drop = _names(spec.cap_add), _names(spec.cap_drop)
    every = "CAP_ALL" in add or spec.privileged
    base = _all_capabilities() if every else [] if "CAP_ALL" in drop else oci.DEFAULT_CAPABILITIES
    if spec.egress and not every:
        # slirp4netns and pasta carry a forged packet for 127.0.0.1 to the host's loopback.
        base = [name for name in base if name != "CAP_NET_RAW"]
    chosen = dict.fromkeys([*base, *(name for name in add if name != "CAP_ALL")])
    for name in drop:
        chosen.pop(name, None)
    return list(chosen)


def _names(capabilities: Sequence[str]) -> list[str]:
    return [f"CAP_{name.upper().removeprefix('CAP_')}" for name in capabilities]


def _all_capabilities() -> list[str]:
    from pytest_containers.linux.process import CAPABILITIES

    return [f"CAP_{name}" for name in CAPABILITIES]


def _limit(name: str, value: int | tuple[int, int]) -> dict[str, Any]:
    soft, hard = value if isinstance(value, tuple) else (value, value)
    short = name.lower().removeprefix("rlimit_")
    if short not in oci.RLIMITS:
        raise SpecError(f"resource limit {name!r} is not one of {', '.join(sorted(oci.RLIMITS))}")
    return {"type": f"RLIMIT_{short.upper()}", "soft": soft, "hard": hard}


def config_of(
    spec: ContainerSpec, image: Image, args: Sequence[str], hostname: str | None
) -> dict[str, Any]:
    """Return the config. Equal specs give equal configs, which are the cache key of plans.

    Args:
        args: The command line. The config contains its first word only and the rest is passed
            separately, so that a program has one plan for all arguments.
        hostname: The HOSTNAME in the environment; None leaves out a name that is always different.
    """
    terminal = spec.tty
    hostname_env = {} if hostname is None else {"HOSTNAME": hostname}
    env = {**image.config.env, **hostname_env, **spec.env}
    cwd = spec.workdir or image.config.workdir or "/"
    own = [_mount(mount) for mount in spec.parsed_mounts]
    replaced = {entry["destination"] for entry in own}
    own += [
        {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}
        for path in map(normal_target, image.config.volumes)
        if spec.read_only and path not in replaced
    ]
    # Those above first, as Docker has them, so that none hides another.
    own.sort(key=lambda entry: str(entry["destination"]).count("/"))
    mounts = [
        entry
        for entry in oci.default_mounts(
            parse_size(spec.shm_size), read_only_kernel=not spec.privileged
        )
        if entry["destination"] not in replaced & {"/dev/shm", "/dev/mqueue"}
    ] + own
    config: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": process_of(args[:1], env, cwd, terminal=terminal, spec=spec),
        "root": {"path": "rootfs", "readonly": spec.read_only},
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": kind} for kind in _NAMESPACES],
            "maskedPaths": [] if spec.privileged else list(oci.MASKED_PATHS),
            "readonlyPaths": [] if spec.privileged else list(oci.READONLY_PATHS),
        },
    }
    resources = _resources(spec)
    if resources:
        config["linux"]["resources"] = resources
    return config


def _resources(spec: ContainerSpec) -> dict[str, dict[str, Any]]:
    resources = {
        "memory": _memory(spec),
        "cpu": _cpu(spec),
        "blockIO": _block_io(spec),
    }
    if spec.pids_limit is not None and spec.pids_limit > 0:
        resources["pids"] = {"limit": spec.pids_limit}
    return {kind: values for kind, values in resources.items() if values}


def _memory(spec: ContainerSpec) -> dict[str, Any]:
    if spec.mem_limit is None:
        return {}
    memory = {"limit": parse_size(spec.mem_limit)}
    swap = spec.memswap_limit
    both = -1 if swap == -1 else parse_size(swap or 0)
    if both:  # else it is a default, which the launcher applies where the kernel counts swap
        memory["swap"] = both
    return memory


def _cpu(spec: ContainerSpec) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    if spec.cpus is not None:
        cpu |= {"period": _CPU_PERIOD_US, "quota": round(spec.cpus * _CPU_PERIOD_US)}
    if spec.cpu_shares is not None:
        cpu["shares"] = spec.cpu_shares
    if spec.cpuset is not None:
        cpu["cpus"] = spec.cpuset
    return cpu


_THROTTLES = dict(zip(RATES, oci.THROTTLES, strict=True))


def _block_io(spec: ContainerSpec) -> dict[str, Any]:
    block_io: dict[str, Any] = {}
    if spec.blkio_weight is not None:
        block_io["weight"] = spec.blkio_weight
    for option, name in _THROTTLES.items():
        rates = getattr(spec, option)
        if rates:
            block_io[name] = [
                _throttle(option, str(rate["Path"]), parse_size(rate["Rate"])) for rate in rates
            ]
    return block_io


def _throttle(option: str, path: str, rate: int) -> dict[str, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise StartError(f"{option}: {path}: {cause} on the host", source=path) from None
    if not stat.S_ISBLK(status.st_mode):
        raise StartError(
            f"{option}: {path} is not a block device of the host; name the whole disk, as `lsblk` "
            "lists them",
            source=path,
        )
    return {
        "major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev), "rate": rate,
    }  # fmt: skip


def text_of(document: Mapping[str, Any]) -> bytes:
    """Return a config or process object in the encoding of the wire."""
    return json.dumps(document, separators=(",", ":")).encode()


def _mount(mount: Mount) -> dict[str, Any]:
    target = normal_target(mount.target)
    if isinstance(mount, Tmpfs):
        return {
            "destination": target, "type": "tmpfs", "source": "tmpfs",
            "options": _tmpfs_options(mount),
        }  # fmt: skip
    options = ["ro"] if mount.read_only else []
    if isinstance(mount, VolumeMount):
        return {
            "destination": target, "type": "volume", "source": mount.volume.id, "options": options,
        }  # fmt: skip
    try:
        source = os.path.realpath(mount.source)
        os.stat(source)
    except OSError as error:
        cause = f"{(error.strerror or str(error)).lower()} on the host"
        raise StartError(
            f"mount of {os.fspath(mount.source)} on {mount.target}: {cause}"
            + ("; make it first" if isinstance(error, FileNotFoundError) else ""),
            source=os.fspath(mount.source),
        ) from None
    return {"destination": target, "type": "bind", "source": source, "options": options}


def _tmpfs_options(mount: Tmpfs) -> list[str]:
    options = ["nosuid", "nodev"] if mount.exec else ["nosuid", "nodev", "noexec"]
    for name, value in (
        ("mode", None if mount.mode is None else f"{mount.mode:o}"), ("uid", mount.uid),
        ("gid", mount.gid), ("size", mount.size_bytes),
    ):  # fmt: skip
        if value is not None:
            options.append(f"{name}={value}")
    return options
