"""OCI bundles: every property, compared with runc and crun; the states of a container."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from helpers import leaks
from helpers.oci import Bundle, changed, example_config, write_root

import pytest_containers as pc
from pytest_containers.model import engine as contract
from pytest_containers.runtime import identity

pytestmark = pytest.mark.needs("runc")

IDENTITIES = {
    "root": lambda: os.geteuid() == 0,
    "range": lambda: identity.choose().mode != "single",
    "single": lambda: True,
}
CAPABILITIES = ("bounding", "effective", "permitted", "inheritable", "ambient")


@pytest.fixture(scope="module", params=[name for name, is_here in IDENTITIES.items() if is_here()])
def engine(request: pytest.FixtureRequest, store_home: Path) -> Iterator[pc.Engine]:
    with pc.Engine(home=store_home, identity=request.param) as engine:
        yield engine


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("oci")
    folder.chmod(0o755)
    return write_root(folder / "rootfs")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory, rootfs: Path) -> dict[str, Any]:
    """What `runc spec` writes, without a terminal."""
    config = example_config(tmp_path_factory.mktemp("example"))
    return changed(config, {"process.terminal": False, "root.path": str(rootfs)})


def shell(script: str, **changes: Any) -> dict[str, Any]:
    """The changes of a config that runs a script, whose errors stay in order with its output."""
    return {"process.args": ["sh", "-c", f"exec 2>&1; {script}"], **changes}


def output(engine: pc.Engine, config: Mapping[str, Any], rootfs: Path | None = None) -> str:
    with engine.run_oci(config, rootfs) as container:
        code = container.wait(60)
        assert code == 0, (code, str(container.logs()))
        return str(container.logs())


def capabilities(**sets: list[str]) -> dict[str, Any]:
    return {"process.capabilities": {name: sets.get(name, []) for name in CAPABILITIES}}


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    return {
        "destination": destination,
        "type": "bind",
        "source": str(source),
        "options": list(options),
    }


# ----------------------------------------------------------------------- as other runtimes

MOST_OF_IT = """
id -u; id -g; id -G; env; echo $PWD; umask; cat /proc/sys/kernel/hostname /proc/self/oom_score_adj
grep -E "^(Cap|NoNewPrivs|Groups)" /proc/self/status
grep -E "open files|core file|stack" /proc/self/limits
"""
FLAGS = "grep -o ' /data[^ ]* [^ ]*' /proc/self/mountinfo "
KILL, CHOWN, NET = "CAP_KILL", "CAP_CHOWN", "CAP_NET_RAW"

FILTERED = (
    MOST_OF_IT
    + """
