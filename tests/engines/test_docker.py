"""What is particular to the docker engine: endpoints, the end of a run, what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from helpers import dockerd, leaks
from helpers.layouts import Layout, busybox, layer

import pytest_containers as pc
from pytest_containers.engines.choose import create_engine
from pytest_containers.engines.docker import DockerEngine
from pytest_containers.engines.docker.connection import Demultiplexer
from pytest_containers.engines.docker.endpoint import DockerEndpoint, find_endpoint
from pytest_containers.engines.docker.images import DockerImage
from pytest_containers.engines.docker.listening import is_outside, open_ports
from pytest_containers.images.image import Image
from pytest_containers.linux import landlock
from pytest_containers.model.engine import Engine
from pytest_containers.model.image import ImageConfig

RUN_LABEL = "io.github.pytest-containers.run"
SERVER = (
    "import http.server as h; h.ThreadingHTTPServer(('', 8000), h.SimpleHTTPRequestHandler)"
    ".serve_forever()"
)


def docker(test: Callable[..., object]) -> Callable[..., object]:
    """Of a test with a daemon: those take long, and run on the newest Python only."""
    return pytest.mark.slow(pytest.mark.needs("docker", "root")(test))


@pytest.fixture(scope="module")
def engine(
    daemon: dockerd.Daemon, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerEngine]:
    """An engine that publishes all ports, as for a daemon on another machine."""
    home = tmp_path_factory.mktemp("docker")
    with daemon.entered(), DockerEngine(endpoint=daemon.url, home=home, direct=False) as engine:
        yield engine


# ---------------------------------------------------------------------------- endpoints


def test_the_endpoint_of_the_environment(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert find_endpoint({**home, "DOCKER_HOST": "tcp://h:1"}).url == "tcp://h:1"
    assert find_endpoint({**home, "DOCKER_HOST": "/run/a.sock"}).url == "unix:///run/a.sock"
    over_ssh = find_endpoint({**home, "DOCKER_HOST": "ssh://me@h:7"})
    assert (over_ssh.user, over_ssh.host, over_ssh.port) == ("me", "h", 7)
    tls = {"DOCKER_HOST": "tcp://h", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/c"}
    endpoint = find_endpoint({**home, **tls})
    assert (endpoint.tls, endpoint.port, endpoint.ca) == (True, 2376, "/c/ca.pem")
    with pytest.raises(pc.SettingsError, match="DOCKER_HOST: 'ftp://h' is not an address"):
        find_endpoint({**home, "DOCKER_HOST": "ftp://h"})


def test_the_endpoint_of_a_context(tmp_path: Path) -> None:
    from hashlib import sha256

    folder = tmp_path / ".docker" / "contexts" / "meta" / sha256(b"far").hexdigest()
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"Endpoints": {"docker": {"Host": "ssh://far"}}}))
    home = {"HOME": str(tmp_path)}
    assert find_endpoint({**home, "DOCKER_CONTEXT": "far"}).url == "ssh://far"
    (tmp_path / ".docker" / "config.json").write_text('{"currentContext": "far"}')
    assert find_endpoint(home).url == "ssh://far"
    with pytest.raises(pc.SettingsError, match="no context 'near'"):
        find_endpoint({**home, "DOCKER_CONTEXT": "near"})


def answering(answer: bytes) -> Iterator[str]:
    """Serve one answer at a port, whatever is asked."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            try:
                while True:
                    client, _ = server.accept()
                    client.recv(4096)
                    client.sendall(answer)
                    client.close()
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n" + b'{"ApiVersion": "1.24"}', "too old.*1.24.*1.40"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"{}", "no Docker API"),
        (b"SSH-2.0-OpenSSH\r\n", "without an answer of HTTP|does not speak HTTP"),
        (
            b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
            "speaks TLS: set DOCKER_TLS_VERIFY=1",
        ),
    ],
)
def test_an_endpoint_that_is_none(answer: bytes, words: str) -> None:
    for url in answering(answer):
        with DockerEngine(endpoint=url) as engine:
            with pytest.raises(pc.UnsupportedError, match=words):
                engine.start()


def test_an_endpoint_where_nobody_is() -> None:
    for url, words in (
        ("unix:///nowhere/docker.sock", "nothing listens there: start Docker, or set DOCKER_HOST"),
        ("tcp://127.0.0.1:1", "nothing listens there"),
        ("ssh://nobody@127.0.0.1:1", "ssh failed"),
    ):
        with DockerEngine(endpoint=url) as engine:
            with pytest.raises(pc.UnsupportedError, match=words):
                engine.start()


