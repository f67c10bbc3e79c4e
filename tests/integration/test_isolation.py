"""What a container can see and reach, and what it must not (every line is an attack or a leak)."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_containers as pc
from pytest_containers.linux.libc import syscall
from pytest_containers.linux.numbers import NR
from pytest_containers.linux.process import KEY_SPEC_SESSION_KEYRING, KEYCTL_REVOKE

KEYCTL_UNLINK, KEYCTL_SEARCH, KEYCTL_READ = 9, 10, 11


@pytest.fixture(scope="module")
def engine(each_engine: pc.Engine) -> pc.Engine:
    """All attacks are tried in each identity."""
    return each_engine


@pytest.fixture
def container(engine: pc.Engine) -> Iterator[pc.Container]:
    with engine.run("host:", ["sleep", "1000"]) as container:
        yield container


def run(container: pc.Container, script: str, **options: object) -> str:
    return str(container.exec(["sh", "-c", script], text=True, **options).stdout)


@pytest.mark.parametrize("kind", ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user"])
def test_namespaces_are_its_own(container: pc.Container, kind: str) -> None:
    inside = run(container, f"readlink /proc/self/ns/{kind}").strip()
    assert inside.startswith(f"{kind}:[")
    assert inside != os.readlink(f"/proc/self/ns/{kind}")


def test_only_its_own_processes(container: pc.Container) -> None:
    pids = run(container, "cd /proc; ls -d [0-9]*").split()
    assert pids[0] == "1"
    assert len(pids) <= 4


def test_no_descriptor_of_ours(container: pc.Container) -> None:
    # 3 is the directory that ls reads
    assert run(container, "exec ls /proc/self/fd").split() == ["0", "1", "2", "3"]
    assert container.exec(["ls", "/proc/1/fd"], text=True).stdout.split() == ["0", "1", "2"]


def test_nothing_of_the_host_by_paths(container: pc.Container, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    for path in (f"{secret}", f"/proc/1/root{secret}", f"/proc/1/cwd/../../..{secret}"):
        assert run(container, f"cat {path} 2>/dev/null; ls -d {path} 2>/dev/null") == ""


def test_the_home_of_the_caller_is_empty(container: pc.Container) -> None:
    home = os.path.expanduser("~")
    entries = run(container, f"ls -A {home} 2>/dev/null").split()
    assert ".ssh" not in entries
    assert ".bash_history" not in entries


@pytest.mark.parametrize("path", ["/proc/self/fd/9", "/proc/self/fd/20", "/proc/self/fd/3"])
def test_a_working_directory_outside_is_refused(engine: pc.Engine, path: str) -> None:
    # CVE-2024-21626
    with pytest.raises(pc.StartError, match="working directory"):
        engine.run("host:", ["true"], workdir=path)


@pytest.mark.parametrize("path", ["/proc/self/fd/9", "/proc/self/fd/20"])
def test_a_working_directory_outside_is_refused_in_exec(container: pc.Container, path: str) -> None:
    with pytest.raises(pc.StartError, match="working directory"):
        container.exec(["true"], workdir=path)


def test_read_only_trees_stay_so(container: pc.Container) -> None:
    for target in ("/usr", "/proc/sys"):
        script = (
            f"mount -o remount,rw {target}; mount -o remount,rw,bind {target}; touch {target}/x"
        )
        assert container.exec(["sh", "-c", script]).returncode != 0


def test_read_only_trees_stay_so_for_an_administrator(engine: pc.Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("ours")
    tmp_path.chmod(0o777)
    bind = pc.Bind(tmp_path, "/data", read_only=True)
    options = {"mounts": [bind], "cap_add": ["SYS_ADMIN"]}
    with engine.run("host:", ["sleep", "100"], **options) as container:
        script = (
            "mount -o remount,rw /data; mount -o remount,rw,bind /data; echo theirs > /data/file; "
            "umount /data; echo theirs > /data/file; mount -o remount,rw,bind /usr; touch /usr/x"
        )
        assert container.exec(["sh", "-c", script]).returncode != 0
    assert (tmp_path / "file").read_text() == "ours"
    assert not Path("/usr/x").exists()


@pytest.mark.alone
@pytest.mark.needs("root")
def test_what_the_host_mounts_read_only_stays_so(
    each_engine: pc.Engine, store_home: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("ours")
    subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", tmp_path], check=True)
        options = {"mounts": [pc.Bind(tmp_path, "/data")], "cap_add": ["SYS_ADMIN"]}
        # A run sees the mounts that were there when it started.
        identity = each_engine.facts["identity"]
        with (
            pc.Engine(home=store_home, identity=identity) as engine,
            engine.run("host:", ["sleep", "100"], **options) as container,
        ):
            script = "cat /data/file; mount -o remount,rw,bind /data; echo theirs > /data/file"
            done = container.exec(["sh", "-c", script], text=True)
        assert (done.stdout, done.returncode != 0) == ("ours", True)
        assert (tmp_path / "file").read_text() == "ours"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_keys_of_the_host_are_out_of_reach(store_home: Path) -> None:
    # Only who is started after the key was made inherits the keyring that it is in.
    key = syscall(NR["add_key"], b"user", b"ours", b"secret", 6, KEY_SPEC_SESSION_KEYRING)
    try:
        script = (
            "import ctypes; libc = ctypes.CDLL(None)\n"
            "buffer = ctypes.create_string_buffer(64)\n"
            f"keyctl = lambda *args: libc.syscall({NR['keyctl']}, *args)\n"
            f"print(keyctl({KEYCTL_READ}, {key}, buffer, 64), keyctl({KEYCTL_REVOKE}, {key}),"
            f" keyctl({KEYCTL_SEARCH}, {KEY_SPEC_SESSION_KEYRING}, b'user', b'ours', 0))\n"
        )
        with pc.Engine(home=store_home) as engine:
            container = engine.run("host:", ["sleep", "1000"])
            done = container.exec([sys.executable, "-c", script], text=True)
        assert (done.stdout, done.stderr) == ("-1 -1 -1\n", "")
        held = ctypes.create_string_buffer(6)
        assert syscall(NR["keyctl"], KEYCTL_READ, key, held, 6) == 6
        assert held.raw == b"secret"
    finally:
        syscall(NR["keyctl"], KEYCTL_UNLINK, key, KEY_SPEC_SESSION_KEYRING)


@pytest.mark.parametrize(
    "path", ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts"]
)
def test_masked_files_are_empty(container: pc.Container, path: str) -> None:
    if os.path.exists(path):
        assert run(container, f"head -c 10 {path}") == ""
        assert run(container, f"stat -c '%t:%T' {path}").strip() in ("1:3", "")


@pytest.mark.parametrize("path", ["/proc/acpi", "/sys/firmware", "/proc/scsi"])
def test_masked_directories_are_empty_and_cannot_be_filled(
    container: pc.Container, path: str
) -> None:
    if os.path.isdir(path):
        assert run(container, f"ls -A {path}") == ""
        assert container.exec(["touch", f"{path}/x"]).returncode != 0


@pytest.mark.parametrize(
    "path", ["/proc/sys/kernel/domainname", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity"]
)
def test_read_only_parts_of_proc(container: pc.Container, path: str) -> None:
    assert container.exec(["sh", "-c", f"echo 1 > {path}"]).returncode != 0


def test_devices(container: pc.Container) -> None:
    listed = run(container, "ls /dev").split()
    assert sorted(listed) == sorted(
        ["fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
         "stdout", "tty", "urandom", "zero"]
    )  # fmt: skip
    assert container.exec(["mknod", "/dev/kmsg", "c", "1", "11"]).returncode != 0
    assert run(container, "stat -c %t:%T /dev/null /dev/zero /dev/urandom").split() == [
        "1:3", "1:5", "1:9",
    ]  # fmt: skip


def test_mount_flags(container: pc.Container) -> None:
    mounts = {}
    for line in run(container, "cat /proc/self/mounts").splitlines():
        _, target, kind, options, *_ = line.split()
        mounts[target] = kind, set(options.split(","))
    safe = {"nosuid", "nodev", "noexec"}
    assert mounts["/proc"][0] == "proc" and safe <= mounts["/proc"][1]
    assert mounts["/sys"][0] == "sysfs" and safe | {"ro"} <= mounts["/sys"][1]
    assert mounts["/dev"][0] == "tmpfs" and "nosuid" in mounts["/dev"][1]
    assert mounts["/dev/shm"][0] == "tmpfs" and safe <= mounts["/dev/shm"][1]
    assert mounts["/dev/mqueue"][0] == "mqueue" and safe <= mounts["/dev/mqueue"][1]
    assert mounts["/dev/pts"][0] == "devpts"
    for line in run(container, "cat /proc/self/mountinfo").splitlines():
        assert "shared:" not in line and "master:" not in line


def test_capabilities_can_be_added_and_dropped(engine: pc.Engine) -> None:
    options = {"cap_add": ["NET_ADMIN"], "cap_drop": ["CHOWN", "CAP_MKNOD"]}
    with engine.run("host:", ["grep", "CapEff", "/proc/self/status"], **options) as container:
        container.wait(60)
        mask = int(container.logs().stdout.split()[1], 16)
    assert mask >> 12 & 1
    assert not mask & 1
    assert not mask >> 27 & 1


def test_no_new_privileges(engine: pc.Engine) -> None:
    with engine.run(
        "host:", ["grep", "NoNewPrivs", "/proc/self/status"], no_new_privileges=True
    ) as c:
        c.wait(60)
        assert c.logs().stdout.split()[1] == "1"


def test_users_other_than_root_have_no_capability(engine: pc.Engine) -> None:
    with engine.run("host:", ["grep", "Cap", "/proc/self/status"], user="daemon") as container:
        container.wait(60)
        found = dict(line.split(":\t") for line in container.logs().stdout.splitlines())
    assert found["CapEff"] == found["CapPrm"] == "0" * 16


def test_the_supervisor_cannot_be_looked_into(engine: pc.Engine) -> None:
    with engine.run("host:", ["sleep", "100"], init=True, cap_add=["SYS_PTRACE"]) as container:
        script = "cat /proc/1/environ /proc/1/cmdline; head -c 1 /proc/1/mem"
        assert b"python" not in container.exec(["sh", "-c", script]).stdout


def test_abstract_sockets_of_the_host_are_out_of_reach(container: pc.Container) -> None:
    # CVE-2020-15257
    with socket.socket(socket.AF_UNIX) as sock:
        name = f"pytest-containers-test-{os.getpid()}"
        sock.bind(f"\0{name}")
        sock.listen()
        script = f"import socket; socket.socket(socket.AF_UNIX).connect('\\0{name}')"
        assert container.exec(["python3", "-c", script]).returncode != 0


def test_paths_of_files_resolve_inside(container: pc.Container, tmp_path: Path) -> None:
    # CVE-2018-15664
    (tmp_path / "secret").write_text("hidden")
    run(container, f"ln -s {tmp_path} /srv/escape; ln -s /proc/self/root/etc /srv/magic")
    for path in (
        "/srv/escape/secret",
        "/../../../.." + str(tmp_path / "secret"),
        "/srv/magic/passwd",
    ):
        with pytest.raises(pc.ContainersError):
            container.read_bytes(path)


def test_hostile_links_in_the_place_of_etc_hosts(engine: pc.Engine, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("bin", "proc", "dev", "sys", "etc"):
        (root / name).mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (root / "etc" / "hosts").symlink_to(victim)
    with pytest.raises(pc.StartError, match="was not found|is not there"):
        engine.run(f"rootfs:{root}", ["/bin/nothing"])
    assert victim.read_text() == "untouched"


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_a_link_in_the_place_of_a_mount_is_an_error(
    engine: pc.Engine, tmp_path: Path, name: str
) -> None:
    # CVE-2019-19921
    root = tmp_path / "root"
    root.mkdir()
    (root / name).symlink_to("/tmp")
    with pytest.raises(pc.ImageError, match="cannot be mounted on"):
        engine.run(f"rootfs:{root}", ["/bin/true"])


@pytest.mark.parametrize("target", ["/proc/sys", "/proc", "/", "/dev", "/sys/fs"])
def test_nothing_is_mounted_on_kernel_places(engine: pc.Engine, target: str) -> None:
    with pytest.raises(pc.SpecError, match="nothing may be mounted there"):
        engine.run("host:", ["true"], mounts=[pc.Tmpfs(target)])


VSOCK = """
import os, socket
try:
    sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
