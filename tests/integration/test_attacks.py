"""Published attacks on container runtimes, step by step, in each identity.

`test_isolation.py` has what a container sees; here programs and images act. A table of all of it is
in ``docs/explanation/isolation-tests.md``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pty
import select
import shlex
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from helpers import leaks
from helpers.layouts import Layout, Member, busybox, layer, member

import pytest_containers as pc
from pytest_containers.linux.libc import syscall
from pytest_containers.linux.numbers import MACHINE
from pytest_containers.runtime.seccomp.numbers import table

NR = table(MACHINE)
UNCONFINED = {"security_opt": ["seccomp=unconfined"]}
LINK, FOLDER = {"type": tarfile.SYMTYPE}, {"type": tarfile.DIRTYPE}


@pytest.fixture(scope="module")
def engine(each_engine: pc.Engine) -> pc.Engine:
    return each_engine


@pytest.fixture(scope="module")
def base() -> bytes:
    """A layer that the images share, so that it is unpacked once."""
    folders = [member(name, **FOLDER) for name in ("etc", "tmp")]
    return layer([*busybox("cat", "stat", "readlink", "head", "id"), *folders])


@pytest.fixture
def image_of(tmp_path: Path, base: bytes) -> Callable[..., str]:
    """Makes an image of a shell, some programs, and hostile members."""
    count = iter(range(1000))

    def make(*members: Member, **config: Any) -> str:
        layers = [base, layer(members)] if members else [base]
        return Layout(tmp_path / f"image{next(count)}").image(layers, config, compress=bytes)

    return make


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host that every attacker could write to, and must not reach."""
    folder = tmp_path / "outside"
    folder.mkdir()
    folder.chmod(0o777)
    tmp_path.chmod(0o755)
    (folder / "victim").write_text("untouched")
    (folder / "victim").chmod(0o666)
    yield folder
    assert os.listdir(folder) == ["victim"]
    assert (folder / "victim").read_text() == "untouched"


def wait_for_output(container: pc.Container, expected: str) -> None:
    deadline = time.monotonic() + 60
    while expected not in str(container.logs()):
        assert time.monotonic() < deadline, container.logs()
        time.sleep(0.01)


def python(container: pc.Container, source: str, *, prefix: tuple[str, ...] = ()) -> str:
    """Run a program of Python in a container; return all it says."""
    done = container.exec([*prefix, "python3", "-c", PRELUDE + source], text=True, timeout_s=30)
    return str(done.stdout) + str(done.stderr)


PRELUDE = f"""
import ctypes, errno, fcntl, os, socket, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
NR = {NR!r}

def call(name, *arguments):
    made = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(NR[name]), *made)
    return result if result >= 0 else errno.errorcode[ctypes.get_errno()]

def mount(kind, target, options=None):
    os.makedirs(target, exist_ok=True)
    result = libc.mount(b"none", target.encode(), kind.encode(), 0, options and options.encode())
    return 0 if result == 0 else errno.errorcode[ctypes.get_errno()]

def attempt(work):
    try:
        return work()
    except OSError as error:
        return errno.errorcode[error.errno]
"""


# ----------------------------------------------------------- mounts that an image redirects


@pytest.mark.parametrize("volume", ["/proc", "/proc/self", "/x/../proc"])
def test_a_volume_of_an_image_does_not_cover_kernel_files(
    engine: pc.Engine, image_of: Callable[..., str], volume: str
) -> None:
    # CVE-2019-16884: VOLUME /proc, and /proc is a directory of the attacker's.
    image = image_of(member("proc/self/attr/exec", b"fake"), Volumes={volume: {}})
    script = "while read -r line; do echo $line; done < /proc/self/mountinfo"
    try:
        with engine.run(image, ["/bin/sh", "-c", script], wait_ready=False) as container:
            container.wait(60)
            shown = str(container.logs())
    except pc.ContainersError as error:
        assert "nothing may be mounted there" in str(error)
    else:
        kinds = [
            line.split(" - ")[1].split()[0] for line in shown.splitlines() if " /proc " in line
        ]
        assert kinds == ["proc"]


@pytest.mark.slow
def test_a_shared_volume_that_is_swapped_during_starts(
    engine: pc.Engine, image_of: Callable[..., str], outside: Path
) -> None:
    # CVE-2021-30465, CVE-2023-27561, CVE-2024-45310: one container swaps a directory for a link to
    # the host while others have mounts made below it.
    shared = outside.parent / "shared"
    (shared / "a").mkdir(parents=True)
    shared.chmod(0o777)
    source = pc.Bind(shared, "/shared")
    (shared / "b").symlink_to(f"../../../../../../../../..{outside}")
    swap = (
        "import ctypes; libc = ctypes.CDLL(None)\n"
        "print('swaps', flush=True)\n"
        "while True: libc.renameat2(-100, b'/shared/a', -100, b'/shared/b', 2)\n"
    )
    data = outside.parent / "data"
    data.mkdir()
    before = leaks.mounts()
    with engine.run("host:", ["python3", "-c", swap], mounts=[source]) as swapper:
        wait_for_output(swapper, "swaps")
        for number in range(8):
            mounts = [source, pc.Bind(data, f"/shared/a/made{number}/deep")]
            with (
                contextlib.suppress(pc.ContainersError),
                engine.run("host:", ["sleep", "10"], mounts=mounts, wait_ready=False) as victim,
            ):
                seen = python(victim, f"print(os.path.exists({str(outside / 'victim')!r}))")
                assert seen == "False\n"
    assert leaks.mounts() == before