def test_a_tls_endpoint_that_is_not_to_trust(tmp_path: Path) -> None:
    import ssl

    import trustme

    authority, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    other.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                try:
                    context.wrap_socket(client, server_side=True)
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        endpoint = DockerEndpoint(url, ca=str(tmp_path / "ca.pem"), tls=True)
        with DockerEngine(endpoint=endpoint) as engine:
            with pytest.raises(pc.UnsupportedError, match="certificate is not one to trust"):
                engine.start()
        thread.join(10)


@docker
def test_a_daemon_that_does_not_trust_this_client(daemon: dockerd.Daemon) -> None:
    endpoint = DockerEndpoint(daemon.tls_url, ca=str(daemon.work / "ca.pem"), tls=True)
    with daemon.entered(), DockerEngine(endpoint=endpoint) as engine:
        with pytest.raises(pc.UnsupportedError, match="TLS failed|trust the certificate of this"):
            engine.start()


# ------------------------------------------------------------------------- small parts


def test_listening_sockets_by_the_tables_of_the_kernel() -> None:
    tables = (
        "= tcp\n  sl  local_address rem_address   st\n"
        "   0: 0100007F:1538 00000000:0000 0A 00000000:00000000\n"
        "   1: 00000000:1F40 00000000:0000 0A 00000000:00000000\n"
        "   2: 00000000:0050 0100007F:9999 01 00000000:00000000\n"
        "= udp6\n  sl  local_address rem_address   st\n"
        "   0: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07\n"
    )
    found = open_ports(tables)
    assert found == {
        (5432, "tcp"): {"127.0.0.1"}, (8000, "tcp"): {"0.0.0.0"}, (53, "udp"): {"::"},
    }  # fmt: skip
    assert [is_outside(one) for one in ("127.0.0.1", "::1", "0.0.0.0", "::")] == [
        False, False, True, True,
    ]  # fmt: skip


def test_frames_that_come_in_parts() -> None:
    frames = Demultiplexer()
    data = b"\1\0\0\0\0\0\0\3out\2\0\0\0\0\0\0\3err"
    found = [each for index in range(len(data)) for each in frames.feed(data[index : index + 1])]
    assert found == [(1, b"out"), (2, b"err")]


# ------------------------------------------------------------------------- containers


@docker
def test_published_ports(engine: DockerEngine) -> None:
    with engine.run(dockerd.IMAGE, ["python3", "-c", SERVER], ports=[8000]) as container:
        host, port = container.address(8000)
        assert (host, container.host) == ("127.0.0.1", "127.0.0.1")
        with socket.create_connection((host, port), 10) as client:
            client.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            assert client.recv(64).startswith(b"HTTP/1.0 200")
        with pytest.raises(pc.SpecError, match=r"list it, ports=\[80\]"):
            container.address(80)
        container.restart()
        container.wait_ready()
        assert container.address(8000) == (host, port)


@docker
def test_a_fixed_port_that_is_taken(engine: DockerEngine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(pc.StartError, match=f"port {port} is in use") as caught:
            engine.run(dockerd.IMAGE, ["sleep", "1000"], ports=[f"{port}:80"])
        assert caught.value.port == port


@docker
def test_options(engine: DockerEngine, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("bound\n")
    with engine.run(
        dockerd.IMAGE, ["sleep", "1000"], env={"A": "b"}, user="1000", workdir="/tmp/deep",
        hostname="box.example", mem_limit="64m", pids_limit=50, cpus=0.5, init=True,
        cap_drop=["ALL"], no_new_privileges=True, ulimits={"nofile": (100, 200)}, shm_size="8m",
        mounts=[pc.Bind(tmp_path, "/bound", True), pc.Tmpfs("/scratch", size_bytes=1 << 20)],
    ) as container:  # fmt: skip
        # Not the soft limit: a runc of Go 1.19 and later may raise it for an exec.
        script = "echo $A; id -u; pwd; cat /bound/file; ulimit -Hn; cat /proc/sys/kernel/hostname"
        shown = container.exec(["sh", "-c", script], text=True).stdout
        assert shown.split() == ["b", "1000", "/tmp/deep", "bound", "200", "box.example"]
        assert "CapEff:\t0000000000000000" in container.read_text("/proc/self/status")
        stats = container.stats()
        assert (stats.memory_limit_bytes, stats.pids_limit) == (64 << 20, 50)
        container.write_text("/scratch/note", "in memory")
        assert container.read_text("/scratch/note") == "in memory"


@docker
@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"host_ports": [80]}, "host_ports"),
        ({"scratch": "tmpfs"}, "scratch='tmpfs'"),
        ({"scratch_size_bytes": 1 << 20}, "scratch_size_bytes"),
        ({"egress": False}, "egress=False"),
    ],
)
def test_options_that_it_does_not_have(
    engine: DockerEngine, options: dict[str, object], word: str
) -> None:
    with pytest.raises(pc.UnsupportedError, match=f"no option {word}.*'native'"):
        engine.run(dockerd.IMAGE, ["true"], **options)


