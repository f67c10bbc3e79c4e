"""The process engine: addresses, confinement, and what is left after a SIGKILL."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.layouts import Layout, busybox, layer, member

import pytest_containers as pc
from pytest_containers.engines.choose import create_engine
from pytest_containers.engines.process import wire
from pytest_containers.engines.process.supervisor import Supervisor
from pytest_containers.linux import landlock
from pytest_containers.model.engine import Container, Engine

pytestmark = pytest.mark.skipif(not landlock.version(), reason="the kernel has no Landlock")

SLEEP = ["sleep", "1000"]
ends_storms = landlock.version() >= landlock.SIGNALS_SINCE
WITHIN_S = 1.0

# A daemon that has left its parents and its session, a System V segment, and in a storm more and
# more children.
LEAVES = """
import ctypes, os, sys, time
ctypes.CDLL(None).shmget(0, 4096, 0o1600)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            time.sleep(1000)
        os._exit(0)
    os.wait()
print("ready", flush=True)
end = time.monotonic() + 4
for _ in range(1500 if "storm" in sys.argv else 0):  # bounded, whatever becomes of the watchers
    try:
        if os.fork() == 0:
            time.sleep(max(end - time.monotonic(), 0))
            os._exit(0)
    except OSError:
        time.sleep(0.001)
time.sleep(1000)
"""
HOLDER = """
import sys, time
import pytest_containers as pc
from pytest_containers.engines.choose import create_engine
engine = create_engine("process", home=sys.argv[1])
assert engine.name == "process"
container = engine.run("host:", ["python3", "-c", *sys.argv[2:]], ready=pc.wait.log("ready"))
print(*engine.facts["pids"], *engine.facts["places"], flush=True)
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def engine(store_home: Path) -> Iterator[Engine]:
    with create_engine("process", home=store_home) as engine:
        assert engine.name == "process"  # others would not end a storm of forks
        yield engine


@pytest.fixture
def box(engine: Engine) -> Iterator[Container]:
    with engine.run("host:", SLEEP) as container:
        yield container


def python(container: Container, code: str, *arguments: str) -> str:
    result = container.exec(["python3", "-c", code, *arguments], text=True)
    return str(result.stdout or result.stderr.strip().splitlines()[-1]).strip()


# ----------------------------------------------------------------------------- addresses


@pytest.fixture
def postgres(engine: Engine) -> Callable[[str], pc.services.Postgres]:
    def start(name: str) -> pc.services.Postgres:
        return pc.services.Postgres(image="host:").start(engine, name=name, seed=_seed)

    return start


def _seed(db: pc.services.Postgres) -> None:
    db.sql("create table visit (name text)")


def test_two_servers_on_one_port(postgres: Callable[[str], pc.services.Postgres]) -> None:
    first, second = postgres("first"), postgres("second")
    with first.container, second.container:
        assert (first.port, second.port) == (5432, 5432)
        assert first.host != second.host
        first.sql("insert into visit values ('first')")
        assert second.sql("select count(*) from visit") == [["0"]]
        # By name, from one to the other, which sees who calls.
        ask = f"psql {first.internal_dsn} -Atc 'select inet_client_addr(), name from visit'"
        result = second.exec(["sh", "-c", ask], text=True, env={"PGHOST": ""})
        assert result.stdout == f"{second.host}|first\n"
        # In a container, localhost is the container itself.
        own = "psql postgresql://containers:containers@localhost -Atc 'select count(*) from visit'"
        assert second.exec(["sh", "-c", own], text=True).stdout == "0\n"


def test_a_server_of_the_machine_is_out_of_reach(box: Container) -> None:
    connect = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert "refused" in python(box, connect, "127.0.0.1", port)
        assert "refused" in python(box, connect, "127.0.0.53", port)
    assert "unreachable" in python(box, connect, "192.0.2.1", "80")


def test_a_port_of_the_machine_that_is_named(engine: Engine) -> None:
    connect = "import socket, sys; socket.create_connection(sys.argv[1:], 5); print('connected')"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with engine.run("host:", SLEEP, host_ports=[port]) as box:
            assert python(box, connect, "host.containers.internal", str(port)) == "connected"
            assert "refused" in python(box, connect, "host.containers.internal", "1")


def test_containers_of_other_networks_are_out_of_reach(engine: Engine, box: Container) -> None:
    serve = "import http.server as h; h.HTTPServer(('', 8000), h.SimpleHTTPRequestHandler)"
    command = ["python3", "-c", f"{serve}.serve_forever()"]
    connect = f"import socket; socket.create_connection(({'{!r}'}, 8000), 5); print('connected')"
    with engine.run("host:", command, ports=[8000], network=engine.create_network()) as other:
        assert "refused" in python(box, connect.format(other.ip))
        assert "connected" in python(other, connect.format(other.ip))


