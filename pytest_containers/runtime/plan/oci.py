"""OCI runtime-spec configs: checked, then read (runtime-spec config.md).

`oci_fields` has the table of all properties. What cannot be done is refused by name, never
ignored: a config that starts means what it says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pytest_containers.runtime.plan import mount_options, oci_fields
from pytest_containers.runtime.wire.faults import FaultError

THROTTLES = (
    "throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice",
    "throttleWriteIOPSDevice",
)  # fmt: skip
_LIMITS = {
    "memory": ("limit", "swap"),
    "cpu": ("quota", "period", "shares", "cpus"),
    "pids": ("limit",),
    "blockIO": ("weight", *THROTTLES),
}
_LIMITING = {"limit", "quota", "shares", "cpus", "weight", *THROTTLES}
_NEEDED_NAMESPACES = ("pid", "mount", "ipc", "uts")
_JOINED_NAMESPACES = ("network", "ipc", "uts", "cgroup")
_NAMESPACES = {*_NEEDED_NAMESPACES, *_JOINED_NAMESPACES, "user"}
_MOUNT_TYPES = {
    "proc", "sysfs", "cgroup", "cgroup2", "tmpfs", "devpts", "mqueue", "bind", "volume",
    "image",
}  # fmt: skip

RLIMITS = {
    "cpu": 0, "fsize": 1, "data": 2, "stack": 3, "core": 4, "rss": 5, "nproc": 6, "nofile": 7,
    "memlock": 8, "as": 9, "locks": 10, "sigpending": 11, "msgqueue": 12, "nice": 13, "rtprio": 14,
    "rttime": 15,
}  # fmt: skip
"""Numbers by lower-case name without ``RLIMIT_`` (getrlimit(2))."""

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW",
    "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
)  # fmt: skip

MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
    "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
    "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware", "/sys/fs/selinux",
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
)  # fmt: skip
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_USUAL = frozenset((*MASKED_PATHS, *READONLY_PATHS))
_FILE_SYSTEMS = {"proc": "/proc", "sysfs": "/sys"}

_SAFE = ["nosuid", "noexec", "nodev"]


def default_mounts(
    shm_size_bytes: int = 64 << 20, *, read_only_kernel: bool = True
) -> list[dict[str, Any]]:
    """Return the file systems that every container has, as Docker lays them out.

    Args:
        shm_size_bytes: Size of ``/dev/shm``.
        read_only_kernel: False has ``/sys`` and cgroups writable, as far as the run's user
            namespace may write there.
    """
    protection = ["ro"] if read_only_kernel else []
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": _SAFE},
        {
            "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": [*_SAFE, "mode=1777", f"size={shm_size_bytes}"],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": _SAFE},
        {
            "destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": [*_SAFE, *protection],
        },
        {
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": [*_SAFE, "relatime", *protection],
        },
    ]  # fmt: skip


class Config:
    """A config that was checked, and what follows from it. Many starts share one: do not change it.

    Args:
        raw: The whole document.
    """

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw: dict[str, Any] = raw
        self.process: dict[str, Any] = raw["process"]
        self.linux: dict[str, Any] = raw.get("linux") or {}
        self.mounts: list[dict[str, Any]] = raw.get("mounts") or []
        self.readonly_root: bool = bool((raw.get("root") or {}).get("readonly"))

    @cached_property
    def binds(self) -> list[int]:
        """The indices of the mounts that are trees of the host."""
        return [
            index for index, entry in enumerate(self.mounts) if entry.get("type", "bind") == "bind"
        ]

    @cached_property
    def owned(self) -> list[int]:
        """The indices of the mounts that are volumes or images."""
        return [
            index
            for index, entry in enumerate(self.mounts)
            if entry.get("type") in ("volume", "image")
        ]

    @cached_property
    def chosen_masks(self) -> list[str]:
        """The paths of ``linux.maskedPaths`` that are not usual; see `_chosen`."""
        return self._chosen("maskedPaths")

    @cached_property
    def chosen_readonly_paths(self) -> list[str]:
        """The paths of ``linux.readonlyPaths`` that are not usual; see `_chosen`."""
        return self._chosen("readonlyPaths")

    def _chosen(self, name: str) -> list[str]:
        """Return the paths that are the caller's choice.

        A usual path is one of them too, where it is not a part of the container's own procfs or
        sysfs, or where the caller mounts something below them.
        """
        paths = self.linux.get(name) or ()
        own = tuple(f"{place}/" for place in self._own_places() if paths)
        return [path for path in paths if path not in _USUAL or not path.startswith(own)]

    def _own_places(self) -> list[str]:
        """Return which of /proc and /sys are the container's own, and are not mounted on."""
        places = []
        for entry in self.mounts:
            place = _FILE_SYSTEMS.get(entry.get("type", "bind"))
            if place is not None and place == entry["destination"]:
                places.append(place)
        targets = [self.mounts[index]["destination"] for index in self.binds]
        return [
            place
            for place in places
            if not any(target.startswith(f"{place}/") for target in targets)
        ]

    @cached_property
    def namespaces(self) -> dict[str, str]:
        """``linux.namespaces``: the path to join for each kind; empty for a new one."""
        entries = self.linux.get("namespaces") or ()
        return {entry["type"]: entry.get("path") or "" for entry in entries}

    @cached_property
    def joined_namespaces(self) -> list[str]:
        """The kinds of namespaces that are given by path."""
        return [kind for kind, path in self.namespaces.items() if path]

    @cached_property
    def resources(self) -> dict[str, dict[str, Any]]:
        """The limits of ``linux.resources``, without empty and unlimited ones."""
        resources = self.linux.get("resources") or {}
        limits = {
            kind: {
                name: value
                for name, value in (resources.get(kind) or {}).items()
                if name in names and not oci_fields.is_empty(value)
            }
            for kind, names in _LIMITS.items()
        }
        return {kind: values for kind, values in limits.items() if values.keys() & _LIMITING}