@docker
def test_what_is_not_there(engine: DockerEngine) -> None:
    with pytest.raises(pc.UnsupportedError, match="'host:'.*use engine 'native'"):
        engine.image("host:")
    with pytest.raises(pc.ImageNotFoundError, match="containers_pull is 'never'"):
        engine.image("no-such-image:1", pull="never")
    with pytest.raises(pc.StartError, match="bind mount /no/such: it does not exist") as caught:
        engine.run(dockerd.IMAGE, ["true"], mounts=[pc.Bind("/no/such", "/a")])
    assert caught.value.source == "/no/such"
    with pytest.raises(pc.StartError, match="no user 'nobody-here'"):
        engine.run(dockerd.IMAGE, ["true"], user="nobody-here")
    with pytest.raises(pc.StartError) as failed:
        engine.run(dockerd.IMAGE, ["/etc/passwd"])
    assert failed.value.exit_code == 126


@docker
@pytest.mark.long
def test_a_program_that_runs_out_of_time_is_killed(engine: DockerEngine) -> None:
    with engine.run(dockerd.IMAGE, ["sleep", "1000"]) as container:
        with pytest.raises(pc.WaitTimeoutError) as caught:
            container.exec(["sh", "-c", "echo begun; sleep 500"], timeout_s=3, text=True)
        assert caught.value.stdout == "begun\n"
        end = time.monotonic() + 20
        while b"500" in container.exec(["sh", "-c", "cat /proc/*/cmdline"]).stdout:
            assert time.monotonic() < end


@pytest.mark.slow
@docker
@pytest.mark.long
def test_images_of_layouts_and_archives(
    engine: DockerEngine, daemon: dockerd.Daemon, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "layout").image(
        [layer(busybox())], {"Cmd": ["/bin/sh", "-c", "echo hi"]}
    )
    daemon.call("save", "--output", str(tmp_path / "saved.tar"), dockerd.IMAGE)
    (tmp_path / "root.tar").write_bytes(layer(busybox()))
    for name, command in (
        (layout, None),
        (f"docker-archive:{tmp_path}/saved.tar", ["echo", "hi"]),
        (f"rootfs:{tmp_path}/root.tar", ["/bin/sh", "-c", "echo hi"]),
    ):
        with engine.run(name, command) as container:
            assert container.wait(60) == 0
            assert str(container.logs()) == "hi\n"
            assert container.image.name == name


@pytest.mark.long
@docker
def test_states_hold_what_is_in_volumes(engine: DockerEngine, tmp_path: Path) -> None:
    dockerfile = f'FROM {dockerd.IMAGE}\nVOLUME /data\nCMD ["sleep", "1000"]\n'
    (tmp_path / "Dockerfile").write_text(dockerfile)
    base, key = engine.build(tmp_path), os.urandom(32).hex()
    with engine.run(base, init=True) as container:
        container.exec(["sh", "-c", "echo seeded > /data/file; echo beside > /beside"], check=True)
        container.stop()
        state = engine.states.keep(key, base, container.freeze, {"label": 'a "$b"\\ c'})
    assert [each.facts for each in engine.states.candidates(key)] == [{"label": 'a "$b"\\ c'}]
    image = engine.states.image(base, state)
    assert image is not None and image.base_id == base.id
    with engine.run(image, ["cat", "/data/file", "/beside"]) as container:
        container.wait(60)
        assert str(container.logs()) == "seeded\nbeside\n"
    engine.states.drop([state])


VOLUME = "/var/lib/postgresql/data"