ECHO = """
import socket
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind(("", 9000))
while True:
    data, client = server.recvfrom(100)
    server.sendto(data + b" from " + client[0].encode(), client)
"""
ASK = """
import socket, sys
client = socket.socket(type=socket.SOCK_DGRAM)
client.settimeout(5)
for word in sys.argv[2:]:
    client.sendto(word.encode(), (sys.argv[1], 9000))
    print(client.recv(100).decode())
"""


def test_datagrams(engine: Engine, box: Container) -> None:
    with engine.run("host:", ["python3", "-c", ECHO], name="echo", ports=["9000/udp"]) as echo:
        assert python(box, ASK, "echo", "a", "b").split("\n") == [
            f"{word} from {box.ip}" for word in "ab"
        ]
        assert python(echo, ASK, "localhost", "c") == f"c from {echo.ip}"
        with echo.connect(9000, protocol="udp") as client:
            client.settimeout(5)
            client.send(b"d")
            assert client.recv(100) == b"d from 127.0.0.1"


def test_a_port_of_the_host(engine: Engine) -> None:
    serve = "import http.server as h; h.HTTPServer(('', 8000), h.SimpleHTTPRequestHandler)"
    command = ["python3", "-c", f"{serve}.serve_forever()"]
    with engine.run("host:", command, ports=[pc.Port(8000, host=0)]) as container:
        address = container.address(8000)
        assert address[0] == "127.0.0.1"
        with socket.create_connection(address, 5) as client:
            client.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            assert client.recv(8) == b"HTTP/1.0"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 5)


def test_nothing_else_can_bind_an_address(engine: Engine, box: Container) -> None:
    bind = "import socket, sys; socket.socket().bind((sys.argv[1], 0)); print('bound')"
    assert "bound" in python(box, bind, "127.0.0.1")
    assert "Cannot assign" in python(box, bind, "127.7.255.254")
    with engine.run("host:", SLEEP, network=False) as alone:
        assert "Cannot assign" in python(alone, bind, "127.0.0.1")


# --------------------------------------------------------------------------- confinement


def test_files_outside_are_neither_read_nor_written(box: Container, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    script = 'cat "$1"/secret; echo x > "$1"/new; echo x > /usr/new; ls "$1"; cat /etc/shadow'
    # The path is one of the machine's, so it is told in two words, which nothing replaces.
    command = ["sh", "-c", f'set -- "/""{str(tmp_path)[1:]}"; {script}']
    result = box.exec(command, text=True)
    assert result.stdout == ""
    assert result.stderr.count("Permission denied") + result.stderr.count("No such file") == 5
    assert os.listdir(tmp_path) == ["secret"]


def test_a_container_has_its_own_private_files(engine: Engine, box: Container) -> None:
    assert box.exec(["sh", "-c", "echo one > /tmp/file; cat /tmp/file"]).stdout == b"one\n"
    with engine.run("host:", SLEEP) as other:
        assert other.exec(["cat", "/tmp/file"]).returncode == 1
    assert box.read_text("/tmp/file") == "one\n"
    assert not os.path.exists("/tmp/file")


def test_logs_have_what_was_written_before_an_answer(engine: Engine) -> None:
    code = (
        "import socket, sys\n"
        "server = socket.create_server(('', 8000))\n"
        "client = server.accept()[0]\n"
        "while data := client.recv(10):\n"
        "    print(data.decode(), end=' ', flush=True)\n"
        "    client.sendall(data)\n"
    )
    with engine.run("host:", ["python3", "-c", code], ports=[8000]) as server:
        with server.connect(8000) as client:
            for number in range(200):
                client.sendall(b"%03d" % number)
                assert client.recv(10) == b"%03d" % number
                assert server.logs().stdout.split()[-1] == f"{number:03d}"


def test_links_do_not_lead_the_test_out(box: Container, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    # In two words, which nothing replaces.
    make = f'ln -s "/""{str(tmp_path)[1:]}"/secret /tmp/link'
    box.exec(["sh", "-c", make], check=True)
    for access in (box.read_text, lambda path: box.write_text(path, "changed")):
        with pytest.raises(pc.ContainersError, match="outside of the container"):
            access("/tmp/link")
    assert (tmp_path / "secret").read_text() == "secret"


def test_signals_stay_inside(engine: Engine, box: Container) -> None:
    if landlock.version() < 6:
        pytest.skip("the kernel cannot confine signals: it takes Linux 6.12")
    with engine.run("host:", SLEEP) as other:
        for pid in (other.pid, os.getpid(), engine.facts["pids"][0]):
            result = box.exec(["sh", "-c", f"kill -CONT {pid}"], text=True)
            assert "not permitted" in result.stderr
        assert box.exec(["sh", "-c", f"kill -CONT {box.pid}"]).returncode == 0


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"mem_limit": "64m"}, "mem_limit="),
        ({"read_only": True}, "read_only="),
        ({"pids_limit": 5}, "pids_limit="),
        ({"privileged": True}, "privileged="),
        ({"hostname": "other"}, "hostname="),
    ],
)
def test_what_it_cannot_do_is_refused(
    engine: Engine, options: dict[str, object], name: str
) -> None:
    with pytest.raises(pc.UnsupportedError, match=f"'process' does not support {name}.*'native'"):
        engine.run("host:", SLEEP, **options)