HOSTILE_DEV = [
    member("dev", **FOLDER), member("dev/null", linkname="/proc/sys/kernel/core_pattern", **LINK),
    member("dev/console", linkname="/proc/sysrq-trigger", **LINK),
    member("dev/pts", linkname="/proc/sys", **LINK), member("dev/ptmx", linkname="/etc/x", **LINK),
    member("dev/shm", linkname="/proc/sys/kernel", **LINK), member("dev/mqueue", linkname="/etc", **LINK),
    member("dev/fd", linkname="/proc/1/root", **LINK),
]  # fmt: skip


@pytest.mark.parametrize("tty", [False, True])
def test_links_in_the_place_of_devices(
    engine: pc.Engine, image_of: Callable[..., str], tty: bool
) -> None:
    # CVE-2025-31133, CVE-2025-52565, CVE-2026-41579, CVE-2026-47766: what masks files, and the
    # console, are looked up in a /dev of the image.
    image = image_of(*HOSTILE_DEV)
    script = (
        "/bin/stat -c %t:%T /dev/null /dev/ptmx; /bin/stat -L -c %t:%T /dev/ptmx;"
        "/bin/head -c 9 /proc/kcore; /bin/readlink /dev/null /dev/pts /dev/shm /dev/console;"
        "echo x > /proc/kcore; echo x > /proc/sys/kernel/core_pattern || echo refused"
    )
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    with engine.run(image, ["/bin/sh", "-c", script], tty=tty, wait_ready=False) as container:
        container.wait(60)
        lines = str(container.logs().stdout).replace("\r", "").splitlines()
    assert lines[0] == "1:3"
    assert lines[2] == "5:2"
    assert lines[-1] == "refused"
    assert [line for line in lines if line.startswith("/") and not line.startswith("/bin/")] == []
    assert Path("/proc/sys/kernel/core_pattern").read_text() == pattern


def test_a_terminal_out_of_a_pts_of_the_attackers(engine: pc.Engine) -> None:
    # CVE-2025-52565: /dev/pts is the attacker's when a terminal is opened for exec.
    for device in (
        "ln -s /dev/null ptmx",
        "mkfifo ptmx",
        "mknod ptmx c 1 3 || ln -s /dev/zero ptmx",
    ):
        with engine.run("host:", ["sleep", "100"], cap_add=["SYS_ADMIN"]) as container:
            script = f"mount -t tmpfs x /dev/pts && cd /dev/pts && {device}"
            container.exec(["sh", "-c", script], check=True)
            with pytest.raises(pc.ContainersError, match="ptmx"):
                container.exec(["true"], tty=True)


def test_a_proc_of_the_attackers_redirects_no_write(engine: pc.Engine, outside: Path) -> None:
    # CVE-2025-52881: the runtime writes to /proc/self/… through a /proc that is the attacker's.
    names = ("oom_score_adj", "attr/exec", "setgroups", "uid_map", "sys/net/ipv4/ip_forward")
    make = "; ".join(
        f"mkdir -p /proc/{folder}/{os.path.dirname(name)}; ln -sf /data/victim /proc/{folder}/{name}"
        for name in names
        for folder in ("self", "thread-self", "1", "2", ".")
    )
    options = {"mounts": [pc.Bind(outside, "/data")], "cap_add": ["SYS_ADMIN"]}
    with engine.run("host:", ["sleep", "100"], **options) as container:
        container.exec(["sh", "-c", f"mount -t tmpfs x /proc; {make}"], check=True)
        with contextlib.suppress(pc.ContainersError):
            container.exec(["true"])
        with contextlib.suppress(pc.ContainersError):
            container.exec(["true"], workdir="/new/folder", tty=True)


# -------------------------------------------------------------- the runtime's own programs


