"""Read-only binds: as alive as the host's directory, and nothing in a container undoes them."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pytest_containers as pc

IDENTITIES = [pytest.param("root", marks=pytest.mark.needs("root")), "range", "single"]

ATTACK = r"""
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
MOUNT_SETATTR, OPEN_TREE, MOVE_MOUNT = 442, 428, 429
READ_ONLY, RECURSIVE, EMPTY, CLONE = 1, 0x8000, 0x1000, 1
def clear(fd, path):
    attributes = struct.pack("=4Q", 0, READ_ONLY, 0, 0)
    return libc.syscall(MOUNT_SETATTR, fd, path, RECURSIVE | EMPTY, attributes, 32)
def write():
    for path in ("/data/file", "/data/below/file", "/copy/file", "/overlay/file"):
        try:
            open(path, "w").write("theirs")
        except OSError:
            pass
def attack():
    for flags in (32, 32 | 4096, 32 | 4096 | 16384):
        for path in (b"/data", b"/data/below"):
            libc.mount(None, path, None, flags, None)
    clear(-100, b"/data")
    write()
    for path in (b"/copy", b"/overlay", b"/work"):
        os.makedirs(path, exist_ok=True)
    copy = libc.syscall(OPEN_TREE, -100, b"/data", CLONE | RECURSIVE)
    if copy >= 0:
        clear(copy, b"")
        libc.syscall(MOVE_MOUNT, copy, b"", -100, b"/copy", 4)
    libc.mount(b"/data", b"/copy", None, 4096 | 16384, None)
    libc.mount(None, b"/copy", None, 32 | 4096, None)
    libc.mount(b"o", b"/overlay", b"overlay", 0,
               b"lowerdir=/usr,upperdir=/data,workdir=/data/below,userxattr")
    write()
    libc.umount2(b"/data/below", 2)
    write()
    libc.umount2(b"/data", 2)
    write()
attack()
NEWNS, NEWUSER = 0x20000, 0x10000000
for flags in (NEWNS, NEWUSER | NEWNS):
    if os.fork() == 0:
        if libc.unshare(flags) == 0:
            attack()
        os._exit(0)
    os.wait()
sys.stdout.write("tried")
"""


@pytest.fixture(params=IDENTITIES)
def engine_of(request: pytest.FixtureRequest, store_home: Path) -> Iterator[pc.Engine]:
    with pc.Engine(home=store_home, identity=request.param) as engine:
        yield engine


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A directory with a mount below it where this user may make one."""
    tmp_path.chmod(0o777)
    data, below = tmp_path / "data", tmp_path / "data" / "below"
    below.mkdir(parents=True)
    (data / "file").write_text("ours")
    root = os.geteuid() == 0
    if root:
        subprocess.run(["mount", "-t", "tmpfs", "below", below], check=True)
    (below / "file").write_text("ours")
    yield data
    if root:
        subprocess.run(["umount", below], check=True)


def run(engine: pc.Engine, command: list[str], source: Path, **options: object) -> pc.Container:
    mounts = [pc.Bind(source, "/data", read_only=True)]
    return engine.run("host:", command, mounts=mounts, wait_ready=False, **options)


@pytest.mark.alone
@pytest.mark.parametrize(
    "options",
    [{}, {"cap_add": ["SYS_ADMIN"]}, {"cap_add": ["ALL"]}, {"cap_add": ["ALL"], "init": True}],
    ids=str,
)
def test_nothing_makes_one_writable(
    engine_of: pc.Engine, data: Path, options: dict[str, object]
) -> None:
    with run(engine_of, ["python3", "-c", ATTACK], data, **options) as container:
        assert container.wait(60) == 0, container.logs()
        assert container.logs().stdout == "tried"
    assert (data / "file").read_text() == "ours"
    assert (data / "below" / "file").read_text() == "ours"


@pytest.mark.alone
def test_a_writable_bind_may_be_written(engine_of: pc.Engine, data: Path) -> None:
    # The attack finds out what it is meant to.
    mounts = [pc.Bind(data, "/data")]
    with engine_of.run(
        "host:", ["python3", "-c", ATTACK], mounts=mounts, wait_ready=False
    ) as container:
        assert container.wait(60) == 0
    assert (data / "file").read_text() == "theirs"
    assert (data / "below" / "file").read_text() == "theirs"