# --------------------------------------------------------------------------------- the end


def _alive(token: str) -> list[int]:
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes()
            state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if token.encode() in words and b"HOLDER" not in words and state not in "ZX":
            found.append(int(name))
    return found


def _segments() -> set[str]:
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return {line.split()[1] for line in lines}


def _gone(what: Callable[[], object], within_s: float = WITHIN_S) -> bool:
    limit = time.monotonic() + within_s
    while time.monotonic() < limit:
        if not what():
            return True
        time.sleep(0.01)
    return not what()


@pytest.mark.parametrize("at_once", [True, False])
def test_a_container_that_is_dropped_before_it_began(tmp_path: Path, at_once: bool) -> None:
    """Its channel is closed, and must not be waited for: the run would end with an error."""
    engine, to_engine = wire.pair()
    guardian, to_guardian = wire.pair()
    supervisor = Supervisor(engine, guardian, [str(tmp_path)])
    facts = {"key": "a", "address": "", "network": None, "view": {}}
    thread = threading.Thread(target=supervisor.serve, daemon=True)

    def drop() -> None:
        wire.send(to_engine, {"op": "drop", "key": "a"})

    with to_engine, to_guardian:
        wire.send(to_engine, {"op": "create", **facts})
        if at_once:
            drop()
        thread.start()
        view = wire.receive(to_guardian)
        assert view is not None
        if not at_once:
            drop()
        answer = wire.receive(to_engine)
        assert answer is not None and answer.fields["dropped"] == "a"
        wire.send(to_engine, {"op": "network", "network": "n", "parents": []})
        wire.send(to_engine, {"op": "drop", "key": "unknown"})
        answer = wire.receive(to_engine)
        assert answer is not None and answer.fields["dropped"] == "unknown"
        for fd in view.fds:
            os.close(fd)
    thread.join(10)
    assert not thread.is_alive()
    engine.close()
    guardian.close()


@pytest.mark.parametrize("storm", ["calm", "storm"])
@pytest.mark.parametrize("victim", ["pytest", "supervisor", "guardian"])
def test_nothing_is_left_after_a_sigkill(victim: str, storm: str, store_home: Path) -> None:
    if storm == "storm" and not ends_storms:
        pytest.skip("the kernel cannot confine signals: it takes Linux 6.12")
    token, before = uuid.uuid4().hex, _segments()
    command = [sys.executable, "-c", HOLDER, str(store_home), LEAVES, token, storm]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            supervisor, guardian, *places = holder.stdout.readline().split()
            if storm == "storm":
                time.sleep(0.2)
            assert _gone(lambda: len([pid for pid in _alive(token) if pid != holder.pid]) < 4), (
                f"holder: {holder.poll()}, run: {_alive(str(store_home))}, container: {_alive(token)}"
            )
            assert len(_segments() - before) >= 1
            victims = {"pytest": holder.pid, "supervisor": supervisor, "guardian": guardian}
            os.kill(int(victims[victim]), signal.SIGKILL)
            assert _gone(lambda: [pid for pid in _alive(token) if pid != holder.pid])
            assert _gone(lambda: _segments() - before)
            assert _gone(lambda: [place for place in places if os.path.exists(place)])
            for watcher in (supervisor, guardian):
                assert _gone(lambda pid=watcher: os.path.exists(f"/proc/{pid}/exe"))
        finally:
            holder.kill()


def test_a_killed_watcher_is_told(store_home: Path) -> None:
    with create_engine("process", home=store_home) as engine:
        container = engine.run("host:", SLEEP)
        os.kill(engine.facts["pids"][1], signal.SIGKILL)
        with pytest.raises(pc.RunLostError):
            container.wait(60)
        assert engine.lost is not None
        with pytest.raises(pc.RunLostError):
            engine.run("host:", SLEEP)