grep Seccomp: /proc/self/status; mkdir /tmp/x; chmod 700 /tmp
"""
)
FILTER = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"],
    "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 74},
        {"names": ["fchmodat"], "action": "SCMP_ACT_ERRNO",
         "args": [{"index": 2, "value": 0o700, "op": "SCMP_CMP_EQ"}]},
    ],
}  # fmt: skip

CASES: dict[str, dict[str, Any]] = {
    "as it is": shell(MOST_OF_IT),
    "exit code": shell("exit 7"),
    "user": shell(MOST_OF_IT, **{"process.user": {"uid": 12, "gid": 34, "additionalGids": [5, 6]}}),
    "umask": shell(MOST_OF_IT, **{"process.user": {"uid": 0, "gid": 0, "umask": 0o77}}),
    "environment": shell(MOST_OF_IT, **{"process.env": ["PATH=/bin", "A=b=c", "HOME=/tmp", "E="]}),
    "working directory": shell("pwd", **{"process.cwd": "/etc"}),
    "new privileges": shell(MOST_OF_IT, **{"process.noNewPrivileges": False}),
    "oom_score_adj": shell(MOST_OF_IT, **{"process.oomScoreAdj": 321}),
    "limits": shell(MOST_OF_IT, **{"process.rlimits": [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 4096},
        {"type": "RLIMIT_STACK", "soft": 1 << 20, "hard": 1 << 21}]}),
    "no capabilities": shell(MOST_OF_IT, **capabilities()),
    "capabilities of root": shell(MOST_OF_IT, **capabilities(
        bounding=[KILL, CHOWN, NET], permitted=[KILL, CHOWN], effective=[KILL])),
    "inheritable capabilities of root": shell(MOST_OF_IT, **capabilities(
        bounding=[KILL, CHOWN], permitted=[NET], effective=[NET], inheritable=[CHOWN])),
    "ambient capabilities of a user": shell(
        MOST_OF_IT, **{"process.user": {"uid": 12, "gid": 34}}, **capabilities(
            bounding=[KILL, CHOWN], permitted=[KILL, CHOWN], effective=[KILL, CHOWN],
            inheritable=[KILL, CHOWN], ambient=[CHOWN])),
    "capabilities of a user": shell(
        MOST_OF_IT, **{"process.user": {"uid": 12, "gid": 34}}, **capabilities(
            bounding=[KILL], permitted=[KILL], effective=[KILL])),
    "a filter of system calls": shell(FILTERED, **{"linux.seccomp": FILTER}),
    "a filter, and new privileges": shell(
        FILTERED, **{"linux.seccomp": FILTER, "process.noNewPrivileges": False}),
    "a filter, and no capabilities": shell(
        FILTERED, **{"linux.seccomp": FILTER}, **capabilities()),
    "a filter, and a user": shell(
        FILTERED, **{"linux.seccomp": FILTER, "process.user": {"uid": 12, "gid": 34}},
        **capabilities(bounding=[KILL, CHOWN], permitted=[KILL, CHOWN], effective=[KILL, CHOWN],
                       inheritable=[KILL, CHOWN], ambient=[CHOWN])),
    "host name": shell("cat /proc/sys/kernel/hostname", hostname="another"),
    "sysctl": shell("cat /proc/sys/kernel/msgmax", **{"linux.sysctl": {"kernel.msgmax": "4242"}}),
    "a root to write to": shell("echo > /new && ls /new", **{"root.readonly": False}),
    "a root that is read-only": shell("echo > /new || echo refused"),
    "empty parts": shell(MOST_OF_IT, hooks={}, annotations={"a": "b"}, **{
        "linux.devices": [], "linux.resources": {}, "linux.rootfsPropagation": "rprivate"}),
    "other masks": shell(
        "cat /proc/uptime /etc/secret; ls /usr/hidden; cat /proc/kcore;"
        "echo > /etc/fixed/file || echo refused; echo 1 > /proc/sys/kernel/msgmax || echo refused",
        **{"root.readonly": False,
           "linux.maskedPaths": ["/proc/kcore", "/proc/uptime", "/etc/secret", "/usr/hidden",
                                 "/no/such/path"],
           "linux.readonlyPaths": ["/etc/fixed", "/proc/sys", "/no/such/path"]}),
}  # fmt: skip
OF_ONE_ID = {
    "user",
    "a filter, and a user",
    "ambient capabilities of a user",
    "capabilities of a user",
}
"""Cases with users beside root."""


@pytest.fixture(scope="module")
def peers(example: dict[str, Any], rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs a case in runc, and in crun; they are asked once for all identities of ours."""
    (rootfs / "etc" / "secret").write_text("secret\n")
    for folder in ("usr/hidden", "etc/fixed"):
        (rootfs / folder).mkdir(parents=True)
        (rootfs / folder / "file").write_text("file\n")
    folder, kept = tmp_path_factory.mktemp("peers"), {}

    def run(runtime: str, case: str, config: Mapping[str, Any]) -> tuple[int, str]:
        if (runtime, case) not in kept:
            kept[runtime, case] = Bundle(folder / f"{runtime}{len(kept)}", config).run(runtime)
        return kept[runtime, case]

    return run


@pytest.mark.needs("root", "crun")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_the_same_as_another_runtime(
    engine: pc.Engine, example: dict[str, Any], peers: Any, runtime: str, case: str
) -> None:
    config = changed(example, CASES[case])
    if engine.facts["identity"] == "single" and case in OF_ONE_ID:
        with pytest.raises(pc.UnsupportedError, match="single id"):
            engine.run_oci(config)
        return
    expected = peers(runtime, case, config)
    with engine.run_oci(config) as container:
        assert (container.wait(60), str(container.logs())) == expected


# ----------------------------------------------------------------------- mounts

MOUNTS: dict[str, list[str]] = {
    "plain": ["rbind"],
    "safe": ["rbind", "nosuid", "noexec", "nodev"],
    "read-only": ["bind", "ro", "nosuid"],
    "read-only below": ["rbind", "rro", "rnosuid", "rnodev"],
    "times": ["rbind", "noatime", "nodiratime"],
    "strict times": ["rbind", "strictatime"],
    "last word": ["rbind", "nosuid", "suid", "noexec", "exec"],
}