PTRACE = r"""
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
def trace(request, address=None, data=None):
    result = libc.ptrace(request, 1, address, data)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request}")
    return result
trace(16)  # attach to the reaper, which has all capabilities
os.waitpid(1, 0x40000000)
registers = (ctypes.c_ulonglong * 27)()
trace(12, None, registers)
place = registers[19] - 512  # on its stack
for index, word in enumerate([struct.unpack("=Q", b"/data\0\0\0")[0], 0, 1, 0, 0]):
    trace(4, place + 8 * index, word)
registers[10] = registers[15] = 442  # mount_setattr; the system call is at its own address
registers[14], registers[13], registers[12] = 2**64 - 100, place, 0x8000
registers[7], registers[9] = place + 8, 32
registers[16] -= 2
trace(13, None, registers)
trace(9)
os.waitpid(1, 0x40000000)
trace(12, None, registers)
print("result", ctypes.c_longlong(registers[10]).value)
try:
    open("/data/file", "w").write("theirs")
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.alone
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the registers of x86_64")
def test_the_reaper_cannot_be_made_to_do_it(engine_of: pc.Engine, data: Path) -> None:
    script = ["python3", "-c", PTRACE]
    with run(engine_of, script, data, init=True, cap_add=["SYS_PTRACE"]) as container:
        container.wait(60)
        assert container.logs().stdout == "result -1\nRead-only file system\n", container.logs()
    assert (data / "file").read_text() == "ours"


def test_what_changes_on_the_host_is_seen(any_engine: pc.Engine, data: Path) -> None:
    with run(any_engine, ["sleep", "100"], data) as container:
        assert container.exec(["cat", "/data/file"], text=True).stdout == "ours"
        assert container.exec(["cat", "/data/later"]).returncode != 0
        (data / "new").write_text("new")
        (data / "new").rename(data / "file")
        (data / "later").write_text("later")
        seen = container.exec(["cat", "/data/file", "/data/later"], text=True).stdout
        assert seen == "newlater"


CONNECT = "import socket; s = socket.socket(socket.AF_UNIX); s.connect({!r}); print(s.recv(9))"


@pytest.mark.parametrize("whole", [True, False], ids=["directory", "file"])
@pytest.mark.parametrize("options", [{}, {"cap_add": ["SYS_ADMIN"]}], ids=str)
def test_a_socket_answers(
    engine: pc.Engine, tmp_path: Path, options: dict[str, object], whole: bool
) -> None:
    folder, path = tmp_path, tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        directory_fd = os.open(folder, os.O_PATH)
        server.bind(f"/proc/self/fd/{directory_fd}/socket")  # the whole path may be too long
        os.close(directory_fd)
        path.chmod(0o777)
        server.listen()
        script = CONNECT.format("/data/socket" if whole else "/data")
        with run(
            engine, ["python3", "-c", script], folder if whole else path, **options
        ) as container:
            server.settimeout(10)
            connection, _ = server.accept()
            connection.sendall(b"hello")
            connection.close()
            assert container.wait(60) == 0, container.logs()
            assert container.logs().stdout == "b'hello'\n"


def test_a_named_pipe_leads_to_the_host(engine: pc.Engine, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o666)
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with run(engine, ["sh", "-c", "echo through > /data/pipe"], tmp_path) as container:
            assert container.wait(60) == 0, container.logs()
        assert os.read(reader, 100) == b"through\n"
    finally:
        os.close(reader)


@pytest.mark.alone
@pytest.mark.needs("root")
def test_mounts_below_are_shown(engine_of: pc.Engine, data: Path) -> None:
    with run(engine_of, ["cat", "/data/below/file"], data) as container:
        assert container.wait(60) == 0, container.logs()
        assert container.logs().stdout == "ours"


@pytest.mark.alone
@pytest.mark.needs("root")
@pytest.mark.parametrize("options", [{}, {"cap_add": ["SYS_ADMIN"]}], ids=str)
def test_a_file_that_is_a_mount(
    engine_of: pc.Engine, tmp_path: Path, options: dict[str, object]
) -> None:
    for name in ("under", "over"):
        (tmp_path / name).write_text(name)
    subprocess.run(["mount", "--bind", tmp_path / "over", tmp_path / "under"], check=True)
    try:
        with run(engine_of, ["cat", "/data"], tmp_path / "under", **options) as container:
            assert container.wait(60) == 0, container.logs()
            assert container.logs().stdout == "over"
    finally:
        subprocess.run(["umount", tmp_path / "under"], check=True)


@pytest.mark.parametrize("source", ["/proc", "/sys", "/dev", "/"])
@pytest.mark.parametrize("options", [{}, {"cap_add": ["SYS_ADMIN"]}], ids=str)
def test_file_systems_of_the_kernel(
    engine: pc.Engine, source: str, options: dict[str, object]
) -> None:
    script = "ls /data >/dev/null && ! touch /data/x"
    with run(engine, ["sh", "-c", script], Path(source), **options) as container:
        assert container.wait(60) == 0, container.logs()


@pytest.mark.alone
@pytest.mark.needs("root", "docker")
def test_file_systems_of_the_kernel_as_docker_shows_them(
    engine: pc.Engine, base: bytes, docker: Callable[..., str], tmp_path: Path
) -> None:
    """As sources they are no mistake: monitoring agents get them so."""
    from helpers.layouts import Layout

    sources = ("/proc", "/sys", "/dev", "/sys/fs/cgroup", "/dev/pts", "/proc/sys")
    script = "for path in /srv*; do cd $path; for name in [!0-9]*; do echo $path $name; done; done"
    image = Layout(tmp_path / "layout").image([base], {"Cmd": ["/bin/sh"]})
    docker("import", _archive(tmp_path, base), "base")
    for suffix in ("", ":ro"):
        binds = [f"{source}:/srv{source.replace('/', '-')}{suffix}" for source in sources]
        theirs = docker(
            "run", "--rm", "--network=none", *(f"-v={bind}" for bind in binds), "base",
            "/bin/sh", "-c", script,
        )  # fmt: skip
        with engine.run(
            image, ["/bin/sh", "-c", script], mounts=binds, wait_ready=False
        ) as container:
            container.wait(60)
            assert container.logs().stdout == theirs


def test_a_restart_mounts_it_again(engine: pc.Engine, data: Path) -> None:
    with run(engine, ["sleep", "100"], data, cap_add=["SYS_ADMIN"]) as container:
        (data / "file").write_text("changed")
        container.restart(0.01)
        assert container.read_text("/data/file") == "changed"


def test_a_read_only_volume_stays_so(engine_of: pc.Engine) -> None:
    volume = engine_of.create_volume()
    mounts: list[pc.Mount] = [pc.VolumeMount(volume, "/data", read_only=True)]
    script = "mount -o remount,rw,bind /data; touch /data/x || echo refused"
    with engine_of.run(
        "host:", ["sh", "-c", script], mounts=mounts, cap_add=["SYS_ADMIN"], wait_ready=False
    ) as container:
        container.wait(60)
        assert container.logs().stdout == "refused\n"


@pytest.mark.alone
@pytest.mark.needs("root", "docker", "podman")
def test_as_docker_and_podman_show_it(
    engine: pc.Engine,
    data: Path,
    docker: Callable[..., str],
    podman: Callable[..., str],
    base: bytes,
    tmp_path: Path,
) -> None:
    """One directory with a mount below, a socket and links, in all three places."""
    from helpers.layouts import Layout

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(data / "socket"))
    (data / "link").symlink_to("/etc/hostname")
    os.mkfifo(data / "pipe")
    image = Layout(tmp_path / "layout").image([base], {"Cmd": ["/bin/sh"]})
    script = "cd /data; ls -1 . below; touch x || echo refused; test -S socket && echo socket"
    peers = []
    for peer in (docker, podman):
        peer("import", _archive(tmp_path, base), "base")
        arguments = ["--network=none", "--ulimit=nofile=900:900", "--ulimit=nproc=900:900"]
        peers.append(
            peer("run", "--rm", *arguments, f"-v={data}:/data:ro", "base", "/bin/sh", "-c", script)
        )
    mounts = [pc.Bind(data, "/data", read_only=True)]
    with engine.run(image, ["/bin/sh", "-c", script], mounts=mounts, wait_ready=False) as container:
        container.wait(60)
        assert [container.logs().stdout] * 2 == peers


def _archive(folder: Path, layer: bytes) -> str:
    path = folder / "base.tar"
    path.write_bytes(layer)
    return str(path)
