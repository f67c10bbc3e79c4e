"""From a `ContainerSpec` and an image to an OCI runtime-spec config."""

from __future__ import annotations

import json
import os
import shlex
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_containers.errors import SpecError, StartError, hide_frames
from pytest_containers.images.image import Image, ImageConfig
from pytest_containers.runtime import oci
from pytest_containers.spec import Bind, ContainerSpec, Tmpfs, VolumeMount

__tracebackhide__ = hide_frames

_NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "cgroup")


def command_of(spec: ContainerSpec, image: ImageConfig) -> list[str]:
    """Entrypoint and command as Docker combines them.

    An entrypoint of the caller's drops the image's Cmd.

    Raises:
        SpecError: There is no program to run.
    """
    entrypoint = image.entrypoint if spec.entrypoint is None else _words(spec.entrypoint)
    command = image.cmd if spec.entrypoint is None else ()
    if spec.command is not None:
        command = _words(spec.command)
    words = [*entrypoint, *command]
    if not words:
        raise SpecError(
            "no command: neither the image nor the caller names a program; pass command=[…]"
        )
    return words


def _words(value: Sequence[str] | str) -> tuple[str, ...]:
    words = shlex.split(value) if isinstance(value, str) else list(value)
    for word in words:
        if not isinstance(word, str):
            raise SpecError(f"command: {word!r} is not text; every argument must be")
    return tuple(words)


def process_of(
    args: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    *,
    terminal: bool,
    spec: ContainerSpec,
) -> dict[str, Any]:
    """An OCI process object."""
    process: dict[str, Any] = {
        "args": list(args),
        "env": [f"{name}={value}" for name, value in env.items()],
        "cwd": cwd or "/",
        "capabilities": _capabilities(spec),
    }
    if terminal:
        process["terminal"] = True
    if spec.no_new_privileges:
        process["noNewPrivileges"] = True
    if spec.rlimits:
        process["rlimits"] = [_limit(name, value) for name, value in spec.rlimits.items()]
    return process


def _capabilities(spec: ContainerSpec) -> dict[str, list[str]]:
    add, drop = _names(spec.cap_add), _names(spec.cap_drop)
    every = "CAP_ALL" in add
    base = _all_capabilities() if every else [] if "CAP_ALL" in drop else oci.DEFAULT_CAPABILITIES
    chosen = dict.fromkeys([*base, *(name for name in add if name != "CAP_ALL")])
    for name in drop:
        chosen.pop(name, None)
    names = list(chosen)
    return {"bounding": names, "effective": names, "permitted": names}


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
    """The config; equal specs give equal configs, which is what plans are cached by.

    Args:
        args: The command line, of which the config has the first word: the rest is passed beside
            it, so that a program with other arguments is the same plan.
        hostname: For the environment; None for a name that is never the same, which is left out.
    """
    terminal = spec.tty
    given = {} if hostname is None else {"HOSTNAME": hostname}
    env = {**image.config.env, **given, **spec.env}
    cwd = spec.workdir or image.config.workdir or "/"
    own = [_mount(mount) for mount in spec.mounts]
    replaced = {entry["destination"] for entry in own} & {"/dev/shm", "/dev/mqueue"}
    defaults = oci.default_mounts(spec.shm_size_bytes)
    mounts = [entry for entry in defaults if entry["destination"] not in replaced] + own
    taken = {entry["destination"] for entry in mounts}
    mounts += [
        {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}
        for path in image.config.volumes
        if spec.read_only and path not in taken
    ]
    config = {
        "ociVersion": "1.0.2",
        "process": process_of(args[:1], env, cwd, terminal=terminal, spec=spec),
        "root": {"path": "rootfs", "readonly": spec.read_only},
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": kind} for kind in _NAMESPACES],
            "maskedPaths": list(oci.MASKED_PATHS),
            "readonlyPaths": list(oci.READONLY_PATHS),
        },
    }
    return config


def text_of(document: Mapping[str, Any]) -> bytes:
    """A config or process object as it is sent."""
    return json.dumps(document, separators=(",", ":")).encode()


def _mount(mount: Bind | Tmpfs | VolumeMount) -> dict[str, Any]:
    if not mount.target.startswith("/"):
        raise SpecError(f"mount target {mount.target!r} is not an absolute path")
    if isinstance(mount, Tmpfs):
        options = ["nosuid", "nodev", f"mode={mount.mode:o}"]
        if mount.size_bytes is not None:
            options.append(f"size={mount.size_bytes}")
        return {
            "destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options,
        }  # fmt: skip
    if isinstance(mount, VolumeMount):
        return {
            "destination": mount.target, "type": "volume", "source": mount.volume.id,
            "options": ["ro"] if mount.read_only else [],
        }  # fmt: skip
    source = os.path.realpath(mount.source)
    try:
        mode = os.stat(source).st_mode
        # A mount that the host made read-only could be made writable in the run.
        read_only = mount.read_only or os.statvfs(source).f_flag & os.ST_RDONLY
    except OSError as error:
        raise StartError(
            f"mount of {os.fspath(mount.source)} on {mount.target}: "
            f"{(error.strerror or str(error)).lower()} on the host; make it first",
            source=os.fspath(mount.source),
        ) from None
    options = ["ro"] if read_only else []
    if not stat.S_ISDIR(mode):
        options.append("file")
    return {"destination": mount.target, "type": "bind", "source": source, "options": options}