@pytest.mark.needs("root", "crun")
@pytest.mark.parametrize(("runtime", "case"), [
    (runtime, case)
    for runtime in ("runc", "crun")
    for case in MOUNTS
    if (runtime, case) != ("crun", "last word")
])  # fmt: skip
def test_the_options_of_binds_as_in_another_runtime(
    engine: pc.Engine, example: dict[str, Any], tmp_path: Path, runtime: str, case: str
) -> None:
    source = tmp_path / "source"
    (source / "program").parent.mkdir()
    (source / "program").write_text("#!/bin/sh\necho run\n")
    (source / "program").chmod(0o755)
    flags = "true" if case == "read-only" else FLAGS  # it may be the file system that says so
    script = f"{flags}; cat /data/program; /data/program; echo > /data/new && ls /data"
    mounts = [*example["mounts"], bind(source, "/data", *MOUNTS[case])]
    config = changed(example, shell(script, mounts=mounts))
    expected = Bundle(tmp_path / "bundle", config).run(runtime)
    (source / "new").unlink(missing_ok=True)
    if "times" in case and engine.facts["identity"] != "root":
        with pytest.raises(
            pc.StartError, match="but in a run of root, a mount keeps the attributes"
        ):
            engine.run_oci(config)
        return
    with engine.run_oci(config) as container:
        code = container.wait(60)
        assert (code, str(container.logs()).replace(",idmapped", "")) == expected


