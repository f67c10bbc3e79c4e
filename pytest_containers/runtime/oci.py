"""The subset of the OCI runtime-spec's config that the runtime takes (runtime-spec config.md).

What is not in the subset is refused by name, never ignored: a config that starts means what it
says. `ociVersion`, `annotations` and `hooks` that are empty are the exceptions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pytest_containers.runtime.messages import FaultError

_TOP = {
    "ociVersion", "process", "root", "hostname", "domainname", "mounts", "annotations", "linux",
}  # fmt: skip
_PROCESS = {
    "terminal", "user", "args", "env", "cwd", "capabilities", "rlimits", "noNewPrivileges",
}  # fmt: skip
_USER = {"uid", "gid", "umask", "additionalGids", "username"}
_ROOT = {"path", "readonly"}
_LINUX = {"namespaces", "maskedPaths", "readonlyPaths", "sysctl"}
_NAMESPACES = {"pid", "network", "mount", "ipc", "uts", "cgroup", "user"}
_MOUNT = {"destination", "type", "source", "options"}
_MOUNT_TYPES = {
    "proc", "sysfs", "cgroup", "cgroup2", "tmpfs", "devpts", "mqueue", "bind", "volume",
    "image",
}  # fmt: skip
_CAPABILITY_SETS = {"bounding", "effective", "permitted", "inheritable", "ambient"}

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

_SAFE = ["nosuid", "noexec", "nodev"]


def default_mounts(shm_size_bytes: int = 64 << 20) -> list[dict[str, Any]]:
    """The file systems that every container has, as Docker lays them out."""
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
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_SAFE, "ro"]},
        {
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": [*_SAFE, "relatime", "ro"],
        },
    ]  # fmt: skip


class Config(NamedTuple):
    """A config that was checked.

    Attributes:
        raw: The whole document.
    """

    raw: dict[str, Any]

    @property
    def process(self) -> dict[str, Any]:
        """``process``."""
        process: dict[str, Any] = self.raw["process"]
        return process

    @property
    def linux(self) -> dict[str, Any]:
        """``linux``, empty when it is not there."""
        linux: dict[str, Any] = self.raw.get("linux") or {}
        return linux

    @property
    def mounts(self) -> list[dict[str, Any]]:
        """``mounts``."""
        mounts: list[dict[str, Any]] = self.raw.get("mounts") or []
        return mounts

    @property
    def readonly_root(self) -> bool:
        """``root.readonly``."""
        return bool((self.raw.get("root") or {}).get("readonly"))


def parse(text: bytes) -> Config:
    """Check a config.

    Raises:
        FaultError: ``SpecError``: it is not JSON, lacks something, or asks for something that is
            not supported.
    """
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise FaultError("SpecError", f"OCI config: not JSON: {error}") from None
    _only(raw, _TOP, "OCI config")
    process = _object(raw, "process", "OCI config")
    _check_process(process)
    _only(raw.get("root") or {}, _ROOT, "OCI config root")
    linux = raw.get("linux") or {}
    _only(linux, _LINUX, "OCI config linux")
    for namespace in linux.get("namespaces") or []:
        if namespace.get("type") not in _NAMESPACES or namespace.get("path"):
            raise FaultError(
                "SpecError",
                f"OCI config linux.namespaces: {namespace} is not supported; a container gets new "
                f"{', '.join(sorted(_NAMESPACES))} namespaces",
            )
    for number, entry in enumerate(raw.get("mounts") or []):
        _check_mount(entry, f"OCI config mounts[{number}]")
    return Config(raw)


def check_process(process: Mapping[str, Any]) -> None:
    """Check a process object, also that of an exec."""
    _check_process(process)


def command(process: Mapping[str, Any], given: Sequence[Any] | None) -> tuple[str, ...]:
    """The command line of a process: its own, or the `given` one, which begins with the same word.

    Raises:
        FaultError: It is not one.
    """
    if not given:
        return tuple(process["args"])
    _check_args(given)
    if given[0] != process["args"][0]:
        raise FaultError("SpecError", f"args: {given[0]!r} is not the config's first word")
    return tuple(given)


def _check_args(args: Sequence[Any] | None) -> None:
    if not args or not all(isinstance(arg, str) for arg in args):
        raise FaultError(
            "SpecError", "no command: neither the image nor the caller names a program"
        )
    for arg in args:
        if "\0" in arg:
            raise FaultError("SpecError", f"argument {arg!r} contains a NUL character")


def _check_process(process: Mapping[str, Any]) -> None:
    where = "OCI config process"
    _only(process, _PROCESS, where)
    _check_args(process.get("args"))
    for variable in process.get("env") or []:
        name, separator, _ = variable.partition("=")
        if not name or not separator or "\0" in variable:
            raise FaultError("SpecError", f"environment name {name!r} is not usable")
    if not str(process.get("cwd", "/")).startswith("/"):
        raise FaultError(
            "SpecError", f"working directory {process['cwd']!r} is not absolute; begin it with /"
        )
    _only(process.get("user") or {}, _USER, f"{where}.user")
    _only(process.get("capabilities") or {}, _CAPABILITY_SETS, f"{where}.capabilities")
    for limit in process.get("rlimits") or []:
        if limit["type"].removeprefix("RLIMIT_").lower() not in RLIMITS:
            raise FaultError("SpecError", f"resource limit {limit['type']!r} is not one of Linux")


def _check_mount(entry: Mapping[str, Any], where: str) -> None:
    _only(entry, _MOUNT, where)
    destination = entry.get("destination", "")
    if not destination.startswith("/") or "\0" in destination:
        raise FaultError("SpecError", f"{where}: target {destination!r} is not an absolute path")
    if entry.get("type", "bind") not in _MOUNT_TYPES:
        raise FaultError("SpecError", f"{where}: type {entry['type']!r} is not supported")


def _object(parent: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    value = parent.get(name)
    if not isinstance(value, dict):
        raise FaultError("SpecError", f"{where}: {name} is missing")
    return value


def _only(value: object, known: set[str], where: str) -> None:
    if not isinstance(value, dict):
        raise FaultError("SpecError", f"{where}: {value!r} is not an object")
    for name, content in value.items():
        if name not in known and content:
            raise FaultError("SpecError", f"{where}: {name!r} is not supported")