@pytest.mark.slow
def test_the_interpreter_of_the_run_cannot_be_overwritten(
    engine: pc.Engine, image_of: Callable[..., str]
) -> None:
    # CVE-2019-5736: a program that is /proc/self/exe is the runtime's own; what was started so is
    # opened by another, and written to as soon as it has ended.
    ours = Path(os.path.realpath(sys.executable))
    before = ours.stat()
    attack = (
        "found = set(); deadline = __import__('time').monotonic() + 0.6; opened = {}\n"
        "own = os.stat('/proc/self/exe')\n"
        "print('ready', flush=True)\n"
        "while __import__('time').monotonic() < deadline:\n"
        "    for pid in os.listdir('/proc'):\n"
        "        if pid.isdecimal():\n"
        "            try: opened[pid] = os.open(f'/proc/{pid}/exe', os.O_RDONLY) if pid not in opened else opened[pid]\n"
        "            except OSError: continue\n"
        "            for flags in (os.O_WRONLY, os.O_RDWR | os.O_APPEND):\n"
        "                link = f'/proc/self/fd/{opened[pid]}'; name = os.readlink(link)\n"
        "                try:\n"
        "                    fd = os.open(link, flags)\n"
        "                    if name.startswith('/memfd:start '): os.write(fd, b'x')  # it is sealed\n"
        "                    os.close(fd); found.add(name)\n"
        "                except OSError: pass\n"
        "print('seen', len(opened), 'written', sorted(found), flush=True)\n"
    )
    with engine.run("host:", ["sleep", "100"]) as container:
        container.write_text("/tmp/script", "#!/proc/self/exe\npass\n", mode=0o755)
        container.exec(
            ["sh", "-c", f"python3 -c {shlex.quote(PRELUDE + attack)} > /tmp/out 2>&1 &"]
        )
        while "ready" not in container.read_text("/tmp/out"):
            time.sleep(0.02)
        for _ in range(5):
            for command in (["/proc/self/exe", "-c", "pass"], ["/tmp/script"]):
                with contextlib.suppress(pc.ContainersError):
                    container.exec(command)
        deadline = time.monotonic() + 20
        while "seen" not in (said := container.read_text("/tmp/out")):
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        assert "written []" in said
    after = ours.stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)


@pytest.mark.parametrize("identity", ["auto", "range", "single"])
@pytest.mark.parametrize("words", ["/proc/self/exe", "/tmp/script", "/tmp/link"])
def test_the_attributes_of_the_interpreter_are_out_of_reach(
    identity: Literal["auto", "range", "single"], words: str, store_home: Path
) -> None:
    # As CVE-2019-5736, but what is changed is mode, time and attributes: the kernel refuses these
    # to whoever is not the owner, and not because the program is executed.
    source = "import os; fd = os.open('/proc/self/exe', os.O_RDONLY); os.fchmod(fd, os.fstat(fd).st_mode & 0o7777)"
    with (
        pc.Engine(home=store_home, identity=identity) as engine,
        engine.run("host:", ["sleep", "100"]) as container,
    ):
        container.write_text("/tmp/script", f"#!/proc/self/exe\n{source}\n", mode=0o755)
        container.exec(["ln", "-s", "/proc/self/exe", "/tmp/link"], check=True)
        arguments = [] if words == "/tmp/script" else ["-c", source]
        try:
            done = container.exec([words, *arguments], text=True, timeout_s=20)
        except pc.ContainersError:  # what was executed is no interpreter
            return
        assert done.returncode != 0


def test_no_program_or_library_of_an_image_runs_for_copies(
    engine: pc.Engine, image_of: Callable[..., str], tmp_path: Path
) -> None:
    # CVE-2019-14271, CVE-2026-41567: `docker cp` loaded libnss of the container. All that a copy
    # could load or run is the attacker's, and tells of it.
    marker = "#!/bin/sh\necho ran >> /tmp/ran\n"
    members = [
        *(member(f"{folder}/{name}", marker.encode()) for folder in ("bin", "usr/bin", "sbin")
          for name in ("tar", "cp", "chown", "python3", "gzip", "xz", "zstd")),
        member("etc/ld.so.preload", b"/lib/evil.so\n"), member("lib/evil.so", b"\x7fELF"),
        member("etc/nsswitch.conf", b"passwd: evil\ngroup: evil\n"),
        member("lib/x86_64-linux-gnu/libnss_evil.so.2", b"\x7fELF"),
    ]  # fmt: skip
    image = image_of(*members)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("x")
    with engine.run(image, ["/bin/sh", "-c", "read x < /dev/zero"], wait_ready=False) as container:
        container.copy_in(tmp_path / "in", "/tmp/in")
        container.copy_out("/etc", tmp_path / "out")
        container.write_text("/tmp/text", "x")
        assert container.read_text("/tmp/in/file") == "x"
        with pytest.raises(pc.ContainersError):
            container.read_text("/tmp/ran")


# ------------------------------------------------------------------------------------ users


