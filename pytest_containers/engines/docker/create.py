"""From the spec of a container to what the daemon is asked to create."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_containers.engines.docker.core import DockerVolume
from pytest_containers.model.command import command_words
from pytest_containers.model.errors import SpecError, StartError, UnsupportedError, hide_frames
from pytest_containers.model.limits import RATES
from pytest_containers.model.security import seccomp_option
from pytest_containers.model.sizes import parse_size
from pytest_containers.model.spec import Bind, ContainerSpec, Port, Tmpfs, signal_number

if TYPE_CHECKING:
    from pytest_containers.engines.docker.core import DockerNetwork
    from pytest_containers.engines.docker.images import DockerImage

__tracebackhide__ = hide_frames

_UNUSABLE = re.compile(r"[^a-zA-Z0-9._-]")
_DEFAULT_LOG_BYTES = 16 << 20
_DEFAULT_SHM_BYTES = 64 << 20
_RATE_KEYS = dict(
    zip(
        RATES,
        (
            "BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps",
            "BlkioDeviceWriteIOps",
        ),
        strict=True,
    )
)  # fmt: skip


def refuse_options(spec: ContainerSpec) -> None:
    """Refuse the options that Docker's API does not have.

    Raises:
        UnsupportedError: The message names the option and the engine that has it.
    """
    refused = {
        "host_ports": bool(spec.host_ports),
        "scratch_size_bytes": spec.scratch_size_bytes is not None,
        "scratch='tmpfs'": spec.scratch == "tmpfs",
        "egress=False": spec.egress is False and spec.network,
    }
    for option, is_set in refused.items():
        if is_set:
            raise UnsupportedError(
                f"engine 'docker' has no option {option} of containers; leave it out, or use "
                "engine 'native'",
                engine="docker",
                engines=["native"],
            )


def host_name(name: str) -> str:
    """Return a name that is valid for gethostname(2) and for the names of Docker."""
    return _UNUSABLE.sub("-", name[:63])


def config_of(
    spec: ContainerSpec,
    image: DockerImage,
    name: str,
    networks: Sequence[DockerNetwork],
    labels: Mapping[str, str],
    ports: Mapping[Port, int | None],
    bind_ip: str,
    stdin: bool,
) -> dict[str, Any]:
    """Return the body of ``POST /containers/create``.

    Args:
        networks: The network of the container; further ones are connected before its start.
        ports: The ports to publish, and at which port of the host; None is any.
        bind_ip: The address at which ports are published.
        stdin: Keep standard input open.
    """
    refuse_options(spec)
    hostname = spec.hostname or host_name(name)
    config: dict[str, Any] = {
        "Image": image.id,
        "Hostname": hostname,
        "Labels": dict(labels),
        "Tty": spec.tty,
        "OpenStdin": stdin,
        "StdinOnce": stdin,
        "ExposedPorts": {str(port): {} for port in spec.parsed_ports},
        "HostConfig": _host_config(spec, networks, ports, bind_ip),
    }
    config |= _program(spec)
    if networks:
        config["NetworkingConfig"] = {
            "EndpointsConfig": {networks[0].name: {"Aliases": aliases_of(spec, name)}}
        }
    return config


def aliases_of(spec: ContainerSpec, name: str) -> list[str]:
    """Return the names by which other containers know a container."""
    hostname = spec.hostname or host_name(name)
    return list(dict.fromkeys([hostname, hostname.partition(".")[0], name, *spec.aliases]))


def _program(spec: ContainerSpec) -> dict[str, Any]:
    program: dict[str, Any] = {}
    if spec.entrypoint is not None:
        program["Entrypoint"] = command_words(spec.entrypoint, "entrypoint") or [""]
    if spec.command is not None:
        program["Cmd"] = command_words(spec.command, "command")
    if spec.env:
        program["Env"] = [f"{name}={value}" for name, value in spec.env.items()]
    if spec.user is not None:
        program["User"] = str(spec.user)
    if spec.workdir is not None:
        program["WorkingDir"] = spec.workdir
    if spec.stop_signal is not None:
        program["StopSignal"] = str(signal_number(spec.stop_signal))
    return program


def _host_config(
    spec: ContainerSpec,
    networks: Sequence[DockerNetwork],
    ports: Mapping[Port, int | None],
    bind_ip: str,
) -> dict[str, Any]:
    host: dict[str, Any] = {
        "NetworkMode": networks[0].name if networks else "none",
        "PortBindings": {
            str(port): [{"HostIp": bind_ip, "HostPort": "" if number is None else str(number)}]
            for port, number in ports.items()
        },
        "Mounts": [],
        "Tmpfs": {},
    }
    for mount in spec.parsed_mounts:
        if isinstance(mount, Tmpfs):
            host["Tmpfs"][mount.target] = _tmpfs(mount)
        elif isinstance(mount, Bind):
            source = os.path.abspath(os.fspath(mount.source))
            host["Mounts"].append(_mount("bind", source, mount.target, mount.read_only))
        elif isinstance(mount.volume, DockerVolume):
            name = mount.volume.name
            host["Mounts"].append(_mount("volume", name, mount.target, mount.read_only))
        else:
            raise SpecError(f"volume {mount.volume!r} is not one of engine 'docker'")
    return host | _security(spec) | _limits(spec)


def _mount(kind: str, source: str, target: str, read_only: bool) -> dict[str, Any]:
    return {"Type": kind, "Source": source, "Target": target, "ReadOnly": read_only}


def _tmpfs(mount: Tmpfs) -> str:
    options = ["exec" if mount.exec else "noexec"]
    options += [] if mount.size_bytes is None else [f"size={mount.size_bytes}"]
    options.append(f"mode={0o1777 if mount.mode is None else mount.mode:o}")
    options += [] if mount.uid is None else [f"uid={mount.uid}"]
    options += [] if mount.gid is None else [f"gid={mount.gid}"]
    return ",".join(options)


def _security(spec: ContainerSpec) -> dict[str, Any]:
    options = ["no-new-privileges"] if spec.no_new_privileges else []
    profile = seccomp_option(spec.security_opt)
    if profile and profile not in ("unconfined", "builtin") and not profile.startswith("{"):
        try:
            profile = Path(profile).read_text()
        except OSError as error:
            raise StartError(
                f"security_opt: the profile {profile} cannot be read: {error.strerror}",
                errno=error.errno,
            ) from None
    if profile and profile != "builtin":
        options.append(f"seccomp={profile}")
    settings = {
        "GroupAdd": [str(group) for group in spec.groups],
        "CapAdd": list(spec.cap_add),
        "CapDrop": list(spec.cap_drop),
        "SecurityOpt": options,
        "Privileged": spec.privileged,
        "ReadonlyRootfs": spec.read_only,
        "Init": spec.init,
    }
    return {key: value for key, value in settings.items() if value}


def _limits(spec: ContainerSpec) -> dict[str, Any]:
    limits: dict[str, Any] = {
        "Memory": 0 if spec.mem_limit is None else parse_size(spec.mem_limit),
        "NanoCpus": 0 if spec.cpus is None else round(spec.cpus * 1e9),
        "CpuShares": spec.cpu_shares or 0,
        "CpusetCpus": spec.cpuset or "",
        "BlkioWeight": spec.blkio_weight or 0,
        "OomScoreAdj": spec.oom_score_adj or 0,
        "Ulimits": [_ulimit(name, value) for name, value in spec.ulimits.items()],
    }
    if spec.memswap_limit:
        swap = spec.memswap_limit
        limits["MemorySwap"] = -1 if swap == -1 else parse_size(swap)
    if spec.pids_limit is not None:
        limits["PidsLimit"] = spec.pids_limit
    for name, key in _RATE_KEYS.items():
        limits[key] = [
            {"Path": rate["Path"], "Rate": parse_size(rate["Rate"])} for rate in getattr(spec, name)
        ]
    shm = parse_size(spec.shm_size)
    if shm != _DEFAULT_SHM_BYTES:
        limits["ShmSize"] = shm
    if spec.log_limit_bytes != _DEFAULT_LOG_BYTES:
        # The older half goes when the newer one is full.
        half = {"max-size": str(max(spec.log_limit_bytes // 2, 1)), "max-file": "2"}
        limits["LogConfig"] = {"Type": "json-file", "Config": half}
    return {key: value for key, value in limits.items() if value}


def _ulimit(name: str, value: int | tuple[int, int]) -> dict[str, Any]:
    soft, hard = value if isinstance(value, tuple) else (value, value)
    return {"Name": name, "Soft": soft, "Hard": hard}