def parse(contents: bytes) -> Config:
    """Check a config.

    Raises:
        FaultError: ``SpecError``: it is not JSON, lacks something, or asks for something that is
            not supported.
    """
    try:
        raw = json.loads(contents)
    except ValueError as error:
        raise FaultError("SpecError", f"OCI config: not JSON: {error}") from None
    oci_fields.check(raw)
    _check_version(raw.get("ociVersion"))
    _check_process(_object(raw, "process", "OCI config"))
    linux = raw.get("linux") or {}
    _check_namespaces(linux.get("namespaces") or ())
    _check_linux(linux)
    for number, entry in enumerate(raw.get("mounts") or ()):
        _check_mount(entry, f"OCI config mounts[{number}]")
        if mount_options.is_bind(entry):
            entry["type"] = "bind"  # it may be a dummy
    return Config(raw)


def check_process(process: Mapping[str, Any]) -> None:
    """Check the process object of an exec."""
    oci_fields.check(process, "process", "process")
    _check_process(process)


def command(process: Mapping[str, Any], args: Sequence[Any] | None) -> tuple[str, ...]:
    """Return the command line of a process: its own, or other `args` for the same program.

    Raises:
        FaultError: It is not a command line, or begins with another word.
    """
    if not args:
        return tuple(process["args"])
    _check_args(args)
    if args[0] != process["args"][0]:
        raise FaultError("SpecError", f"args: {args[0]!r} is not the config's first word")
    return tuple(args)


def _check_args(args: Sequence[Any] | None) -> None:
    if not args or not all(isinstance(arg, str) for arg in args):
        raise FaultError(
            "SpecError", "no command: neither the image nor the caller names a program"
        )
    for arg in args:
        if "\0" in arg:
            raise FaultError("SpecError", f"argument {arg!r} contains a NUL character")


def _check_version(version: str | None) -> None:
    if version is None or version.split(".")[0] != "1":
        raise _wrong(
            "ociVersion", f"{version!r} is not a version of the specification; write 1.2.0"
        )


def _check_process(process: Mapping[str, Any]) -> None:
    _check_args(process.get("args"))
    for variable in process.get("env") or []:
        name, separator, _ = variable.partition("=")
        if not name or not separator or "\0" in variable:
            raise FaultError("SpecError", f"environment name {name!r} is not usable")
    if not str(process.get("cwd", "/")).startswith("/"):
        raise FaultError(
            "SpecError", f"working directory {process['cwd']!r} is not absolute; begin it with /"
        )
    score = process.get("oomScoreAdj")
    if score is not None and not -1000 <= score <= 1000:
        raise _wrong("process.oomScoreAdj", f"{score} is not between -1000 and 1000")
    seen: set[str] = set()
    for limit in process.get("rlimits") or []:
        missing = [part for part in ("type", "soft", "hard") if limit.get(part) is None]
        if missing:
            raise _wrong("process.rlimits", f"{missing[0]} is missing")
        name = limit["type"].removeprefix("RLIMIT_").lower()
        if name not in RLIMITS:
            raise FaultError("SpecError", f"resource limit {limit['type']!r} is not one of Linux")
        if name in seen:
            raise _wrong("process.rlimits", f"{limit['type']!r} is there twice")
        seen.add(name)