except OSError as error:
    print(error.strerror)
else:
    sock.settimeout(5)
    print(type(sock).__name__, os.strerror(sock.connect_ex((2, 1))))  # the hypervisor
"""


def test_vsock_is_the_machines_but_for_the_filter(
    engine: pc.Engine, container: pc.Container
) -> None:
    """No namespace covers it: once one does, the docs are to be changed."""
    filtered = container.exec(["python3", "-c", VSOCK], text=True)
    assert filtered.stdout == "Operation not permitted\n"
    ours = subprocess.run([sys.executable, "-c", VSOCK], capture_output=True, text=True).stdout
    with engine.run("host:", ["sleep", "1000"], security_opt=["seccomp=unconfined"]) as unfiltered:
        assert unfiltered.exec(["python3", "-c", VSOCK], text=True).stdout == ours
    docs = Path(__file__).parents[2] / "docs/explanation/isolation.md"
    assert "AF_VSOCK does not depend on the network namespace" in docs.read_text()


@pytest.fixture
def secrets() -> Iterator[dict[str, Path]]:
    """Files of root below /opt and /usr/local, by whether every user may read them."""
    import shutil
    import tempfile

    folders = [
        Path(tempfile.mkdtemp(prefix="pytest-containers-", dir=place))
        for place in ("/opt", "/usr/local")
    ]
    for folder in folders:
        folder.chmod(0o755)
        for name, mode in (("open", 0o644), ("secret", 0o600)):
            (folder / name).write_text(f"{name} in {folder}")
            (folder / name).chmod(mode)
        (folder / "closed").mkdir(mode=0o700)
        (folder / "closed" / "open").write_text("hidden")
        (folder / "program").write_text("#!/bin/sh\necho runs\n")
        (folder / "program").chmod(0o755)
    yield {str(folder): folder for folder in folders}
    for folder in folders:
        shutil.rmtree(folder)


@pytest.mark.needs("root")
@pytest.mark.parametrize("options", [{}, {"cap_add": ["ALL"]}], ids=str)
def test_what_only_root_may_read_is_not_shown(
    any_engine: pc.Engine, secrets: dict[str, Path], options: dict[str, object]
) -> None:
    script = "cat $1/open && $1/program; cat $1/secret $1/closed/open"
    for folder in secrets:
        with any_engine.run(
            "host:", ["sh", "-c", script, "sh", folder], wait_ready=False, **options
        ) as container:
            container.wait(60)
            assert container.logs().stdout == f"open in {folder}runs\n"
            assert container.logs().stderr.count("Permission denied") == 2


@pytest.mark.needs("root")
def test_a_directory_that_is_asked_for_is_shown_whole(
    engine: pc.Engine, secrets: dict[str, Path]
) -> None:
    for folder in secrets:
        image = f"host:?path={folder}"
        with engine.run(image, ["cat", f"{folder}/secret"], wait_ready=False) as container:
            assert container.wait(60) == 0, container.logs()
            assert container.logs().stdout == f"secret in {folder}"