@pytest.mark.parametrize(
    "user", ["4294967296", "2147483648", "18446744073709551616", "-1", "0:4294967296"]
)  # fmt: skip
def test_an_id_that_is_too_large_is_not_root(
    engine: pc.Engine, image_of: Callable[..., str], user: str
) -> None:
    # CVE-2024-40635: an id beyond 31 or 32 bits was 0.
    image = image_of(User=user)
    try:
        with engine.run(image, ["/bin/id", "-u"], wait_ready=False) as container:
            container.wait(60)
            assert str(container.logs()).strip() == user == "2147483648"  # of a single id
    except pc.ContainersError as error:
        assert "user" in str(error) or "group" in str(error)


def test_digits_are_an_id_also_if_a_user_is_called_so(
    engine: pc.Engine, image_of: Callable[..., str]
) -> None:
    # CVE-2016-3697, CVE-2026-46680: a line of passwd makes user 1000 root.
    image = image_of(member("etc/passwd", b"1000:x:0:0::/:/bin/sh\nroot:x:0:0::/:/bin/sh\n"))  # fmt: skip
    with engine.run(image, ["/bin/id", "-u"], user="1000", wait_ready=False) as container:
        container.wait(60)
        assert str(container.logs().stdout) == "1000\n"


@pytest.mark.parametrize("kind", ["link", "zero", "fifo", "descriptor", "large"])
def test_a_passwd_that_is_none(
    engine: pc.Engine, image_of: Callable[..., str], outside: Path, kind: str
) -> None:
    # CVE-2024-9676, CVE-2026-47262: it leads to the host, or never ends.
    entries = {
        "link": member("etc/passwd", linkname=f"../../../../..{outside}/victim", **LINK),
        "zero": member("etc/passwd", linkname="/dev/zero", **LINK),
        "fifo": member("etc/passwd", type=tarfile.FIFOTYPE),
        "descriptor": member("etc/passwd", linkname="/proc/self/fd/5", **LINK),
        "large": member("etc/passwd", b"x:" * (4 << 20)),
    }
    started = time.monotonic()
    with pytest.raises(pc.ContainersError, match="'untouched' is not in|passwd"):
        engine.run(image_of(entries[kind]), ["/bin/sh"], user="untouched", wait_ready=False)
    assert time.monotonic() - started < 60


LEASE = """
import fcntl, signal, time
files = [open(path, "a") for path in {paths!r}]
signal.signal(signal.SIGIO, lambda *_: None)
for file in files: fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("leased", flush=True)
while True: time.sleep(1)
"""


def test_a_lease_does_not_hold_the_run(engine: pc.Engine) -> None:
    # Whoever opens a file with a lease waits for 45 seconds, or is told to try again.
    mount = "mount -t tmpfs x /dev/pts; "
    paths = ["/etc/passwd", "/etc/file", "/dev/pts/ptmx"]
    program = ["sh", "-c", f'{mount} exec python3 -c "$0"', LEASE.format(paths=paths)]
    with engine.run("host:", program, cap_add=["SYS_ADMIN"], wait_ready=False) as container:
        wait_for_output(container, "leased")
        started = time.monotonic()
        with pytest.raises(pc.ContainersError, match="'x' is not in"):
            container.exec(["true"], user="x")
        with pytest.raises(pc.ContainersError, match="/etc/file.*Resource temporarily unavailable"):
            container.read_text("/etc/file")
        with pytest.raises(pc.ContainersError, match="not a terminal"):
            container.exec(["true"], tty=True)
        assert time.monotonic() - started < 40


def test_a_name_of_a_process_that_is_no_text(engine: pc.Engine) -> None:
    rename = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'\\xff)\\x0c\\r\\n(x'); print('named', flush=True)"
    program = ["python3", "-c", f"{rename}; time.sleep(100)"]
    with engine.run("host:", program, wait_ready=False) as container:
        wait_for_output(container, "named")
        assert container.stats().pids == 1
        container.pause()
        container.unpause()
        container.stop(timeout_s=0.1)
        assert container.status == "exited"


def test_a_full_container_has_no_part_in_the_names_of_others(engine: pc.Engine) -> None:
    # The file of names is in its writable layer, which it has filled after cutting that file off.
    fill = ": > /etc/hosts; dd if=/dev/zero of=/fill bs=4k; echo full; exec sleep 100"
    network = engine.create_network()
    try:
        with engine.run(
            "host:",
            ["sh", "-c", fill],
            network=network,
            scratch_size_bytes=1 << 20,
            wait_ready=False,
        ) as attacker:
            wait_for_output(attacker, "full")
            with (
                engine.run("host:", ["sleep", "100"], network=network, name="one") as one,
                engine.run("host:", ["sleep", "100"], network=network, name="two") as two,
            ):
                for container, name in ((one, "two"), (two, "one")):
                    hosts = container.exec(["cat", "/etc/hosts"], text=True).stdout
                    assert name in hosts.split()
    finally:
        network.remove()


