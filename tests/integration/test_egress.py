"""A way out for containers that ask for one: what it opens, what stays shut, and its end."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import leaks

import pytest_containers as pc
from pytest_containers.linux import mount
from pytest_containers.runtime.network import outside

NAME_SERVER = """
import socket, struct
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.bind(("", 53))
open("/tmp/up", "w")
while True:
    query, peer = sock.recvfrom(512)
    end = query.index(b"\\0", 12) + 5
    is_a = query[end - 3] == 1
    answer = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\0\\0\\4" + socket.inet_aton("192.0.2.77")
    header = query[:2] + struct.pack("!5H", 0x8180, 1, is_a, 0, 0)
    sock.sendto(header + query[12:end] + (answer if is_a else b""), peer)
"""
ROUTE_BY = """
import socket, sys
sock = socket.socket()
# Loose source routing (ip(7)), the way an unprivileged program may name a router.
route = b"\\x83\\x07\\x04" + socket.inet_aton(sys.argv[1]) + b"\\0"
sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, route)
sock.settimeout(3)
sock.connect((sys.argv[2], 8000))
"""
PROGRAMS = ("slirp4netns", "pasta")


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both programs, one after the other."""
    path = shutil.which(request.param)
    if path is None:
        pytest.skip(f"needs {request.param}")
    monkeypatch.setattr(shutil, "which", lambda name: path if name == request.param else None)
    if outside.way_out()[1]:
        pytest.skip(outside.way_out()[1])
    return path


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pc.Container]:
    """What is another machine to a container: one of another run, which the host reaches."""
    with pc.Engine(home=tmp_path_factory.mktemp("other") / "store") as other:
        web = ["python3", "-m", "http.server", "8000"]
        with other.run("host:", web, ports=[8000]) as container:
            if not container.reachable:
                pytest.skip("needs root: a machine beside the host")
            yield container


def reaches(container: pc.Container, address: str, port: int) -> bool:
    script = f"import socket; socket.create_connection(({address!r}, {port}), 20).close()"
    return container.exec(["python3", "-c", script]).returncode == 0


def below() -> set[str]:
    """The names of the living processes below this one that are a way out, or guard one."""
    table = leaks.descendants(leaks.process_table()).values()
    alive = {entry.name for entry in table if entry.state not in "ZX"}
    return {
        name for name in alive if name.startswith(("pc-egress", "slirp4netns", "passt", "pasta"))
    }


def becomes(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_a_way_out(each_engine: pc.Engine, program: str, machine: pc.Container) -> None:
    with (
        each_engine.run("host:", ["sleep", "100"], egress=True, name="out") as out,
        each_engine.run("host:", ["sleep", "100"], name="in") as within,
    ):
        assert reaches(out, machine.ip, 8000)
        assert not reaches(within, machine.ip, 8000)
        assert "nameserver 10.0.2.3" in out.read_text("/etc/resolv.conf").splitlines()
        # The others of its network are reached as before, and it is no way out for them.
        result = within.exec(["getent", "hosts", "out"], text=True)
        assert result.stdout.split()[0] in (out.ip, out.ip6)
        assert within.exec(["python3", "-c", ROUTE_BY, out.ip, machine.ip]).returncode != 0


def test_the_hosts_loopback_device_stays_shut(each_engine: pc.Engine, program: str) -> None:
    gateways = (
        "import socket\n"
        "rows = [line.split() for line in open('/proc/net/route')][1:]\n"
        "print(*{socket.inet_ntoa(bytes.fromhex(row[2])[::-1]) for row in rows})"
    )
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as server6,
        each_engine.run("host:", ["sleep", "100"], egress=True) as container,
    ):
        addresses = container.exec(["python3", "-c", gateways], text=True, check=True).stdout
        for port in (server.getsockname()[1], server6.getsockname()[1]):
            for address in ("127.0.0.1", "10.0.2.2", "10.0.2.3", "::1", *addresses.split()):
                with contextlib.suppress(pc.WaitTimeoutError):
                    script = (
                        "import socket, sys; "
                        f"socket.create_connection(({address!r}, {port}), 0.5).close()"
                    )
                    container.exec(["python3", "-c", script])
        for listener in (server, server6):
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):  # nobody has come
                listener.accept()