@pytest.mark.parametrize(
    ("kind", "user", "env", "expected"),
    [
        (DockerImage, "", {}, "/var/lib/own-postgresql/data"),
        (DockerImage, "", {"PGDATA": VOLUME}, VOLUME),
        (DockerImage, "999", {}, VOLUME),  # it may make no directory
        (DockerImage, "", {"PGDATA": "/data"}, "/data"),
        (partial(Image, layers=()), "", {}, VOLUME),
    ],
    ids=["", "asked for", "of a user", "elsewhere", "native"],
)
def test_data_of_postgresql_is_not_copied_into_a_volume_by_each_start(
    kind: Callable[..., pc.Image], user: str, env: dict[str, str], expected: str
) -> None:
    config = ImageConfig(
        entrypoint=("docker-entrypoint.sh",), user=user, env={"PGDATA": VOLUME}, volumes=(VOLUME,)
    )
    image = kind(id="sha256:0", name="postgres", config=config)
    service = pc.services.Postgres(image="postgres", env=env)
    spec = service.serve(image)
    command = list(spec.command or ())
    assert command[command.index("-D") + 1] == expected == spec.env["PGDATA"]
    (stage,) = service.prepare(image)
    assert stage.spec.env["PGDATA"] == expected


@pytest.mark.parametrize(
    ("kind", "entrypoint", "arguments", "expected"),
    [
        (DockerImage, ("docker-entrypoint.sh",), [], "/var/lib/own-mysql"),
        (DockerImage, (), [], "/var/lib/own-mysql"),
        (DockerImage, (), ["--datadir=/data"], "/data"),
        (DockerImage, ("docker-entrypoint.sh",), ["--datadir", "/data"], "/data"),
        (DockerImage, (), ["-h/x", "-h", "/data"], "/data"),
        (partial(Image, layers=()), (), [], "/var/lib/mysql"),
    ],
    ids=["", "packaged", "asked for", "as two words", "in short", "native"],
)
def test_data_of_mariadb_are_not_copied_into_a_volume_by_each_start(
    kind: Callable[..., pc.Image], entrypoint: tuple[str, ...], arguments: list[str], expected: str
) -> None:
    config = ImageConfig(entrypoint=entrypoint, volumes=("/var/lib/mysql",))
    image = kind(id="sha256:0", name="mariadb", config=config)
    service = pc.services.MariaDB(image="mariadb", arguments=arguments)
    specs = [service.serve(image)]
    if entrypoint:
        specs.append(service.prepare(image)[0].spec)
    for spec in specs:
        assert f"--datadir={expected}" in (spec.command or ())


# ----------------------------------------------------------------------- the end of a run


@docker
def test_it_ends_at_once_where_a_state_of_volumes_stays(
    daemon: dockerd.Daemon, tmp_path: Path
) -> None:
    """What the state was made of cannot be removed, and is none of what is left."""
    (tmp_path / "Dockerfile").write_text(f'FROM {dockerd.IMAGE}\nVOLUME /data\nCMD ["true"]\n')
    others = watchers_of(os.getpid())
    with daemon.entered():
        with DockerEngine(endpoint=daemon.url, home=tmp_path / "home") as engine:
            base, key = engine.build(tmp_path), os.urandom(32).hex()
            with engine.run(base, wait_ready=False) as container:
                container.wait(60)
                state = engine.states.keep(key, base, container.freeze, {})
            assert watchers_of(os.getpid()) > others
        assert watchers_of(os.getpid()) == others
        with DockerEngine(endpoint=daemon.url, home=tmp_path / "home") as engine:
            assert engine.states.candidates(key) == [state]
            engine.states.drop([state])


def watchers_of(pid: int) -> set[int]:
    """Return the processes that remove what a process leaves in a daemon."""
    return {
        number
        for number, process in leaks.process_table().items()
        if process.parent == pid and b"docker.reaper" in cmdline(number)
    }


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def left(daemon: dockerd.Daemon, run: str) -> str:
    """Return what is in the daemon of a run."""
    label = f"--filter=label={RUN_LABEL}={run}"
    kinds = (
        ("ps", "--all", "--quiet"), ("network", "ls", "--quiet"), ("volume", "ls", "--quiet"),
        ("images", "--all", "--quiet"),
    )  # fmt: skip
    return "".join(daemon.call(*kind, label) for kind in kinds)