@pytest.mark.skipif(not ends_storms, reason="the kernel cannot confine signals")
def test_a_storm_of_forks_is_ended(engine: Engine) -> None:
    token = uuid.uuid4().hex
    container = engine.run(
        "host:", ["python3", "-c", LEAVES, token, "storm"], ready=pc.wait.log("ready")
    )
    assert container.wait(60) == 137
    assert not _alive(token)
    container.remove()
    with engine.run("host:", ["echo", "on"]) as other:
        assert other.wait(60) == 0


def test_the_end_of_the_program_takes_its_daemons_along(engine: Engine) -> None:
    token = uuid.uuid4().hex
    command = ["python3", "-c", LEAVES.removesuffix("time.sleep(1000)\n") + "sys.exit(5)", token]
    before = _segments()
    with engine.run("host:", command) as container:
        assert container.wait(60) == 5
        assert not _alive(token)
    assert _segments() == before


def test_the_end_of_one_container_leaves_programs_of_others_alone(engine: Engine) -> None:
    """The guardian looks for what an ended init has left while others fork."""
    forks = "echo ready; while [ ! -e /tmp/end ]; do /bin/true || echo died $?; done"
    with engine.run("host:", ["sh", "-c", forks], ready=pc.wait.log("ready")) as box:
        for _ in range(30):
            engine.run("host:", ["true"]).remove()
        box.write_text("/tmp/end", "")
        assert box.wait(10) == 0
        assert box.logs().stdout == "ready\n"


# --------------------------------------------------------------------------------- images


@pytest.mark.needs("root")
class TestImages:
    @pytest.fixture
    def image(self, layout: Layout) -> str:
        accounts = member("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/sh\n")
        files = [accounts, member("gone", b"lower"), member("kept", b"kept\n")]
        names = ("sleep", "cat", "chroot", "grep", "id", "ln", "ls", "mknod", "touch")
        lower = layer([*busybox(*names), *files])
        upper = layer([member(".wh.gone", b"")])
        return layout.image([lower, upper], {"Cmd": ["sleep", "1000"], "Env": ["NAME=value"]})

    def test_its_files_are_those_of_the_layers(self, engine: Engine, image: str) -> None:
        with engine.run(image) as box:
            script = "cat /kept; echo $NAME; ls /gone; id -u; touch /new && ls -a / | grep -c new"
            result = box.exec(["sh", "-c", script], text=True)
            assert result.stdout == "kept\nvalue\n0\n1\n", result.stderr
            assert box.exec(["id", "-u"], user="web", text=True).stdout == "33\n"
            assert box.read_text("/kept") == "kept\n"
            with engine.run(image) as other:
                assert other.exec(["ls", "/new"]).returncode != 0

    def test_names_are_in_its_hosts(self, engine: Engine, image: str) -> None:
        with (
            engine.run(image, name="db", aliases=["database"]) as db,
            engine.run(image, name="app") as app,
        ):
            assert f"{db.ip} db database\n" in app.read_text("/etc/hosts")
        with engine.run(image, name="app", network=engine.create_network()) as stranger:
            assert "db" not in stranger.read_text("/etc/hosts")

    def test_nothing_leads_out_of_the_tree(
        self, engine: Engine, image: str, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_text("secret")
        with engine.run(image) as box:
            script = f"ls -d {tmp_path}; cat /proc/1/status; chroot / true; mknod /device c 1 1"
            result = box.exec(["sh", "-c", script], text=True)
            assert result.stdout == ""
            box.exec(["ln", "-s", "/etc/passwd", "/link"], check=True)
            assert "web" in box.read_text("/link")
            box.exec(["ln", "-s", str(tmp_path), "/folder"], check=True)
            with pytest.raises(pc.ContainersError, match="No such file"):
                box.write_text("/folder/new", "")
            assert not (tmp_path / "new").exists()

    def test_a_snapshot_is_an_image(self, engine: Engine, image: str) -> None:
        with engine.run(image) as box:
            box.write_text("/state", "frozen")
            with box.clone() as clone:
                assert clone.read_text("/state") == "frozen"
                assert clone.exec(["cat", "/kept"]).stdout == b"kept\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root has images")
def test_an_ordinary_user_has_no_images(engine: Engine) -> None:
    with pytest.raises(pc.UnsupportedError, match="image 'a:1' for an ordinary user.*'native'"):
        engine.run("a:1")