IN_FLIGHT = """
import array, resource, socket, time
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 250))]
pairs = []
try:
    while True:
        pairs.append(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
        for _ in range(8):
            pairs[-1][0].sendmsg([b"x"], rights)
except OSError as error:
    print("error", error.errno, flush=True)
time.sleep(100)
"""


@pytest.mark.alone
def test_descriptors_in_flight_keep_the_run_from_nothing(engine: pc.Engine) -> None:
    # The kernel counts those of all processes of a user, and permits no more than one may have.
    with (
        engine.run("host:", ["python3", "-c", IN_FLIGHT]) as attacker,
        engine.run("host:", ["sleep", "100"]) as neighbour,
    ):
        wait_for_output(attacker, f"error {errno.ETOOMANYREFS}")
        assert neighbour.exec(["true"], timeout_s=5).returncode == 0
        assert attacker.exec(["true"], timeout_s=5).returncode == 0
        assert attacker.read_text("/etc/hosts")


def test_no_capability_is_inheritable_or_ambient(engine: pc.Engine) -> None:
    # CVE-2022-24769, CVE-2022-27649, CVE-2022-29162
    script = ["sh", "-c", "grep -E 'CapInh|CapAmb' /proc/self/status"]
    none = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n"
    for options in ({}, {"cap_add": ["ALL"]}, {"init": True}):
        with engine.run("host:", [*script[:2], f"{script[2]}; sleep 100"], **options) as container:
            for user in (None, "0", "0:0"):
                assert container.exec(script, text=True, user=user).stdout == none
            wait_for_output(container, none)


def test_a_working_directory_of_the_run_leads_nowhere(
    engine: pc.Engine, image_of: Callable[..., str], outside: Path
) -> None:
    # CVE-2016-9962, CVE-2024-21626: a descriptor of the runtime is the working directory, by name,
    # by the image, and by a link.
    numbers = range(3, 13)
    links = [member(f"work{n}", linkname=f"/proc/self/fd/{n}", **LINK) for n in numbers]
    image = image_of(*links)
    read = ["/bin/cat", f".{outside}/victim", f"../../../..{outside}/victim"]
    said = ""
    with engine.run(image, ["/bin/sh", "-c", "read x < /dev/zero"], wait_ready=False) as container:
        for number in numbers:
            for path in (
                f"/proc/self/fd/{number}",
                f"/proc/thread-self/fd/{number}/..",
                f"/work{number}",
            ):
                with contextlib.suppress(pc.ContainersError):
                    done = container.exec(read, workdir=path, text=True)
                    said += done.stdout
                if path.startswith("/work"):
                    with (
                        contextlib.suppress(pc.ContainersError),
                        engine.run(image, read, workdir=path, wait_ready=False) as other,
                    ):
                        other.wait(60)
                        said += str(other.logs())
    for number in (5, 7, 9):
        with (
            contextlib.suppress(pc.ContainersError),
            engine.run(
                image_of(WorkingDir=f"/proc/self/fd/{number}"), read, wait_ready=False
            ) as other,
        ):
            other.wait(60)
            said += str(other.logs())
    assert "untouched" not in said


# --------------------------------------------------------------------------------- terminal

TIOCSTI = """
import fcntl, os, termios
for path in ("/dev/stdin", "/dev/stdout", "/dev/tty", "/dev/console", "/dev/pts/0"):
    try: fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    except OSError: continue
    for request in (termios.TIOCSTI, 0x541C):  # TIOCLINUX: CVE-2023-28100
        for byte in b"touch hacked\\n":
            try: fcntl.ioctl(fd, request, bytes([byte]))
            except OSError: pass
print("session", os.getsid(0) == os.getpid() or os.getsid(0), flush=True)
"""


