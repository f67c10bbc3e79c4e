"""Every property of the runtime specification is applied or refused by its name."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from pytest_containers.runtime.plan import mount_options, oci, oci_fields
from pytest_containers.runtime.plan.oci_fields import FIELDS
from pytest_containers.runtime.wire.faults import FaultError

SPECIFICATION = {
    "": "ociVersion root process hostname domainname mounts hooks annotations linux solaris windows "
        "vm zos freebsd",
    "root": "path readonly",
    "process": "terminal consoleSize user args commandLine env cwd capabilities rlimits "
        "noNewPrivileges apparmorProfile oomScoreAdj scheduler selinuxLabel ioPriority "
        "execCPUAffinity",
    "process.consoleSize": "height width",
    "process.user": "uid gid umask additionalGids username",
    "process.capabilities": "bounding effective permitted inheritable ambient",
    "process.rlimits[]": "type soft hard",
    "mounts[]": "destination type source options uidMappings gidMappings",
    "hooks": "prestart createRuntime createContainer startContainer poststart poststop",
    "linux": "uidMappings gidMappings sysctl resources cgroupsPath namespaces devices netDevices "
        "seccomp rootfsPropagation maskedPaths readonlyPaths mountLabel intelRdt memoryPolicy "
        "personality timeOffsets",
    "linux.namespaces[]": "type path",
    "linux.uidMappings[]": "containerID hostID size",
    "linux.gidMappings[]": "containerID hostID size",
    "linux.personality": "domain flags",
    "linux.resources": "devices memory cpu pids blockIO hugepageLimits network rdma unified",
    "linux.resources.memory": "limit reservation swap kernel kernelTCP swappiness "
        "disableOOMKiller useHierarchy checkBeforeUpdate",
    "linux.resources.cpu": "shares quota burst period realtimeRuntime realtimePeriod cpus mems "
        "idle",
    "linux.resources.pids": "limit",
    "linux.resources.blockIO": "weight leafWeight weightDevice throttleReadBpsDevice "
        "throttleWriteBpsDevice throttleReadIOPSDevice throttleWriteIOPSDevice",
    **{
        f"linux.resources.blockIO.throttle{kind}Device[]": "major minor rate"
        for kind in ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS")
    },
}  # fmt: skip
"""Objects of config.md and config-linux.md (1.2, and 1.3 for Linux), with their properties."""

CONFIG: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "process": {
        "terminal": True, "consoleSize": {"height": 24, "width": 80},
        "user": {"uid": 1, "gid": 2, "umask": 18, "additionalGids": [3]},
        "args": ["true"], "env": ["A=b"], "cwd": "/",
        "capabilities": {
            "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"],
            "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}],
        "noNewPrivileges": True, "oomScoreAdj": 5,
    },
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "name", "domainname": "example.org", "annotations": {"a": "b"},
    "mounts": [{"destination": "/x", "type": "bind", "source": "/y", "options": ["rbind", "ro"]}],
    "linux": {
        "namespaces": [
            *({"type": kind} for kind in ("pid", "mount", "ipc", "uts")),
            {"type": "network", "path": "/proc/1/ns/net"},
        ],
        "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
        "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
        "sysctl": {"net.core.somaxconn": "1"},
        "resources": {
            "devices": [{"allow": False, "access": "rwm"}],
            "memory": {
                "limit": 1 << 26, "swap": 1 << 27, "useHierarchy": True, "checkBeforeUpdate": True,
            },
            "cpu": {"quota": 50000, "period": 100000, "cpus": "0", "shares": 2},
            "pids": {"limit": 9},
            "blockIO": {
                "weight": 10,
                **{f"throttle{kind}Device": [{"major": 8, "minor": 1, "rate": 9}]
                   for kind in ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS")},
            },
        },
        "rootfsPropagation": "rprivate",
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"]},
        "maskedPaths": ["/proc/keys"], "readonlyPaths": ["/proc/sys"],
        "personality": {"domain": "LINUX"},
    },
}  # fmt: skip
"""A config with a value for every property that is applied."""

SAMPLES: dict[str, Any] = {
    "text": "x", "number": 3, "true or false": True, "list of texts": ["x"],
    "list of numbers": [3], "object of texts": {"x": "y"}, "object": {"x": "y"}, "list": [{"x": 1}],
}  # fmt: skip
WRONG: dict[str, Any] = {
    "text": 3, "number": "x", "true or false": "yes", "list of texts": [3],
    "list of numbers": ["x"], "object of texts": {"x": 3}, "object": ["x"], "list": {"x": 3},
}  # fmt: skip
APPLIED = [path for path, field in FIELDS.items() if not field.refusal]
REFUSED = [path for path, field in FIELDS.items() if field.refusal]


def parse(config: object) -> oci.Config:
    return oci.parse(json.dumps(config).encode())


def with_value(path: str, value: object) -> dict[str, Any]:
    """`CONFIG` with another value of a property, of the first element of a list."""
    config: Any = copy.deepcopy(CONFIG)
    place = config
    *parents, name = path.split(".")
    for parent in parents:
        place = place.setdefault(parent.removesuffix("[]"), [{}] if "[]" in parent else {})
        place = place[0] if isinstance(place, list) else place
    place[name] = value
    return config  # type: ignore[no-any-return]  # a path has no type


def value_of(path: str) -> Any:
    place: Any = CONFIG
    for name in path.split("."):
        place = place[name.removesuffix("[]")]
        place = place[-1] if name.endswith("[]") else place
    return place


def test_the_table_has_every_property_of_the_specification() -> None:
    listed = {
        f"{parent}.{name}" if parent else name
        for parent, names in SPECIFICATION.items()
        for name in names.split()
    }
    objects = {path.removesuffix("[]") for path in SPECIFICATION}
    assert set(FIELDS) == listed - objects


def test_a_config_with_all_that_is_applied() -> None:
    assert parse(CONFIG).raw["hostname"] == "name"
    assert [path for path in APPLIED if value_of(path) is None] == []


@pytest.mark.parametrize("path", REFUSED)
def test_a_property_that_is_refused(path: str) -> None:
    field = FIELDS[path]
    shown = path.replace("[]", "[0]")
    with pytest.raises(FaultError) as caught:
        parse(with_value(path, SAMPLES[field.kind]))
    assert str(caught.value) == f"OCI config {shown} is not supported: {field.refusal}"
    assert caught.value.fault.kind == "SpecError"
    assert caught.value.fault.data == {"field": shown}
    empties = (None, [], {}, "", False)
    for empty in empties if path.endswith(".swappiness") else (*empties, 0):
        parse(with_value(path, empty))


@pytest.mark.parametrize("path", APPLIED)
def test_a_property_of_another_kind(path: str) -> None:
    with pytest.raises(FaultError) as caught:
        parse(with_value(path, WRONG[FIELDS[path].kind]))
    shown = path.replace("[]", "[0]")
    assert str(caught.value).startswith(f"OCI config {shown}: ")
    assert caught.value.fault.data == {"field": shown}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [("ociVersion", "2.0.0", "ociVersion: '2.0.0' is not a version"),
     ("ociVersion", None, "ociVersion: None is not a version"),
     ("process", None, "process is missing"),
     ("process.args", [], "no command"),
     ("process.cwd", "x", "not absolute"),
     ("process.oomScoreAdj", 1001, "process.oomScoreAdj: 1001 is not between"),
     ("process.rlimits", [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2, "there twice"),
     ("process.rlimits", [{"type": "RLIMIT_X", "soft": 1, "hard": 1}], "'RLIMIT_X' is not one"),
     ("process.rlimits", [{"type": "RLIMIT_CPU", "soft": 1}], "hard is missing"),
     ("process.unknown", 3, "process.unknown is not supported: it is no property"),
     ("mounts", [{}], r"mounts\[0\]: target '' is not an absolute path"),
     ("mounts", [{"destination": "x"}], "not an absolute path"),
     ("mounts", [{"destination": "/x", "type": "nfs"}], "'nfs' is not supported"),
     ("mounts", [{"destination": "/x", "type": "bind"}], r"mounts\[0\].source: a bind needs one"),
     ("mounts", 3, "mounts is not a list"),
     ("mounts", [3], r"mounts\[0\]: 3 is not an object"),
     ("hostname", "a\0b", r"hostname: 'a\\x00b' contains a NUL character"),
     ("linux.maskedPaths", ["/a\0b"], "linux.maskedPaths: .* contains a NUL character"),
     ("linux.namespaces", [], "'pid' is left out"),
     ("linux.namespaces", [{"type": "pid"}, {"type": "pid"}], "'pid' is there twice"),
     ("linux.namespaces", [{"type": "x"}], "has no 'x' namespace"),
     ("linux.rootfsPropagation", "rshared", "linux.rootfsPropagation: 'rshared'"),
     ("linux.personality", {"domain": "LINUX32"}, "linux.personality.domain: 'LINUX32'"),
     ("linux.seccomp", {"defaultAction": "SCMP_ACT_ERRNO"}, "linux.seccomp: it was not compiled"),
     ("linux.seccomp", {"syscalls": [{"names": ["x"]}]}, "linux.seccomp: it was not compiled"),
     ("linux.seccomp", {"listenerPath": "/x"}, "linux.seccomp: it was not compiled"),
     ("linux.resources", {"devices": [{"allow": False, "type": "c", "access": "rwm"}]},
      r"linux.resources.devices\[0\]: denying one device"),
     ("linux.resources", {"devices": [{"allow": False, "access": "r"}]}, "denying one device"),
     ("linux.maskedPaths", ["x"], "linux.maskedPaths: 'x' is not an absolute path below /"),
     ("linux.readonlyPaths", ["/"], "linux.readonlyPaths: '/' is not an absolute path below /")],
)  # fmt: skip
def test_values_that_are_refused(path: str, value: object, words: str) -> None:
    with pytest.raises(FaultError, match=words):
        parse(with_value(path, value))


@pytest.mark.parametrize(
    ("kind", "option"),
    [("bind", "shared"), ("bind", "rslave"), ("bind", "unbindable"), ("bind", "idmap"),
     ("bind", "remount"), ("bind", "size=3"), ("bind", "sync"), ("tmpfs", "tmpcopyup"),
     ("tmpfs", "rshared"), ("image", "sync"), ("volume", "what")],
)  # fmt: skip
def test_options_of_mounts_that_are_refused(kind: str, option: str) -> None:
    mount = {"destination": "/x", "type": kind, "source": "/y", "options": ["ro", option]}
    with pytest.raises(FaultError, match=rf"mounts\[0\].options: '{option}' is not supported: "):
        parse(with_value("mounts", [mount]))


def test_limits_of_nothing() -> None:
    """What engines write where nothing is limited."""
    resources = {
        "devices": [{"allow": False, "access": "rwm"},
                    {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"}],
        "memory": {}, "cpu": {"shares": 0}, "pids": {"limit": -1}, "blockIO": {"weight": 0},
        "hugepageLimits": [], "unified": None,
    }  # fmt: skip
    parse(with_value("linux.resources", resources))
    with pytest.raises(FaultError, match=r"linux.resources.memory.swappiness"):
        parse(with_value("linux.resources", {"memory": {"swappiness": 0}}))


def test_values_that_ask_for_nothing() -> None:
    assert oci_fields.is_empty({"a": [0, {"b": -1}], "c": ""})
    assert not oci_fields.is_empty({"a": [0, {"b": 1}]})


def test_attributes_of_binds() -> None:
    options = ["rbind", "ro", "nosuid", "rnoexec", "exec", "suid", "rnoatime", "size=1"]
    below, top = mount_options.attributes(options)
    assert below == (0x8 | 0x10, 0x70, True)
    assert top == (0, 0x8 | 0x2, False)
    assert mount_options.attributes(["bind", "ro", "rw"]) == []