def _check_namespaces(entries: Sequence[Mapping[str, str]]) -> None:
    """Check the namespaces; the run knows about its own network, see `bundle.check`."""
    paths: dict[str, str] = {}
    for number, entry in enumerate(entries):
        kind, path = entry.get("type", ""), entry.get("path") or ""
        where = f"linux.namespaces[{number}]"
        if kind not in _NAMESPACES:
            raise _wrong(where, f"a container has no {kind!r} namespace")
        if kind in paths:
            raise _wrong(where, f"{kind!r} is there twice")
        if path and kind not in _JOINED_NAMESPACES:
            raise _wrong(where, f"a container always has a {kind!r} namespace of its own; leave "
                         f"out the path {path!r}")  # fmt: skip
        paths[kind] = path
    missing = [kind for kind in _NEEDED_NAMESPACES if kind not in paths]
    if missing:
        raise _wrong(
            "linux.namespaces",
            f"{missing[0]!r} is left out, which means the host's; a container always has its own: "
            f'add {{"type": "{missing[0]}"}}',
        )


def _check_linux(linux: Mapping[str, Any]) -> None:
    _check_device_rules((linux.get("resources") or {}).get("devices") or ())
    propagation = linux.get("rootfsPropagation")
    if propagation not in (None, "", "private", "rprivate"):
        raise _wrong(
            "linux.rootfsPropagation",
            f"{propagation!r} is not supported: no mounts come from the host later or go there",
        )
    domain = (linux.get("personality") or {}).get("domain")
    if domain not in (None, "", "LINUX"):
        raise _wrong("linux.personality.domain", f"{domain!r} is not supported: LINUX is")
    seccomp = linux.get("seccomp") or {}
    rules = {name: value for name, value in seccomp.items() if name != "architectures"}
    if rules.pop("defaultAction", None) not in (None, "", "SCMP_ACT_ALLOW") or any(rules.values()):
        raise _wrong(
            "linux.seccomp", "it was not compiled; the request has the filter apart from the config"
        )
    for name in ("maskedPaths", "readonlyPaths"):
        for path in linux.get(name) or ():
            if not path.startswith("/") or path.strip("/") in ("", "."):
                raise _wrong(f"linux.{name}", f"{path!r} is not an absolute path below /")


def _check_device_rules(rules: Sequence[Any]) -> None:
    """Accept what is so anyway: devices that are not there cannot be made (mknod(2), EPERM)."""
    for number, rule in enumerate(rules):
        where = f"linux.resources.devices[{number}]"
        if not isinstance(rule, dict):
            raise _wrong(where, f"{rule!r} is not an object")
        for_all = rule.get("type", "a") == "a" and set(rule.get("access", "rwm")) == set("rwm")
        if not rule.get("allow") and not for_all:
            raise _wrong(
                where, "denying one device is not supported: this version has no limits by cgroups"
            )


def _check_mount(entry: Mapping[str, Any], where: str) -> None:
    destination = entry.get("destination") or ""
    if not destination.startswith("/") or "\0" in destination:
        raise FaultError("SpecError", f"{where}: target {destination!r} is not an absolute path")
    if entry.get("type", "bind") not in _MOUNT_TYPES and not mount_options.is_bind(entry):
        raise FaultError("SpecError", f"{where}: type {entry['type']!r} is not supported")
    if mount_options.is_bind(entry) and not entry.get("source"):
        raise FaultError("SpecError", f"{where}.source: a bind needs one")
    mount_options.check(entry, where)


def _object(parent: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    value = parent.get(name)
    if not isinstance(value, dict):
        raise FaultError("SpecError", f"{where}: {name} is missing")
    return value


def _wrong(field: str, reason: str) -> FaultError:
    return FaultError("SpecError", f"OCI config {field}: {reason}", field=field)