@pytest.mark.parametrize(
    "options",
    [
        ["-it"],
        pytest.param(["-i"], marks=pytest.mark.slow),
        pytest.param([], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_nothing_is_typed_on_the_terminal_of_the_caller(
    each_engine: pc.Engine, store_home: Path, options: list[str]
) -> None:
    # CVE-2017-5226: who shares a terminal types a command for the shell that comes after.
    parent, child = pty.openpty()
    environ = {**os.environ, "PYTEST_CONTAINERS_IDENTITY": str(each_engine.facts["identity"]), "PYTEST_CONTAINERS_HOME": str(store_home)}  # fmt: skip
    own = "from pytest_containers.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", own, "run", *options, "host:", "python3", "-c", TIOCSTI]
    process = subprocess.Popen(
        ["setsid", "--ctty", *command], stdin=child, stdout=child, stderr=child, env=environ
    )
    said = b""
    deadline = time.monotonic() + 30
    while process.poll() is None or select.select([parent], [], [], 0.1)[0]:
        assert time.monotonic() < deadline, said
        if select.select([parent], [], [], 0.1)[0]:
            said += os.read(parent, 4096)
    assert b"session" in said, said
    assert process.returncode == 0, said
    os.set_blocking(child, False)
    with pytest.raises(BlockingIOError):
        os.read(child, 100)
    assert b"hacked" not in said or "-it" in options  # its own terminal may echo it
    os.close(parent)
    os.close(child)


# ---------------------------------------------------------------------------------- cgroups

RELEASE_AGENT = """
import glob
opened = []
print("root" if os.geteuid() == 0 else "user")
for name in ("rdma", "memory", "pids", "cpu", "freezer", "devices", "blkio", "cpuset", "none,name=systemd", "none,name=x"):
    folder = f"/tmp/cgroup/{name}"
    if mount("cgroup", folder, name) != 0:
        continue
    attempt(lambda: os.mkdir(folder + "/x"))
    for path, value in (("release_agent", "/tmp/agent"), ("x/notify_on_release", "1"), ("notify_on_release", "1")):
        try:
            with open(f"{folder}/{path}", "w") as file: file.write(value)
            if path == "release_agent": opened.append(name)
        except OSError: pass
    attempt(lambda: os.rmdir(folder + "/x"))
print("agents", opened)
"""


@pytest.mark.parametrize(
    ("prefix", "options"),
    [
        ((), {}), (("unshare", "-UrmC"), {}), (("unshare", "-UrmC"), UNCONFINED),
        ((), {"cap_add": ["SYS_ADMIN"]}), ((), {"privileged": True}),
    ],
    ids=["plain", "nested", "nested, unfiltered", "administrator", "privileged"],
)  # fmt: skip
def test_no_release_agent_is_set(
    engine: pc.Engine, prefix: tuple[str, ...], options: dict[str, Any]
) -> None:
    # CVE-2022-0492
    with engine.run("host:", ["sleep", "100"], **options) as container:
        said = python(container, RELEASE_AGENT, prefix=prefix)
    assert said.endswith("agents []\n") or "Operation not permitted" in said, said


# ------------------------------------------------------------------------ nested namespaces

NESTED = """
print("namespace", call("unshare", 0x10000000 | 0x20000 | 0x40000000 | 0x8000000))
netlink = attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12))
print("netfilter", netlink if isinstance(netlink, str) else attempt(lambda: netlink.send(struct.pack("=IHHIIBBH", 20, 0x0a00, 0x405, 1, 0, 0, 0, 0)) and struct.unpack_from("=i", netlink.recv(999), 16)[0]))
print("mqueue", mount("mqueue", "/tmp/mqueue"))
print("binfmt_misc", mount("binfmt_misc", "/tmp/binfmt"))
print("cgroup2", mount("cgroup2", "/tmp/cgroup2"))
print("proc", mount("proc", "/tmp/proc"))
print("overlay", mount("overlay", "/tmp/overlay", "lowerdir=/etc:/usr"))
"""


def test_nested_namespaces_and_what_they_open_are_closed(engine: pc.Engine) -> None:
    with engine.run("host:", ["sleep", "100"]) as container:
        lines = dict(line.split() for line in python(container, NESTED).splitlines())
    refused = {"EPERM", "EACCES"}
    assert lines.pop("netfilter") in {*refused, "EPROTONOSUPPORT", "-1"}
    assert {name for name, answer in lines.items() if answer not in refused} == set()


def test_what_unfiltered_nested_namespaces_open_is_their_own(
    engine: pc.Engine, tmp_path: Path
) -> None:
    # Without the filter, the kernel's own rules are left: nothing of the host is seen or changed.
    binfmt = Path("/proc/sys/fs/binfmt_misc")
    before = sorted(os.listdir(binfmt)) if binfmt.is_dir() else []
    source = (
        "os.makedirs('/tmp/b', exist_ok=True); call('unshare', 0x10000000 | 0x20000 | 0x8000000)\n"
        "open('/proc/self/setgroups', 'w').write('deny') if False else None\n"
        "print('mounted', mount('binfmt_misc', '/tmp/b'))\n"
        "print(attempt(lambda: open('/tmp/b/register', 'w').write(':evil:M::\\\\x7fELF::/tmp/evil:')))\n"
        "print('queues', mount('mqueue', '/tmp/q'), attempt(lambda: os.listdir('/tmp/q')))\n"
    )
    name = f"/pytest-containers-{os.getpid()}".encode()
    queue = ctypes.CDLL(None).mq_open(name, os.O_CREAT | os.O_RDWR, 0o666, None)
    try:
        with engine.run("host:", ["sleep", "100"], **UNCONFINED) as container:
            said = python(container, source, prefix=("unshare", "-Ur"))
        assert name.decode()[1:] not in said
        assert "mounted" in said
        assert (sorted(os.listdir(binfmt)) if binfmt.is_dir() else []) == before
        subprocess.run(["true"], check=True)
    finally:
        if queue >= 0:
            os.close(queue)
        ctypes.CDLL(None).mq_unlink(name)


# ------------------------------------------------------------------------------------- keys


def test_user_keyrings_of_the_host_are_out_of_reach(
    each_engine: pc.Engine, store_home: Path
) -> None:
    # They are of a user and not of a session: whoever has the id of the caller would have them.
    user, session = -4, -5
    keys = [
        syscall(NR["add_key"], b"user", b"pytest-containers", b"secret", 6, keyring)
        for keyring in (user, session)
    ]
    source = (
        "buffer = ctypes.create_string_buffer(64)\n"
        "for ring in (-4, -5, -3, -2, -1):\n"
        "    print(call('keyctl', 10, ring, b'user', b'pytest-containers', 0))\n"
        "print(call('request_key', b'user', b'pytest-containers', None, 0))\n"
        f"for key in {keys}: print(call('keyctl', 11, key, buffer, 64), call('keyctl', 8, key, -3))\n"
    )
    try:
        with pc.Engine(home=store_home, identity=str(each_engine.facts["identity"])) as engine:
            for options in ({}, UNCONFINED):
                with engine.run("host:", ["sleep", "100"], **options) as container:
                    answers = python(container, source).split()
                assert len(answers) == 10, answers
                assert [answer for answer in answers if answer.isdecimal()] == []
    finally:
        for key, keyring in zip(keys, (user, session), strict=True):
            syscall(NR["keyctl"], 9, key, keyring)


# ------------------------------------------------------------------------- single system calls


def test_memory_of_the_run_is_not_read(engine: pc.Engine) -> None:
    # process_vm_readv, ptrace, pidfd_getfd and /proc/PID/mem of all that a container sees.
    source = (
        "import re\n"
        "got = []\n"
        "for pid in [1, os.getppid(), 0, *range(2, 9)]:\n"
        "    if pid == os.getpid(): continue\n"
        "    try: maps = open(f'/proc/{pid}/maps').read()\n"
        "    except OSError: maps = ''\n"
        "    if 'python' in maps or 'pytest' in maps: got.append(maps)\n"
        "    for start in re.findall('^([0-9a-f]+)-', maps, re.M)[:4] or ['400000']:\n"
        "        buffer = ctypes.create_string_buffer(4096)\n"
        "        local = struct.pack('QQ', ctypes.addressof(buffer), 4096); remote = struct.pack('QQ', int(start, 16), 4096)\n"
        "        call('process_vm_readv', pid, local, 1, remote, 1, 0)\n"
        "        if b'pytest' in buffer.raw: got.append(buffer.raw)\n"
        "    fd = call('pidfd_open', pid, 0)\n"
        "    if isinstance(fd, int):\n"
        "        for n in range(3, 30):\n"
        "            taken = call('pidfd_getfd', fd, n, 0)\n"
        "            if isinstance(taken, int): got.append(os.readlink(f'/proc/self/fd/{taken}'))\n"
        "print(got)\n"
    )
    for options in ({}, {"init": True, "cap_add": ["SYS_PTRACE"]}, {"init": True, "cap_add": ["ALL"], **UNCONFINED}):  # fmt: skip
        with engine.run("host:", ["sleep", "100"], **options) as container:
            assert python(container, source) == "[]\n"


def test_a_file_handle_of_the_host_opens_nothing(engine: pc.Engine, outside: Path) -> None:
    # Shocker: a handle is a number that can be guessed; with a file of the same file system open,
    # it opens any other.
    shared = outside.parent / "shared"
    shared.mkdir()
    handle = ctypes.create_string_buffer(b"\x80\0\0\0" + bytes(200))
    mount_id = ctypes.c_int()
    found = syscall(NR["name_to_handle_at"], -100, os.fsencode(outside / "victim"), handle, ctypes.addressof(mount_id), 0)  # fmt: skip
    assert found == 0
    source = (
        f"handle = ctypes.create_string_buffer({handle.raw!r})\n"
        "for path in ('/data', '/', '/etc/hosts', '/usr'):\n"
        "    fd = os.open(path, os.O_RDONLY)\n"
        "    for flags in (os.O_RDONLY, os.O_PATH, os.O_RDWR):\n"
        "        print(call('open_by_handle_at', fd, handle, flags))\n"
    )
    caps = {"cap_add": ["DAC_READ_SEARCH", "SYS_ADMIN"]}
    for options in ({}, caps, {"cap_add": ["ALL"], **UNCONFINED}, {"privileged": True}):
        mounts = [pc.Bind(shared, "/data")]
        with engine.run("host:", ["sleep", "100"], mounts=mounts, **options) as container:
            answers = python(container, source).split()
        assert len(answers) == 12, answers
        assert [answer for answer in answers if answer.isdecimal()] == [], options


# ---------------------------------------------------------------------------------- network

SPOOF = """
import time
victims, victims6 = {victims!r}, {victims6!r}
mine = bytes.fromhex(open("/sys/class/net/eth0/address").read().replace(":", ""))
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); sock.bind(("eth0", 0))

def checksum(data):
    total = sum(struct.unpack(f"!{{len(data) // 2}}H", data))
    total = (total >> 16) + (total & 0xffff); total += total >> 16
    return ~total & 0xffff

def icmp6(source, body):
    target = socket.inet_pton(socket.AF_INET6, "ff02::1")
    pseudo = source + target + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body + bytes(len(body) % 2))) + body[4:]
    return bytes.fromhex("333300000001") + mine + b"\\x86\\xdd" + struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source + target + body

frames = []
for ip in victims:
    packed = socket.inet_aton(ip)
    for kind in (1, 2):  # a question and an answer, to all
        frames.append(b"\\xff" * 6 + mine + b"\\x08\\x06" + struct.pack("!HHBBH", 1, 0x800, 6, 4, kind) + mine + packed + b"\\xff" * 6 + packed)
for ip in victims6:
    packed = socket.inet_pton(socket.AF_INET6, ip)
    frames.append(icmp6(packed, struct.pack("!BBHI", 136, 0, 0, 0x20000000) + packed + b"\\x02\\x01" + mine))
local = socket.inet_pton(socket.AF_INET6, "fe80::1")
prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xc0, 9999, 9999, 0) + socket.inet_pton(socket.AF_INET6, "2001:db8::")
frames.append(icmp6(local, struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + b"\\x01\\x01" + mine + prefix))
sent = 0
for _ in range(20):
    for frame in frames:
        sent += sock.send(frame) > 0
    time.sleep(0.01)
print("sent", sent)
"""
SERVER = "import socket; s = socket.create_server(('::', 80), family=socket.AF_INET6, dualstack_ipv6=True)\nwhile True: c, _ = s.accept(); c.send({name!r}); c.close()"


def test_containers_of_other_tests_do_not_spoof_neighbours(engine: pc.Engine) -> None:
    # ARP and ND spoofing with AF_PACKET, between the networks of two tests.
    ours, theirs = engine.create_network(), engine.create_network()
    ask = "for ip in {ips!r}: print(socket.create_connection((ip, 80), 5).recv(9).decode())\n"
    try:
        with (
            engine.run("host:", ["python3", "-c", SERVER.format(name=b"right")], ports=[80], network=ours) as server,
            engine.run("host:", ["python3", "-c", SERVER.format(name=b"wrong")], ports=[80], network=theirs) as attacker,
            engine.run("host:", ["sleep", "100"], network=ours) as client,
        ):  # fmt: skip
            addresses = [server.ip, client.ip, server.ip.rsplit(".", 1)[0] + ".1"]
            spoof = SPOOF.format(victims=addresses, victims6=[server.ip6, client.ip6])
            questions = ask.format(ips=[server.ip, server.ip6])
            assert python(client, questions) == "right\nright\n"
            assert int(python(attacker, spoof).split()[-1]) > 100
            assert python(client, questions) == "right\nright\n"
            for _ in range(2):
                with socket.create_connection((server.host, server.port(80)), 5) as sock:
                    assert sock.recv(9) == b"right"
    finally:
        ours.remove()
        theirs.remove()


def test_a_router_advertisement_is_not_taken(engine: pc.Engine) -> None:
    # CVE-2020-13401: a container tells its neighbours, and the run, that it is their router.
    network = engine.create_network()
    look = "print(open('/proc/net/ipv6_route').read(), open('/proc/net/if_inet6').read())"
    try:
        with (
            engine.run("host:", ["sleep", "100"], network=network) as victim,
            engine.run("host:", ["sleep", "100"], network=network) as attacker,
        ):
            before = python(victim, look)
            spoof = SPOOF.format(victims=[], victims6=[])
            assert int(python(attacker, spoof).split()[-1]) >= 20
            time.sleep(0.1)
            after = python(victim, look)
        assert "20010db8" not in after
        gateways = [
            [line.split()[4] for line in text.splitlines() if line.startswith("0" * 32 + " 00")]
            for text in (before, after)
        ]
        assert gateways[0] == gateways[1]
    finally:
        network.remove()


def test_a_published_connection_does_not_come_from_loopback(engine: pc.Engine) -> None:
    # CVE-2021-20199: a server that trusts 127.0.0.1 would trust everybody.
    source = (
        "import socket; s = socket.create_server(('::', 80), family=socket.AF_INET6, dualstack_ipv6=True)\n"
        "while True: c, who = s.accept(); c.send(who[0].encode()); c.close()"
    )
    with engine.run("host:", ["python3", "-c", source], ports=[80]) as container:
        with socket.create_connection((container.host, container.port(80)), 5) as sock:
            peer = sock.recv(99).decode().removeprefix("::ffff:")
    assert peer
    assert not peer.startswith("127.")
    assert peer != "::1"