@docker
def test_nothing_is_left_after_sigkill_and_other_runs_are_not_touched(
    engine: DockerEngine, daemon: dockerd.Daemon, tmp_path: Path
) -> None:
    script = f"""
import sys, time
from pytest_containers.engines.docker import DockerEngine
engine = DockerEngine(endpoint={daemon.url!r}, home={str(tmp_path)!r})
engine.create_volume()
box = engine.run({dockerd.IMAGE!r}, ["sleep", "1000"])
box.snapshot()
print(engine.facts["run"], flush=True)
time.sleep(1000)
"""
    with engine.run(dockerd.IMAGE, ["sleep", "1000"]) as other:
        killed = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert killed.stdout is not None
        run = killed.stdout.readline().strip()
        assert run and left(daemon, run)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        killed.stdout.close()
        end = time.monotonic() + 20
        while left(daemon, run):
            assert time.monotonic() < end, left(daemon, run)
            time.sleep(0.1)
        assert other.status == "running"


@docker
@pytest.mark.long
def test_nothing_is_left_when_it_is_closed(daemon: dockerd.Daemon, tmp_path: Path) -> None:
    with daemon.entered():
        with DockerEngine(endpoint=daemon.url, home=tmp_path) as engine:
            engine.run(dockerd.IMAGE, ["sleep", "1000"]).snapshot()
            engine.create_volume()
            run = engine.facts["run"]
            assert left(daemon, run)
    assert not left(daemon, run)


@pytest.mark.slow
@docker
@pytest.mark.long
def test_a_daemon_that_ends_in_mid_test(tmp_path: Path) -> None:
    with (
        dockerd.apart() as daemon,
        daemon.entered(),
        DockerEngine(endpoint=daemon.url, home=tmp_path) as engine,
    ):
        container = engine.run(dockerd.IMAGE, ["sleep", "1000"], init=True)
        waiting = threading.Thread(target=container.wait)  # it is told of the end, or of the loss
        waiting.start()
        daemon.stop()
        waiting.join(30)
        assert not waiting.is_alive()
        with pytest.raises(pc.RunLostError, match="does not answer any more"):
            container.exec(["true"])
        assert isinstance(engine.lost, pc.RunLostError)
        with pytest.raises(pc.RunLostError):
            engine.run(dockerd.IMAGE, ["true"])
        run = engine.facts["run"]
        daemon.start()
        engine.close()
        assert not left(daemon, run)


# -------------------------------------------------------------------------------- choice