def test_links_that_are_not_followed(
    engine: pc.Engine, example: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("file\n")
    (tmp_path / "link").symlink_to("file")
    mounts = [*example["mounts"], bind(tmp_path, "/data", "rbind", "rnosymfollow")]
    config = changed(example, shell("cat /data/file; cat /data/link || echo no", mounts=mounts))
    assert output(engine, config).startswith("file\ncat: /data/link: Too many levels of symbolic")


def test_mounts_below_are_read_only_too(
    example: dict[str, Any], store_home: Path, tmp_path: Path
) -> None:
    with tmpfs_on(tmp_path / "source" / "below"), pc.Engine(home=store_home) as engine:
        mount = bind(tmp_path / "source", "/data", "rbind", "rro")
        changes = {"mounts": [*example["mounts"], mount]}
        script = (
            "echo > /data/new || echo 1; echo > /data/below/new || echo 2; cat /data/below/file"
        )
        assert output(engine, changed(example, shell(script, **changes))) == (
            "sh: 1: cannot create /data/new: Read-only file system\n1\n"
            "sh: 1: cannot create /data/below/new: Read-only file system\n2\nbelow\n"
        )
        mount["options"] = ["bind"]
        assert output(engine, changed(example, shell("ls -A /data/below", **changes))) == ""


@contextmanager
def tmpfs_on(path: Path) -> Iterator[None]:
    path.mkdir(parents=True)
    if os.geteuid() != 0:
        pytest.skip("needs root: a mount of the host")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
    try:
        (path / "file").write_text("below\n")
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def test_sources_are_relative_to_the_bundle(
    engine: pc.Engine, example: dict[str, Any], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    (bundle / "files").mkdir(parents=True)
    (bundle / "files" / "file").write_text("relative\n")
    (bundle / "file").write_text("alone\n")
    mounts = [
        {"destination": "/data", "type": "none", "source": "files", "options": ["rbind", "ro"]},
        {"destination": "/alone", "type": "bind", "source": "./file", "options": ["ro"]},
    ]
    config = changed(example, shell("cat /data/file /alone", mounts=[*example["mounts"], *mounts]))
    Bundle(bundle, config)
    with engine.run_oci(bundle) as container:
        assert (container.wait(60), str(container.logs())) == (0, "relative\nalone\n")
        assert container.bundle == bundle


def test_binds_below_sys_and_proc(
    engine: pc.Engine, example: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("below sys\n")
    (tmp_path / "uptime").write_text("1.00 2.00\n")
    mounts = [bind(tmp_path / "folder", "/sys/kernel"), bind(tmp_path / "uptime", "/proc/uptime")]
    script = "cat /sys/kernel/file /proc/uptime; ls /sys/firmware; cat /proc/keys"
    config = changed(example, shell(script, mounts=[*example["mounts"], *mounts]))
    assert output(engine, config) == "below sys\n1.00 2.00\n"
    for place in ("/proc/self", "/proc/sys/kernel/core_pattern", "/sys/../proc/1"):
        mounts = [*example["mounts"], bind(tmp_path / "uptime", place)]
        with pytest.raises(pc.SpecError, match="nothing may be mounted there"):
            engine.run_oci(changed(example, shell("true", mounts=mounts)))


def test_the_sysfs_of_the_host(engine: pc.Engine, example: dict[str, Any]) -> None:
    options = ["rbind", "rro", "nosuid", "noexec", "nodev"]
    others = [entry for entry in example["mounts"] if entry["destination"] != "/sys"]
    mounts = [bind(Path("/sys"), "/sys", *options), *others]
    script = "stat -c %d /sys; ls /sys/firmware; grep -o ' / /sys [^ ]*' /proc/self/mountinfo"
    device, flags = output(engine, changed(example, shell(script, mounts=mounts))).splitlines()
    assert int(device) == os.stat("/sys").st_dev
    assert flags.split(",")[:4] == [" / /sys ro", "nosuid", "nodev", "noexec"]


def test_masks_within_binds(engine: pc.Engine, example: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("secret", "folder/file", "shown"):
        (tmp_path / name).write_text(f"{name}\n")
    script = "cat /data/secret; ls -A /data/folder; cat /data/shown; ls -A /data /tmp/empty"
    changes = {
        "mounts": [*example["mounts"], bind(tmp_path, "/data"),
                   {"destination": "/tmp/empty", "type": "tmpfs", "source": "tmpfs"}],
        "linux.maskedPaths": ["/data/secret", "/data/folder", "/data/none", "/tmp/empty"],
    }  # fmt: skip
    assert output(engine, changed(example, shell(script, **changes))) == (
        "shown\n/data:\nfolder\nsecret\nshown\n\n/tmp/empty:\n"
    )


def test_without_kernel_file_systems(engine: pc.Engine, example: dict[str, Any]) -> None:
    script = "echo /proc/* /sys/*; echo > /dev/null; ls -A /dev; read x < /dev/zero & echo done"
    assert output(engine, changed(example, shell(script, mounts=[]))) == (
        "/proc/* /sys/*\nfd\nfull\nnull\nptmx\nrandom\nstderr\nstdin\nstdout\ntty\nurandom\nzero\ndone\n"
    )


def test_shared_memory_without_a_dev(
    engine: pc.Engine, example: dict[str, Any], tmp_path: Path
) -> None:
    root = write_root(tmp_path / "root")
    shm = {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid"]}
    config = changed(example, shell("echo > /dev/shm/file; ls /dev/shm", mounts=[shm]))
    assert output(engine, config, root) == "file\n"
    (root / "dev").mkdir()
    (root / "dev" / "null").write_text("of the root")
    (root / "dev" / "shm").mkdir()
    assert output(engine, config, root) == "file\n"
    (root / "dev" / "shm").rmdir()
    (root / "dev" / "shm").symlink_to("/etc")
    with pytest.raises(pc.ImageError, match="/dev/shm of the image is not a directory"):
        engine.run_oci(config, root)


def test_names_of_file_systems(engine: pc.Engine, example: dict[str, Any]) -> None:
    mounts = [
        {"destination": "/data", "type": "tmpfs", "source": "mine", "options": ["rro", "size=4k"]}
    ]
    script = (
        "grep ' /data ' /proc/self/mountinfo | grep -o 'tmpfs mine'; echo > /data/new || echo no"
    )
    config = changed(example, shell(script, mounts=[*example["mounts"], *mounts]))
    assert output(engine, config) == (
        "tmpfs mine\nsh: 1: cannot create /data/new: Read-only file system\nno\n"
    )


# ----------------------------------------------------------------------- namespaces


@pytest.mark.parametrize("kind", ["pid", "mount", "ipc", "uts"])
def test_namespaces_that_cannot_be_left_out(
    engine: pc.Engine, example: dict[str, Any], kind: str
) -> None:
    namespaces = [entry for entry in example["linux"]["namespaces"] if entry["type"] != kind]
    with pytest.raises(pc.SpecError, match=f"'{kind}' is left out, which means the host's"):
        engine.run_oci(changed(example, {"linux.namespaces": namespaces}))


@pytest.mark.parametrize("kind", ["pid", "mount", "user", "time"])
def test_namespaces_that_cannot_be_joined(
    engine: pc.Engine, example: dict[str, Any], kind: str
) -> None:
    namespaces = [entry for entry in example["linux"]["namespaces"] if entry["type"] != kind]
    name = {"mount": "mnt"}.get(kind, kind)
    namespaces.append({"type": kind, "path": f"/proc/self/ns/{name}"})
    with pytest.raises(pc.SpecError, match=rf"linux.namespaces\[\d\]: .*'{kind}'") as caught:
        engine.run_oci(changed(example, {"linux.namespaces": namespaces}))
    assert caught.value.field == f"linux.namespaces[{len(namespaces) - 1}]"


@pytest.mark.parametrize("kind", ["ipc", "network"])
def test_a_pipe_is_no_namespace(
    engine: pc.Engine, example: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    namespaces = [entry for entry in example["linux"]["namespaces"] if entry["type"] != kind]
    namespaces.append({"type": kind, "path": str(tmp_path / "pipe")})
    with pytest.raises(pc.StartError, match=f"join namespace {kind}"):
        engine.run_oci(changed(example, {"linux.namespaces": namespaces}))


@pytest.mark.needs("root")
def test_the_network_of_the_run_is_not_joined(own_engine: Any, example: dict[str, Any]) -> None:
    engine = own_engine()
    assert engine.facts
    table = leaks.descendants(leaks.process_table())
    supervisors = [pid for pid, entry in table.items() if entry.name == "pc-supervisor"]
    for pid in supervisors:
        path = f"/proc/{pid}/ns/net"
        namespaces = [
            entry for entry in example["linux"]["namespaces"] if entry["type"] != "network"
        ]
        namespaces.append({"type": "network", "path": path})
        with pytest.raises((pc.SpecError, pc.StartError)) as caught:
            engine.run_oci(changed(example, {"linux.namespaces": namespaces}))
        assert "linux.namespaces" in caught.value.message or "join" in caught.value.message
    assert supervisors


def test_an_exec_with_more_capabilities_cannot_write_a_read_only_bind(
    engine: pc.Engine, example: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("ours")
    (tmp_path / "file").chmod(0o666)
    tmp_path.chmod(0o777)
    bind = {
        "destination": "/data",
        "type": "bind",
        "source": str(tmp_path),
        "options": ["rbind", "ro"],
    }
    config = changed(example, shell("sleep 1000", mounts=[*example["mounts"], bind]))
    sets = ("bounding", "effective", "permitted", "inheritable")
    process = {
        **config["process"], "capabilities": {key: ["CAP_SYS_ADMIN"] for key in sets},
        "args": ["sh", "-c", "mount -o remount,rw,bind /data; echo theirs > /data/file"],
    }  # fmt: skip
    with engine.run_oci(config) as container:
        done = container.exec(process, text=True)
        assert "permission denied" in done.stderr, done
    assert (tmp_path / "file").read_text() == "ours"


def test_a_sysctl_follows_no_link(
    engine: pc.Engine, example: dict[str, Any], tmp_path: Path
) -> None:
    rootfs = write_root(tmp_path / "rootfs")
    mounts = [entry for entry in example["mounts"] if entry["type"] != "proc"]
    changes = {"linux.sysctl": {"net.ipv4.ip_default_ttl": "7"}, "root.path": str(rootfs)}
    with pytest.raises(pc.SpecError, match="linux.sysctl: it needs a mount of type 'proc'"):
        engine.run_oci(changed(example, {**changes, "mounts": mounts}))
    script = shell("cat /proc/sys/net/ipv4/ip_default_ttl", **changes)
    assert output(engine, changed(example, script)) == "7\n"


FILES = {"network": "net", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup"}


def test_namespaces_of_another_container(engine: pc.Engine, example: dict[str, Any]) -> None:
    every = [*example["linux"]["namespaces"], {"type": "cgroup"}]
    script = "hold() { sleep 1000; }; hold"
    first = changed(example, shell(script, **{"linux.namespaces": every}))
    script = f"stat -L -c %i {' '.join(f'/proc/self/ns/{name}' for name in FILES.values())}"
    with engine.run_oci(first, container_id="pause") as pause:
        assert pause.exec(["sh", "-c", script], text=True).stdout
        joined = [
            {**entry, "path": f"/proc/{pause.state().pid}/ns/{FILES[entry['type']]}"}
            if entry["type"] in FILES
            else entry
            for entry in every
        ]
        second = changed(example, shell(script, hostname="shared", **{"linux.namespaces": joined}))
        assert output(engine, second) == pause.exec(["sh", "-c", script], text=True).stdout
        name = pause.exec(["cat", "/proc/sys/kernel/hostname"], text=True).stdout
        assert name == "shared\n"
        own = changed(example, shell(script, **{"linux.namespaces": every}))
        assert not set(output(engine, own).split()) & set(output(engine, second).split())


def test_a_namespace_that_is_not_there(engine: pc.Engine, example: dict[str, Any]) -> None:
    namespaces = [
        {**entry, "path": "/no/such"} if entry["type"] == "ipc" else entry
        for entry in example["linux"]["namespaces"]
    ]
    with pytest.raises(pc.SpecError, match="'/no/such': No such file or directory"):
        engine.run_oci(changed(example, {"linux.namespaces": namespaces}))
    namespaces = [
        {**entry, "path": "/proc/self/ns/net"} if entry["type"] == "network" else entry
        for entry in example["linux"]["namespaces"]
    ]
    with pytest.raises(pc.StartError, match="join namespace network .*: Operation not permitted"):
        engine.run_oci(changed(example, {"linux.namespaces": namespaces}))


def test_the_network_of_the_host(engine: pc.Engine, example: dict[str, Any]) -> None:
    namespaces = [entry for entry in example["linux"]["namespaces"] if entry["type"] != "network"]
    changes = {"linux.namespaces": namespaces}
    own = os.stat("/proc/self/ns/net").st_ino
    script = "stat -L -c %i /proc/self/ns/net; grep -o ' / /sys [^ ]*' /proc/self/mountinfo"
    assert output(engine, changed(example, shell(script, **changes))) == (
        f"{own}\n / /sys ro,nosuid,nodev,noexec,relatime\n"
    )


def test_maps_of_ids(engine: pc.Engine, example: dict[str, Any]) -> None:
    inside, outside, _ = map(int, output(engine, changed(
        example, {"process.args": ["cat", "/proc/self/uid_map"]})).split()[:3])  # fmt: skip
    namespaces = [*example["linux"]["namespaces"], {"type": "user"}]
    mapping = {"containerID": inside, "hostID": outside, "size": 1}
    changes = {"process.args": ["true"], "linux.namespaces": namespaces,
               "linux.uidMappings": [mapping]}  # fmt: skip
    assert output(engine, changed(example, changes)) == ""
    changes["linux.uidMappings"] = [{**mapping, "hostID": outside + 1}]
    with pytest.raises(pc.SpecError, match=r"linux.uidMappings\[0\]: the map of ids is the run's"):
        engine.run_oci(changed(example, changes))


# ----------------------------------------------------------------------- states


def test_the_states_of_a_container(engine: pc.Engine, example: dict[str, Any]) -> None:
    config = changed(example, shell("echo started; sleep 1000", annotations={"key": "value"}))
    container = engine.run_oci(config, container_id="states", start=False)
    assert isinstance(container, contract.OciContainer)
    state = container.state()
    assert (state.id, state.status, state.annotations) == ("states", "created", {"key": "value"})
    assert Path(f"/proc/{state.pid}/stat").exists()
    assert str(container.logs()) == ""
    with pytest.raises(pc.SpecError, match="'states' exists"):
        engine.run_oci(config, container_id="states")
    with pytest.raises(pc.StartError, match="it is created; kill it first"):
        container.delete()
    container.start()
    assert (container.state().status, container.state().pid) == ("running", state.pid)
    assert os.readlink(f"/proc/{state.pid}/ns/uts") != os.readlink("/proc/self/ns/uts")
    with pytest.raises(pc.StartError, match="it is running; only a created one can be started"):
        container.start()
    while not str(container.logs()):
        assert container.state().status == "running"
    container.kill("KILL")
    assert container.wait(60) == 137
    assert (container.state().status, container.state().pid) == ("stopped", 0)
    assert str(container.logs()) == "started\n"
    with pytest.raises(pc.NotRunningError):
        container.kill()
    with pytest.raises(pc.NotRunningError):
        container.exec(["true"])
    container.delete()
    container.delete()
    with pytest.raises(pc.NotRunningError, match="was deleted"):
        container.state()
    engine.run_oci(config, container_id="states").delete(force=True)


def test_every_runner_and_older_kernels(
    any_engine: pc.Engine, example: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("file\n")
    changes = {
        "mounts": [*example["mounts"], bind(tmp_path, "/data", "rbind", "rro", "nosuid")],
        "linux.maskedPaths": ["/proc/keys", "/data/file"], "process.oomScoreAdj": 100,
    }  # fmt: skip
    script = "cat /data/file /proc/keys /proc/self/oom_score_adj; echo > /data/new || echo no"
    with any_engine.run_oci(changed(example, shell(script, **changes)), start=False) as container:
        assert container.state().status == "created"
        container.start()
        assert container.wait(60) == 0
        assert str(container.logs()).splitlines()[::2] == ["100", "no"]


def test_a_created_container_can_be_killed(engine: pc.Engine, example: dict[str, Any]) -> None:
    with engine.run_oci(changed(example, shell("echo never")), start=False) as container:
        container.kill("KILL")
        assert container.wait(60) == 137
        assert container.state().status == "stopped"
        assert str(container.logs()) == ""
        with pytest.raises(pc.StartError, match="it is exited"):
            container.start()
    with engine.run_oci(changed(example, shell("echo never")), start=False) as container:
        with pytest.raises(pc.ExecError, match="is created; start it first"):
            container.exec(["true"])


def test_programs_that_are_not_there(engine: pc.Engine, example: dict[str, Any]) -> None:
    config = changed(example, {"process.args": ["/no/such"]})
    with pytest.raises(pc.StartError, match="'/no/such' is not there") as caught:
        engine.run_oci(config, container_id="missing")
    assert caught.value.exit_code == 127
    with engine.run_oci(config, container_id="missing", start=False) as container:
        with pytest.raises(pc.StartError, match="'/no/such' is not there"):
            container.start()
        assert container.state().status == "stopped"
        container.delete()


def test_exec_of_a_process_object(engine: pc.Engine, example: dict[str, Any]) -> None:
    script = (
        "id -u; grep CapPrm /proc/self/status; pwd; echo $A $B; cat /proc/self/oom_score_adj; cat"
    )
    process = {
        "user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", script], "cwd": "/etc",
        "env": ["PATH=/bin", "A=a"], "capabilities": {"bounding": ["CAP_KILL"]},
        "oomScoreAdj": 200,
    }  # fmt: skip
    config = changed(example, shell("sleep 1000", **{"process.env": ["PATH=/bin", "B=b"]}))
    with engine.run_oci(config) as container:
        done = container.exec(process, text=True, input="input", check=True)
        assert done.stdout == "0\nCapPrm:\t0000000000000020\n/etc\na\n200\ninput"
        done = container.exec(["sh", "-c", script], text=True)
        assert done.stdout == "0\nCapPrm:\t0000000020000420\n/\nb\n0\n"
        for wrong in ({"args": "id"}, {"env": ["A"]}, {"cwd": "x"}, {"args": [3]}):
            with pytest.raises(pc.SpecError):
                container.exec({**process, **wrong})
        with pytest.raises(pc.SpecError, match="process.ioPriority is not supported"):
            container.exec({**process, "ioPriority": {"class": "IOPRIO_CLASS_IDLE"}})
        if engine.facts["identity"] != "single":
            user = {"uid": 7, "gid": 8, "additionalGids": [9]}
            done = container.exec({**process, "user": user, "args": ["id"]}, text=True)
            assert done.stdout.startswith("uid=7 gid=8 groups=8,9")


def test_the_example_of_runc_as_it_is(engine: pc.Engine, tmp_path: Path, rootfs: Path) -> None:
    bundle = tmp_path / "bundle"
    config = example_config(bundle)
    with engine.run_oci(bundle, rootfs, attach="all") as container:
        assert config["process"]["terminal"]
        (terminal,) = container.streams
        with open(terminal, "r+b", buffering=0) as file:
            file.write(b"echo uid=$(id -u); exit 3\n")
            assert container.wait(60) == 3
            shown = b""
            with suppress(OSError):  # EIO: nobody has the other end any more
                while chunk := file.read(1 << 16):
                    shown += chunk
    assert b"uid=0\r\n" in shown
    with pytest.raises(pc.StartError, match="No such file or directory"):
        engine.run_oci(bundle)


def test_the_rootless_example_of_runc(engine: pc.Engine, tmp_path: Path, rootfs: Path) -> None:
    """Its map has the caller as root and nobody else: a run of root has another map."""
    subprocess.run(["runc", "spec", "--rootless"], check=True, cwd=tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["id", "-u"]}
    if engine.facts["identity"] == "root":
        with pytest.raises(
            pc.SpecError, match=r"linux.uidMappings\[0\]: the map of ids is the run's"
        ):
            engine.run_oci(config, rootfs)
        return
    with engine.run_oci(config, rootfs) as container:
        assert container.wait(60) == 0
        assert container.logs().stdout == "0\n"


@pytest.mark.parametrize("rows", [24, 0])
def test_the_size_of_a_terminal(engine: pc.Engine, example: dict[str, Any], rows: int) -> None:
    changes = {"process.args": ["stty", "size"], "process.terminal": True}
    if rows:
        changes["process.consoleSize"] = {"height": rows, "width": 80}
    assert output(engine, changed(example, changes)) == f"{rows} {80 if rows else 0}\r\n"


def test_a_bundle_has_what_its_config_says(
    engine: pc.Engine, example: dict[str, Any], rootfs: Path
) -> None:
    before = sorted(path for path in rootfs.rglob("*"))
    changes = {"hostname": "", "domainname": "example.org", "root.readonly": False}
    script = (
        "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname; ls /etc/hosts;"
        "grep -c / /proc/net/dev; echo > /written"
    )
    hostname = Path("/proc/sys/kernel/hostname").read_text()
    config = changed(example, shell(f"{script}; true", **changes))
    assert output(engine, config) == (
        f"{hostname}example.org\nls: cannot access '/etc/hosts': No such file or directory\n0\n"
    )
    assert sorted(path for path in rootfs.rglob("*")) == before


def test_a_directory_that_is_used_again(
    engine: pc.Engine, example: dict[str, Any], tmp_path: Path
) -> None:
    root = write_root(tmp_path / "root")
    for words in ("first", "second"):
        (root / "etc" / "file").write_text(f"{words}\n")
        assert output(engine, changed(example, shell("cat /etc/file")), root) == f"{words}\n"
    root.rename(tmp_path / "another")
    write_root(root)
    assert "No such file" in output(engine, changed(example, shell("cat /etc/file; true")), root)


def test_a_value_below_that_of_the_caller(engine: pc.Engine, example: dict[str, Any]) -> None:
    with pytest.raises(pc.StartError, match="oom_score_adj -1000: Permission denied"):
        engine.run_oci(changed(example, {"process.oomScoreAdj": -1000}))
    config = changed(example, shell("cat /proc/self/oom_score_adj"))
    assert output(engine, config) == Path("/proc/self/oom_score_adj").read_text()


def test_words_of_the_engine_are_no_config(
    engine: pc.Engine, example: dict[str, Any], tmp_path: Path
) -> None:
    for mount in (
        bind(tmp_path, "/data", "mapped"),
        {"destination": "/data", "type": "image", "source": "host:"},
    ):
        with pytest.raises(pc.SpecError, match="no type or option of the specification"):
            engine.run_oci(changed(example, {"mounts": [mount]}))
    with pytest.raises(pc.SpecError, match="config.json: No such file"):
        engine.run_oci(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(pc.SpecError, match="not JSON"):
        engine.run_oci(tmp_path)
    with pytest.raises(pc.SpecError, match="root.path is missing"):
        engine.run_oci({**example, "root": {}})
    with pytest.raises(pc.SpecError, match="not JSON: .*PosixPath"):
        engine.run_oci({**example, "root": {"path": tmp_path}})
    with pytest.raises(pc.StartError, match="is not a directory"):
        engine.run_oci(example, tmp_path / "config.json")
    with pytest.raises(pc.StartError, match=r"/nosuch: No such file"):
        engine.run_oci(example, tmp_path / "nosuch")


def test_a_wrong_filter_is_told_before_anything_is_made(
    engine: pc.Engine, example: dict[str, Any]
) -> None:
    config = changed(example, {"linux.seccomp": {"defaultAction": "SCMP_ACT_NOTIFY"}})
    with pytest.raises(
        pc.SpecError, match=r"^OCI config linux\.seccomp: defaultAction 'SCMP_ACT_N"
    ):
        engine.run_oci(config)


def test_exec_passes_the_filter_of_a_bundle(engine: pc.Engine, example: dict[str, Any]) -> None:
    config = changed(example, shell("sleep 100", **{"linux.seccomp": FILTER}))
    with engine.run_oci(config) as container:
        done = container.exec(["sh", "-c", "mkdir /tmp/x"], text=True)
    assert "Bad message" in done.stderr
