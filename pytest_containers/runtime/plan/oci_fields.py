"""Every property of an OCI runtime-spec config for Linux, and what the runtime does about it.

Version 1.2 of the specification, and what 1.3 adds. `check` goes over a config by this table: a
property that is refused, or that is not in the table, is named in the error; an empty value asks
for nothing.
``docs/reference/oci-config.md`` is written from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pytest_containers.runtime.wire.faults import FaultError


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_numbers(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _is_pairs(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


_KINDS: dict[str, Callable[[object], bool]] = {
    "text": _is_text,
    "number": _is_number,
    "true or false": lambda value: isinstance(value, bool),
    "list of texts": _is_texts,
    "list of numbers": _is_numbers,
    "object of texts": _is_pairs,
    "object": lambda value: isinstance(value, dict),
    "list": lambda value: isinstance(value, list),
}


class Field(NamedTuple):
    """A property of the specification.

    Attributes:
        kind: Of its value, a key of the checks above.
        effect: What it does here.
        refusal: Why it is refused, unless it is empty: a clause; empty if it is applied.
    """

    kind: str
    effect: str
    refusal: str = ""


def _refused(kind: str, reason: str) -> Field:
    return Field(kind, "", reason)


_OTHER_SYSTEM = "it belongs to other systems than Linux"
_HOOK = "programs of the host are never run for a container; run them in the test"
_LIMITS = "this version has no such limits"
_PLACE = "a container's cgroup is below that of the caller"
_LABEL = "this version has no labels of security modules"
_IDMAP = "files keep the owners that the run's map of ids gives them"
_CAPABILITIES = "as the kernel defines it (capabilities(7)); unknown names are refused"

FIELDS: dict[str, Field] = {
    "ociVersion": Field("text", "any 1.x"),
    "process.terminal": Field("true or false", "a terminal, whose output is the log"),
    "process.consoleSize.height": Field("number", "of the terminal"),
    "process.consoleSize.width": Field("number", "of the terminal"),
    "process.user.uid": Field("number", "applied"),
    "process.user.gid": Field("number", "applied"),
    "process.user.umask": Field("number", "applied; 022 without"),
    "process.user.additionalGids": Field("list of numbers", "applied"),
    "process.user.username": _refused("text", _OTHER_SYSTEM),
    "process.args": Field("list of texts", "applied; the first is searched for in `PATH`"),
    "process.commandLine": _refused("text", _OTHER_SYSTEM),
    "process.env": Field(
        "list of texts", "applied; `HOME` and `PATH` are added where they are missing"
    ),
    "process.cwd": Field("text", "applied; made where it is missing"),
    "process.capabilities.bounding": Field("list of texts", _CAPABILITIES),
    "process.capabilities.effective": Field("list of texts", _CAPABILITIES),
    "process.capabilities.permitted": Field("list of texts", _CAPABILITIES),
    "process.capabilities.inheritable": Field("list of texts", _CAPABILITIES),
    "process.capabilities.ambient": Field(
        "list of texts",
        "those that are permitted and inheritable too, since the kernel has no others",
    ),
    "process.rlimits[].type": Field("text", "all of Linux, each once"),
    "process.rlimits[].soft": Field("number", "applied"),
    "process.rlimits[].hard": Field(
        "number", "applied; the kernel refuses one above the caller's own"
    ),
    "process.noNewPrivileges": Field("true or false", "applied"),
    "process.oomScoreAdj": Field(
        "number", "applied; the kernel refuses one below the caller's own"
    ),
    "process.apparmorProfile": _refused("text", _LABEL),
    "process.selinuxLabel": _refused("text", _LABEL),
    "process.scheduler": _refused("object", "programs run with the scheduler of the caller"),
    "process.ioPriority": _refused("object", "programs run with the priority of the caller"),
    "process.execCPUAffinity": _refused("object", "programs run on the processors of the caller"),
    "root.path": Field("text", "a directory of the host; what is written to it is thrown away"),
    "root.readonly": Field("true or false", "applied"),
    "hostname": Field("text", "applied"),
    "domainname": Field("text", "applied"),
    "mounts[].destination": Field(
        "text", "an absolute path; below `/proc`, `/sys` and `/dev` only what belongs there"
    ),
    "mounts[].type": Field(
        "text",
        "`proc`, `sysfs`, `cgroup` and `cgroup2` (a cgroup2, where the run may mount one), "
        "`tmpfs`, `devpts`, `mqueue`, `bind`",
    ),
    "mounts[].source": Field("text", "of a bind: a path of the host"),
    "mounts[].options": Field("list of texts", "see below; an unknown one is refused"),
    "mounts[].uidMappings": _refused("list", _IDMAP),
    "mounts[].gidMappings": _refused("list", _IDMAP),
    "hooks.prestart": _refused("list", _HOOK),
    "hooks.createRuntime": _refused("list", _HOOK),
    "hooks.createContainer": _refused("list", _HOOK),
    "hooks.startContainer": _refused("list", _HOOK),
    "hooks.poststart": _refused("list", _HOOK),
    "hooks.poststop": _refused("list", _HOOK),
    "annotations": Field("object of texts", "told by `OciContainer.state`"),
    "linux.namespaces[].type": Field(
        "text",
        "`pid`, `mount`, `ipc` and `uts` are needed; without `network` the container is in the "
        "host's, without `cgroup` in the run's; `user` is the run's; `time` is refused",
    ),
    "linux.namespaces[].path": Field(
        "text",
        "`network`, `ipc`, `uts` and `cgroup` namespaces of another container are joined",
    ),
    "linux.uidMappings[].containerID": Field("number", "a mapping that the run has is accepted"),
    "linux.uidMappings[].hostID": Field("number", "the same"),
    "linux.uidMappings[].size": Field("number", "the same"),
    "linux.gidMappings[].containerID": Field("number", "the same"),
    "linux.gidMappings[].hostID": Field("number", "the same"),
    "linux.gidMappings[].size": Field("number", "the same"),
    "linux.devices": _refused(
        "list",
        "a container has the default devices, and others by a mount of type bind on /dev/…",
    ),
    "linux.cgroupsPath": _refused("text", _PLACE),
    "linux.resources.devices": Field(
        "list",
        "rules that deny everything or allow something are what a container has anyway: devices "
        "that are not there cannot be made; others are refused",
    ),
    "linux.resources.memory.limit": Field("number", "applied, by a cgroup"),
    "linux.resources.memory.swap": Field("number", "applied: memory and swap together"),
    "linux.resources.memory.reservation": _refused("number", _LIMITS),
    "linux.resources.memory.kernel": _refused("number", _LIMITS),
    "linux.resources.memory.kernelTCP": _refused("number", _LIMITS),
    "linux.resources.memory.swappiness": _refused("number", _LIMITS),
    "linux.resources.memory.disableOOMKiller": _refused("true or false", _LIMITS),
    "linux.resources.memory.useHierarchy": Field("true or false", "as it is anyway"),
    "linux.resources.memory.checkBeforeUpdate": Field(
        "true or false", "limits are not updated here"
    ),
    "linux.resources.cpu.quota": Field("number", "applied"),
    "linux.resources.cpu.period": Field("number", "applied; 100 ms without"),
    "linux.resources.cpu.cpus": Field("text", "applied"),
    "linux.resources.cpu.mems": _refused("text", _LIMITS),
    "linux.resources.cpu.shares": Field("number", "applied"),
    "linux.resources.cpu.burst": _refused("number", _LIMITS),
    "linux.resources.cpu.realtimeRuntime": _refused("number", _LIMITS),
    "linux.resources.cpu.realtimePeriod": _refused("number", _LIMITS),
    "linux.resources.cpu.idle": _refused("number", _LIMITS),
    "linux.resources.pids.limit": Field("number", "applied"),
    "linux.resources.blockIO.weight": Field(
        "number", "applied; the kernel has it for disks with the BFQ scheduler"
    ),
    "linux.resources.blockIO.leafWeight": _refused("number", _LIMITS),
    "linux.resources.blockIO.weightDevice": _refused("list", _LIMITS),
    **{
        f"linux.resources.blockIO.throttle{kind}Device[].{name}": Field("number", "applied")
        for kind in ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS")
        for name in ("major", "minor", "rate")
    },
    "linux.resources.hugepageLimits": _refused("list", _LIMITS),
    "linux.resources.network": _refused("object", _LIMITS),
    "linux.resources.rdma": _refused("object", _LIMITS),
    "linux.resources.unified": _refused("object", _LIMITS),
    "linux.rootfsPropagation": Field("text", "`private` and `rprivate`, which all mounts are"),
    "linux.seccomp": Field(
        "object",
        "applied, but for the actions `SCMP_ACT_TRACE` and `SCMP_ACT_NOTIFY`; without it nothing "
        "is filtered",
    ),
    "linux.sysctl": Field(
        "object of texts", "`net.*`, `kernel.msg*`, `kernel.shm*`, `kernel.sem`, `fs.mqueue.*`"
    ),
    "linux.maskedPaths": Field("list of texts", "applied; those that are not there are left out"),
    "linux.readonlyPaths": Field("list of texts", "applied, with what is mounted below"),
    "linux.mountLabel": _refused("text", _LABEL),
    "linux.intelRdt": _refused("object", _LIMITS),
    "linux.personality.domain": Field("text", "`LINUX`, which every program has"),
    "linux.personality.flags": _refused("list", "the specification knows none"),
    "linux.netDevices": _refused("object", "devices of the host stay there"),
    "linux.memoryPolicy": _refused("object", "programs have the memory policy of the caller"),
    "linux.timeOffsets": _refused("object", "containers have no time namespace"),
    "freebsd": _refused("object", _OTHER_SYSTEM),
    "solaris": _refused("object", _OTHER_SYSTEM),
    "windows": _refused("object", _OTHER_SYSTEM),
    "vm": _refused("object", _OTHER_SYSTEM),
    "zos": _refused("object", _OTHER_SYSTEM),
}  # fmt: skip
"""By path; ``[]`` stands for each element of a list."""


def _tree() -> dict[str, dict[str, str]]:
    """Return the paths of the properties of every object, by the path of the object."""
    children: dict[str, dict[str, str]] = {}
    for path in FIELDS:
        parent = ""
        for name in path.split("."):
            child = f"{parent}.{name}" if parent else name
            children.setdefault(parent, {})[name.removesuffix("[]")] = child
            parent = child
    return children


_CHILDREN = _tree()
_ZERO_COUNTS = {"swappiness"}
"""Properties whose 0 is a value as any other."""
_CHECKED_LATER = {"process.args", "process.env"}
"""Properties whose NUL characters have a better message."""


def is_empty(value: object) -> bool:
    """True if a value asks for nothing: null, an empty or unlimited one, or only such ones."""
    if isinstance(value, Mapping):
        return all(
            content is None if name in _ZERO_COUNTS else is_empty(content)
            for name, content in value.items()
        )
    if isinstance(value, list):
        return all(map(is_empty, value))
    return not value or value == -1


def check(value: Any, path: str = "", shown: str = "") -> None:
    """Check that a value has only properties that are applied, and of the right kind.

    Args:
        value: A config or a part of it.
        path: Of the part, as in `FIELDS`.
        shown: The same as errors show it: with the numbers of elements.

    Raises:
        FaultError: ``SpecError`` with the name of the property.
    """
    where = f"OCI config {shown}".rstrip()
    if not isinstance(value, dict):
        raise FaultError("SpecError", f"{where}: {value!r} is not an object", field=shown)
    for name, content in value.items():
        place = f"{shown}.{name}" if shown else name
        child = _CHILDREN[path].get(name)
        if child is None:
            if not is_empty(content):
                raise _refusal(place, "it is no property that this version knows")
        elif content is not None:
            _check_property(content, child, place)


def _check_property(content: Any, path: str, shown: str) -> None:
    if path.endswith("[]"):
        if not isinstance(content, list):
            raise FaultError("SpecError", f"OCI config {shown} is not a list", field=shown)
        for number, element in enumerate(content):
            check(element, path, f"{shown}[{number}]")
    elif path in _CHILDREN:
        check(content, path, shown)
    else:
        field = FIELDS[path]
        zero_counts = path.rpartition(".")[2] in _ZERO_COUNTS and _is_number(content)
        if field.refusal and (zero_counts or not is_empty(content)):
            raise _refusal(shown, field.refusal)
        if not field.refusal and not _KINDS[field.kind](content):
            raise FaultError(
                "SpecError", f"OCI config {shown}: {content!r} is not a {field.kind}", field=shown
            )
        if path not in _CHECKED_LATER and _has_nul(content):
            message = f"OCI config {shown}: {content!r} contains a NUL character"
            raise FaultError("SpecError", message, field=shown)


def _has_nul(content: Any) -> bool:
    if isinstance(content, str):
        return "\0" in content
    if isinstance(content, dict):
        return any(map(_has_nul, (*content, *content.values())))
    return isinstance(content, list) and any(map(_has_nul, content))


def _refusal(shown: str, reason: str) -> FaultError:
    return FaultError("SpecError", f"OCI config {shown} is not supported: {reason}", field=shown)