@docker
def test_auto_takes_docker_where_containers_cannot_run(
    daemon: dockerd.Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_containers.engines import choose, possible

    monkeypatch.setattr(possible, "why_not", lambda: "Operation not permitted")
    monkeypatch.setenv("DOCKER_HOST", daemon.url)
    choose._first_that_works.cache_clear()
    try:
        engine: Engine = create_engine("auto")
        assert engine.name == "docker"
        engine.close()
        choose._first_that_works.cache_clear()
        monkeypatch.setenv("DOCKER_HOST", "unix:///no/such.sock")
        monkeypatch.setattr(landlock, "version", lambda: 7)
        assert choose.engine_for("auto") == "process"
        choose._first_that_works.cache_clear()
        monkeypatch.setattr(landlock, "version", lambda: 0)
        with pytest.raises(pc.UnsupportedError, match="Operation not permitted.*no Docker daemon"):
            create_engine("auto")
    finally:
        choose._first_that_works.cache_clear()


def test_auto_takes_native_where_containers_run() -> None:
    from pytest_containers.engines.possible import why_not

    assert why_not() == ""
    with create_engine("auto") as engine:
        assert engine.name == "native"


def test_an_engine_that_does_not_exist() -> None:
    with pytest.raises(
        pc.SettingsError, match="no engine 'podman'; there are native, docker, process, auto"
    ):
        create_engine("podman")


@pytest.mark.slow
@docker
def test_more_networks_than_the_daemon_has_addresses_for(engine: DockerEngine) -> None:
    networks = [engine.create_network() for _ in range(40)]
    try:
        with engine.run(dockerd.IMAGE, ["sleep", "1000"], network=networks[-1], name="last") as box:
            assert box.ip.startswith("10.")
            assert box.exec(["getent", "hosts", "last"]).returncode == 0
    finally:
        for network in networks:
            network.remove(wait=False)


def until_it_listens(port: int) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.fixture
def ssh_alias(
    daemon: dockerd.Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A name of `ssh` that leads to a server on this machine, whose Docker is the daemon."""
    for name in ("host", "own"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name]
        subprocess.run(command, check=True)
    separate = Path("/run/sshd")  # what it is without privileges, until a key is accepted
    made = not separate.exists()
    separate.mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    server = [
        "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-h", str(tmp_path / "host"),
        "-o", f"ListenAddress=127.0.0.1:{port}", "-o", "PidFile=none", "-o", "UsePAM=no",
        "-o", f"AuthorizedKeysFile={tmp_path / 'own.pub'}", "-o", "StrictModes=no",
        "-o", f"SetEnv=DOCKER_HOST={daemon.url}",
    ]  # fmt: skip
    config = tmp_path / "config"
    config.write_text(
        f"Host alias\n HostName 127.0.0.1\n Port {port}\n IdentityFile {tmp_path / 'own'}\n"
        f" UserKnownHostsFile {tmp_path / 'known'}\n StrictHostKeyChecking accept-new\n"
    )
    program = tmp_path / "bin" / "ssh"  # OpenSSH takes the home directory of the account
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {config} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with daemon.entered(), subprocess.Popen(server, stderr=subprocess.DEVNULL) as process:
        try:
            until_it_listens(port)
            yield "alias"
        finally:
            process.terminate()
            if made:
                separate.rmdir()


@docker
@pytest.mark.needs("openssh")
@pytest.mark.long
def test_a_daemon_by_ssh(daemon: dockerd.Daemon, tmp_path: Path, ssh_alias: str) -> None:
    """Through OpenSSH, its configuration and keys, to the program that Docker runs there."""
    with (
        DockerEngine(endpoint=f"ssh://root@{ssh_alias}", home=tmp_path) as engine,
        engine.run(dockerd.IMAGE, ["python3", "-c", SERVER], ports=[8000]) as container,
    ):
        assert container.address(8000)[0] == "127.0.0.1"
        assert container.exec(["cat"], input="through", text=True).stdout == "through"
        container.write_text("/srv/file", "copied")
        assert container.read_text("/srv/file") == "copied"
        run = engine.facts["run"]
        assert left(daemon, run)
    assert not left(daemon, run)


@docker
@pytest.mark.needs("openssh")
@pytest.mark.long
def test_keys_that_ssh_does_not_take(tmp_path: Path, ssh_alias: str) -> None:
    (tmp_path / "own.pub").write_text("")
    with (
        DockerEngine(endpoint=f"ssh://root@{ssh_alias}", home=tmp_path) as engine,
        pytest.raises(pc.UnsupportedError, match="ssh failed: .*Permission denied"),
    ):
        engine.start()


INSIDE = """
import socket, sys
from pytest_containers.engines.docker import DockerEngine
server = (
    "import http.server as h; h.ThreadingHTTPServer(('', 8000), h.SimpleHTTPRequestHandler)"
    ".serve_forever()"
)
with DockerEngine(home="/tmp/home") as engine:
    with engine.run(sys.argv[1], ["python3", "-c", server], ports=[8000]) as container:
        assert container.address(8000) == (container.ip, 8000), container.address(8000)
        with socket.create_connection(container.address(8000), 10) as client:
            client.sendall(b"HEAD / HTTP/1.0\\r\\n\\r\\n")
            print(client.recv(64).splitlines()[0].decode())
    print(engine.facts["run"])
"""


@pytest.mark.slow
@docker
@pytest.mark.long
def test_tests_that_run_in_a_container_of_the_daemon(daemon: dockerd.Daemon) -> None:
    """They reach the address of the container, since their own joins its network."""
    places = {"/usr", "/lib", sys.base_prefix, sys.prefix, *filter(os.path.isdir, sys.path)}
    places.add(str(Path(pc.__file__).parents[1]))
    code = daemon.work / "inside.py"
    code.write_text(INSIDE)
    shown = daemon.call(
        "run", "--rm", f"--volume={daemon.work}/s:/var/run/docker.sock",
        f"--volume={code}:/inside.py:ro", *(f"--volume={place}:{place}:ro" for place in places),
        f"--env=PYTHONPATH={':'.join(filter(os.path.isdir, sys.path))}", dockerd.IMAGE,
        os.path.realpath(sys.executable), "/inside.py", dockerd.IMAGE,
    )  # fmt: skip
    answer, run = shown.splitlines()
    assert answer == "HTTP/1.0 200 OK"
    assert not left(daemon, run)