def test_why_there_is_none(each_engine: pc.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The errno of what the processes around the program could not do is told."""
    if outside.way_out()[1]:
        pytest.skip(outside.way_out()[1])
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # as host root, the program is nobody
        program = Path(folder, "slirp4netns")
        program.write_text("no program")
        program.chmod(0o755)
        monkeypatch.setattr(shutil, "which", lambda name: str(program))
        with pytest.raises(pc.StartError, match="it ended: Exec format error; try") as caught:
            each_engine.run("host:", ["true"], egress=True)
        assert caught.value.errno == errno.ENOEXEC


def test_the_program_is_nobody_on_the_host(each_engine: pc.Engine, program: str) -> None:
    """It has the rights of the run's own root: as root of the host, those of its ids."""
    assert becomes(lambda: not below())  # those of other tests are still ending
    own, checked = os.readlink("/proc/self/ns/user"), 0
    with each_engine.run("host:", ["sleep", "100"], egress=True):
        for pid, entry in leaks.descendants(leaks.process_table()).items():
            if entry.name[:5] not in ("slirp", "passt", "pasta"):
                continue
            try:
                namespace, user = (
                    os.readlink(f"/proc/{pid}/ns/user"),
                    os.stat(f"/proc/{pid}").st_uid,
                )
            except FileNotFoundError:  # pasta has children that end at once
                continue
            assert namespace != own
            if each_engine.facts["identity"] == "root":
                assert user not in (0, os.getuid())
            checked += 1
    assert checked


def test_no_packet_is_forged(each_engine: pc.Engine, program: str) -> None:
    """Both programs carry one for 127.0.0.1 to the host's own loopback device."""
    code = "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)"
    with each_engine.run("host:", ["sleep", "100"], egress=True) as container:
        assert b"PermissionError" in container.exec(["python3", "-c", code]).stderr
    with each_engine.run("host:", ["sleep", "100"], egress=True, cap_add=["NET_RAW"]) as container:
        assert container.exec(["python3", "-c", code]).returncode == 0


@pytest.mark.needs("root")
def test_name_servers_are_included(
    tmp_path: Path, program: str, own_engine: Callable[..., pc.Engine], machine: pc.Container
) -> None:
    with pc.Engine(home=tmp_path / "other") as other:
        server = other.run(
            "host:", ["python3", "-c", NAME_SERVER], ready=pc.wait.file("/tmp/up"), ports=["53/udp"]
        )
        (tmp_path / "resolv.conf").write_text(f"nameserver {server.ip}\nsearch inner.test\n")
        # Of this process's own mount namespace, which the engine's processes are in as well.
        mount.mount(str(tmp_path / "resolv.conf"), "/etc/resolv.conf", None, mount.MS_BIND)
        try:
            with own_engine().run("host:", ["sleep", "100"], egress=True) as container:
                result = container.exec(["getent", "ahostsv4", "outside.test"], text=True)
                assert result.stdout.split()[:1] == ["192.0.2.77"], result.stderr
                assert "search inner.test" in container.read_text("/etc/resolv.conf")
        finally:
            subprocess.run(["umount", "/etc/resolv.conf"], check=True)


def test_it_ends_with_its_container(each_engine: pc.Engine, program: str) -> None:
    with each_engine.run("host:", ["sleep", "100"], egress=True):
        assert len(below()) >= 3
    assert not below()
    with each_engine.run("host:", ["true"], egress=True) as container:
        container.wait(60)  # with its program, not only with its removal
        assert becomes(lambda: not below())


def test_a_restart_has_it_again(
    each_engine: pc.Engine, program: str, machine: pc.Container
) -> None:
    with each_engine.run("host:", ["sleep", "100"], egress=True, init=True) as container:
        for _ in range(2):
            container.restart(timeout_s=0)
            assert reaches(container, machine.ip, 8000)


def test_it_ends_whoever_of_its_own_is_killed(each_engine: pc.Engine, program: str) -> None:
    for name in ("pc-egress", "pc-egress-init", "slirp4netns", "passt", "pasta"):
        with each_engine.run("host:", ["sleep", "100"], egress=True) as container:
            table = leaks.descendants(leaks.process_table())
            pids = [pid for pid, entry in table.items() if entry.name.split(".")[0] == name]
            if not pids:
                continue
            for pid in pids[:1]:
                os.kill(pid, signal.SIGKILL)
            assert becomes(lambda: not below()), name
            assert container.status == "running"


def test_without_a_way_out_there_is_a_reason(
    each_engine: pc.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        pc.StartError, match="'out' with egress=True: neither slirp4netns nor pasta is installed"
    ):
        each_engine.run("host:", ["true"], egress=True, name="out")


def test_a_program_that_fails_is_told(
    each_engine: pc.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/false")
    monkeypatch.setattr(outside, "TUN", "/dev/null")  # which every user may open
    with pytest.raises(pc.StartError, match="/bin/false could not connect the container"):
        each_engine.run("host:", ["true"], egress=True)
    assert becomes(lambda: not below())


def test_egress_needs_a_network() -> None:
    with pytest.raises(pc.SpecError, match="egress=True needs a network"):
        pc.ContainerSpec("host:", network=False, egress=True)


def test_containers_without_it_have_no_process_more(each_engine: pc.Engine) -> None:
    with each_engine.run("host:", ["sleep", "100"]):
        assert not below()


RUN = """
import sys
import pytest_containers as pc
from pytest_containers.engines.native import egress
egress.way_out = lambda: (sys.argv[3], "")
engine = pc.Engine(home=sys.argv[1], identity=sys.argv[2])
engine.run("host:", ["sleep", "100"], egress=True)
print("up", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("victim", ["main", "pc-launcher", "pc-supervisor", "pc-network"])
def test_it_ends_with_the_run(
    each_engine: pc.Engine, program: str, store_home: Path, victim: str
) -> None:
    identity = each_engine.facts["identity"]
    main = subprocess.Popen(
        [sys.executable, "-c", RUN, store_home, identity, program],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert main.stdout is not None
        assert main.stdout.readline() == "up\n"
        table = leaks.descendants(leaks.process_table())
        own = {pid for pid in table if _has_ancestor(pid, main.pid, table)}
        egress_pids = {pid for pid in own if table[pid].name.startswith(("pc-eg", "slirp", "pas"))}
        assert len(egress_pids) >= 3
        victims = [pid for pid in own if table[pid].name == victim] or [main.pid]
        os.kill(victims[0] if victim != "main" else main.pid, signal.SIGKILL)
        assert becomes(lambda: not _alive(egress_pids))
    finally:
        main.kill()
        main.communicate()


def _has_ancestor(pid: int, ancestor: int, table: dict[int, leaks.Process]) -> bool:
    while pid in table:
        pid = table[pid].parent
        if pid == ancestor:
            return True
    return False


def _alive(pids: set[int]) -> set[int]:
    table = leaks.process_table()
    return {pid for pid in pids if pid in table and table[pid].state not in "ZX"}
