"""What `model.engine` promises, tried on every engine."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest
from helpers.oci import write_root

import pytest_containers as pc
from pytest_containers.model import engine as contract
from pytest_containers.model.capabilities import ENGINES, Capability, require
from pytest_containers.model.engine import Container, Engine
from pytest_containers.model.reports import Warmup

SERVER = (
    "import http.server as h; h.ThreadingHTTPServer(('', 8000), h.SimpleHTTPRequestHandler)"
    ".serve_forever()"
)


def lacks(engine: Engine, capability: Capability) -> bool:
    """Return True for an engine without a capability, which refuses it by its name."""
    if capability in engine.capabilities:
        return False
    with pytest.raises(pc.UnsupportedError, match=f"'{capability}'"):
        engine.require(capability)
    return True


def test_it_is_an_engine(engine: Engine, box: Container) -> None:
    assert isinstance(engine, contract.Engine)
    assert isinstance(box, contract.Container)
    assert isinstance(box.image, contract.Image)
    assert isinstance(box.network, contract.Network)


# --------------------------------------------------------------------------- programs


def test_run_logs_and_exit_code(engine: Engine, image: str) -> None:
    with engine.run(image, ["sh", "-c", "echo out; echo err >&2; exit 3"]) as container:
        assert container.wait(60) == 3
        assert container.logs().stdout == "out\n"
        assert container.logs().stderr == "err\n"
        assert (container.status, container.exit_code) == ("exited", 3)
    assert container.status == "removed"


def test_follow_ends_with_the_container(engine: Engine, image: str) -> None:
    with engine.run(image, ["sh", "-c", "echo 1; echo 2"]) as container:
        output = b"".join(data for _, _, data in container.follow(30))
    assert output == b"1\n2\n"


def test_logs_outlive_the_container_when_kept(engine: Engine, image: str) -> None:
    with engine.run(image, ["echo", "kept"]) as container:
        container.wait(60)
        container.keep_logs()
    assert container.logs().stdout == "kept\n"


def test_exec(box: Container) -> None:
    box.write_text("/tmp/here", "in /tmp\n")
    script = "cat; echo $NAME; cat here; exit 4"
    result = box.exec(["sh", "-c", script], input="in\n", text=True,
                      env={"NAME": "value"}, workdir="/tmp")  # fmt: skip
    assert (result.returncode, result.stdout) == (4, "in\nvalue\nin /tmp\n")
    with pytest.raises(pc.ExecError):
        box.exec(["false"], check=True)
    with pytest.raises(pc.StartError) as caught:
        box.exec(["/no/such/program"])
    assert caught.value.exit_code == 127


def test_exec_with_a_time_limit(box: Container) -> None:
    with pytest.raises(pc.WaitTimeoutError):
        box.exec(["sleep", "1000"], timeout_s=0.1)


def test_wait_with_a_time_limit(box: Container) -> None:
    with pytest.raises(pc.WaitTimeoutError):
        box.wait(0.05)
    assert box.status == "running"


def test_stop_kill_and_restart(box: Container) -> None:
    assert box.heeds_stop_signal()
    assert box.stop(30) == 143
    box.restart()
    assert (box.status, box.exit_code) == ("running", None)
    box.kill()
    assert box.wait(60) == 137
    with pytest.raises(pc.NotRunningError):
        box.kill()


def test_pause(engine: Engine, box: Container) -> None:
    if lacks(engine, "pause"):
        return
    box.pause()
    assert box.status == "paused"
    box.unpause()
    assert box.status == "running"
    assert box.exec(["true"]).returncode == 0


def test_removal_is_idempotent_and_final(engine: Engine, image: str) -> None:
    container = engine.run(image, ["sleep", "1000"])
    container.remove()
    container.remove()
    with pytest.raises(pc.NotRunningError):
        container.exec(["true"])


def test_a_program_that_is_not_there(engine: Engine, image: str) -> None:
    with pytest.raises(pc.StartError):
        engine.run(image, ["/no/such/program"])


def test_attached_streams(engine: Engine, image: str) -> None:
    if lacks(engine, "attach"):
        return
    spec = pc.ContainerSpec(image, ["cat"])
    with engine.launch(spec, attach="all") as container:
        container.started()
        stdin, stdout, stderr = container.streams
        os.write(stdin, b"through\n")
        os.close(stdin)
        with open(stdout, "rb") as output:
            assert output.read() == b"through\n"
        os.close(stderr)
        assert container.wait(60) == 0


# ------------------------------------------------------------------------------ files


def test_files(box: Container) -> None:
    box.write_text("/tmp/file", "text\n", mode=0o600)
    assert box.read_bytes("/tmp/file") == b"text\n"
    assert box.exec(["stat", "-c", "%a", "/tmp/file"], text=True).stdout == "600\n"
    with pytest.raises(pc.ContainersError):
        box.read_bytes("/tmp/none")


def test_copies(box: Container, tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "file").write_text("copied")
    box.copy_in(tmp_path / "in", "/tmp/copy")
    assert box.read_text("/tmp/copy/sub/file") == "copied"
    box.copy_out("/tmp/copy", tmp_path / "out")
    assert (tmp_path / "out" / "sub" / "file").read_text() == "copied"


# ---------------------------------------------------------------------------- network


def test_ports(engine: Engine, image: str) -> None:
    with engine.run(image, ["python3", "-c", SERVER], ports=[8000]) as container:
        with socket.create_connection(container.address(8000), 10) as direct:
            direct.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            assert direct.recv(64).startswith(b"HTTP/1.0 200")
        assert container.port(8000) == container.address(8000)[1]
        with container.connect(8000) as inner:
            inner.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            assert inner.recv(64).startswith(b"HTTP/1.0 200")


def test_a_command_that_cannot_be_taken_apart(engine: Engine, box: Container, image: str) -> None:
    with pytest.raises(
        pc.SpecError, match=rf"exec in container '{box.name}': .* no closing quotation"
    ):
        box.exec("echo 'x")
    for option in ("command", "entrypoint"):
        with pytest.raises(pc.SpecError, match=f"{option}: .* no closing quotation"):
            engine.run(image, **{option: "echo 'x"})


def test_a_port_that_nothing_listens_on(box: Container) -> None:
    with pytest.raises(pc.ContainersError):
        box.connect(9, 1)
    with pytest.raises(pc.WaitTimeoutError):
        box.wait_listening([(9, "tcp")], 0.05)


def knows(engine: Engine, container: Container, name: str) -> bool:
    """Return True if a container finds another by name: at once, but for Podman's name server."""
    end = time.monotonic() + 60
    while container.exec(["getent", "hosts", name]).returncode:
        if engine.facts.get("product") != "Podman" or time.monotonic() > end:
            return False
    return True


def test_names_within_and_across_networks(engine: Engine, image: str) -> None:
    outer = engine.create_network()
    inner, other = engine.create_network([outer]), engine.create_network()
    sleep = ["sleep", "1000"]
    with (
        engine.run(image, sleep, name="db", network=outer, aliases=["database"]),
        engine.run(image, sleep, name="app", network=inner) as app,
        engine.run(image, sleep, name="stranger", network=other) as stranger,
    ):
        for name in ("db", "database", "app"):
            assert knows(engine, app, name)
        assert stranger.exec(["getent", "hosts", "db"]).returncode != 0
    for network in (other, inner, outer):
        network.remove()
        network.remove()


def test_without_a_network(engine: Engine, image: str) -> None:
    with engine.run(image, ["sleep", "1000"], network=False) as container:
        assert container.ip == ""


# ------------------------------------------------------- volumes, snapshots, states


def test_volumes_outlive_containers(engine: Engine, image: str) -> None:
    volume = engine.create_volume()
    mounts = [pc.VolumeMount(volume, "/data")]
    with engine.run(image, ["sh", "-c", "echo kept > /data/file"], mounts=mounts) as writer:
        assert writer.wait(60) == 0
    with engine.run(image, ["cat", "/data/file"], mounts=mounts) as reader:
        assert reader.wait(60) == 0
        assert reader.logs().stdout == "kept\n"
    volume.remove()


def test_snapshots_and_clones(engine: Engine, box: Container) -> None:
    if lacks(engine, "snapshots"):
        return
    box.write_text("/file", "before")
    image = box.snapshot()
    with box.clone() as clone:
        box.write_text("/file", "after")
        assert clone.read_text("/file") == "before"
    with engine.run(image, ["cat", "/file"]) as other:
        assert other.wait(60) == 0
        assert other.logs().stdout == "before"


def test_states(engine: Engine, box: Container) -> None:
    if lacks(engine, "snapshots"):
        return
    key = os.urandom(32).hex()
    box.write_text("/state", "frozen")
    with engine.states.lock(key):
        state = engine.states.keep(key, box.image, box.freeze, {"label": "test"})
    assert [each.key for each in engine.states.candidates(key)] == [key]
    image = engine.states.image(box.image, state)
    assert image is not None
    with engine.run(image, ["cat", "/state"]) as container:
        container.wait(60)
        assert container.logs().stdout == "frozen"
    engine.states.note_failure(key, "run", {"message": "no"})
    assert engine.states.failure_of(key, "run") == {"message": "no"}
    assert engine.states.failure_of(key, "another run") is None
    engine.states.drop([state])
    assert not engine.states.candidates(key)


# ------------------------------------------------------- shares, endpoints, builds


def test_shares_are_made_once(engine: Engine, image: str) -> None:
    if lacks(engine, "shares"):
        return
    spec = pc.ContainerSpec(image, ["sleep", "1000"])
    starts = []

    def launch() -> Container:
        starts.append(True)
        return engine.launch(spec, name="common", network=engine.create_network())

    def await_ready(container: Container) -> None:
        container.started()
        container.wait_ready()

    key = os.urandom(8).hex()
    first, second = (
        engine.begin_shared(key, spec, launch, await_ready, name="common")() for _ in range(2)
    )
    assert len(starts) == 1
    assert second.id == first.id
    first.write_text("/tmp/file", "common")
    assert second.read_text("/tmp/file") == "common"
    first.remove()


def test_endpoints_lead_to_one_container_after_the_other(engine: Engine, image: str) -> None:
    if lacks(engine, "endpoints"):
        return
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
        lead = engine.lead(sock.fileno(), "test")
        for word in (b"one", b"two"):
            script = f'echo {word.decode()} > index.html; exec python3 -c "$0"'
            with engine.run(
                image, ["sh", "-c", script, SERVER], workdir="/tmp", ports=[8000]
            ) as container:
                lead.to(container, 8000)
                with socket.create_connection(address, 10) as client:
                    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    answer = b"".join(iter(lambda: client.recv(4096), b""))
                assert answer.endswith(word + b"\n")
                lead.nowhere()


def test_builds(engine: Engine, tmp_path: Path) -> None:
    if lacks(engine, "builds"):
        return
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY file /file\nENV NAME=value\n")
    (tmp_path / "file").write_text("built")
    image = engine.build(tmp_path)
    assert image.config.env["NAME"] == "value"
    assert engine.build(tmp_path).id == image.id


# ------------------------------------------------- list, get, inspect, events, health


def test_list_and_get(engine: Engine, box: Container, image: str) -> None:
    network, volume = engine.create_network(), engine.create_volume()
    with engine.run(image, ["sleep", "1000"], name="listed", network=network) as listed:
        assert engine.containers()[-2:] == [box, listed]
        assert engine.container(listed.id) is listed
        assert engine.container("listed") is listed
        with engine.run(image, ["sleep", "1000"], name="listed"):
            with pytest.raises(pc.SpecError, match="2 containers"):
                engine.container("listed")
        assert network in engine.networks()
        assert volume in engine.volumes()
    assert listed not in engine.containers()
    with pytest.raises(pc.NotRunningError, match="'listed'"):
        engine.container("listed")
    network.remove()
    volume.remove()
    assert network not in engine.networks()
    assert volume not in engine.volumes()


def test_a_container_that_did_not_start_is_not_listed(engine: Engine, image: str) -> None:
    before = engine.containers()
    with pytest.raises(pc.StartError):
        engine.run(image, ["/no/such/program"])
    assert engine.containers() == before


def test_inspect(engine: Engine, image: str) -> None:
    with engine.run(image, ["python3", "-c", SERVER], name="seen", ports=[8000]) as container:
        report = container.inspect()
        assert (report.id, report.name, report.image) == (container.id, "seen", image)
        assert (report.status, report.exit_code) == ("running", None)
        assert report.ports == {(8000, "tcp"): container.address(8000)}
        assert report.network in [network.id for network in engine.networks()]
        container.kill()
        container.wait(60)
        assert (container.inspect().status, container.inspect().exit_code) == ("exited", 137)
    with pytest.raises(pc.NotRunningError):
        container.inspect()


def test_events(engine: Engine, image: str) -> None:
    events = engine.events(30)
    with engine.run(image, ["sleep", "1000"], name="watched") as container:
        container.pause()
        container.unpause()
        container.kill()
        kinds = []
        for event in events:
            assert event.container == container.id
            kinds.append(event.kind)
            if event.kind == "die":
                assert event.exit_code == 137
                break
    assert kinds == ["start", "pause", "unpause", "die"]
    assert next(iter(engine.events(0.01)), None) is None


def test_events_end_when_the_engine_is_closed() -> None:
    from pytest_containers.engines.choose import create_engine

    with create_engine() as engine:
        events = engine.events()
        listener = threading.Thread(target=lambda: list(events))
        listener.start()
    listener.join(30)
    assert not listener.is_alive()


def test_health(engine: Engine, tmp_path: Path, image: str) -> None:
    with engine.run(image, ["sleep", "1000"]) as container:
        assert container.health().status == "none"
    if lacks(engine, "builds"):
        return
    (tmp_path / "Dockerfile").write_text(f"FROM {image}\nHEALTHCHECK CMD cat /tmp/health\n")
    image = engine.build(tmp_path)
    with engine.run(image, ["sleep", "1000"], wait_ready=False) as container:
        sick = container.health()
        assert (sick.status, sick.exit_code) == ("unhealthy", 1)
        assert "/tmp/health" in sick.output
        container.write_text("/tmp/health", "fine")
        well = container.health()
        assert (well.status, well.exit_code, well.output) == ("healthy", 0, "fine")
        container.kill()
        container.wait(60)
        assert container.health().status == "none"


# ------------------------------------------------------------------------ capabilities


def test_a_warm_up_request(engine: Engine, image: str) -> None:
    if lacks(engine, "warmup"):
        return
    script = (
        "import socket; s = socket.create_server(('', 8000)); print('ready', flush=True); "
        "print(s.accept()[0].recv(9), flush=True)"
    )
    spec = pc.ContainerSpec(image, ["python3", "-c", script])
    with engine.launch(spec, warmup=Warmup("ready", 8000, "aGVsbG8=")) as container:
        container.started()
        assert container.wait(60) == 0
        assert "hello" in container.logs().stdout


def test_every_capability_is_kept_or_refused(engine: Engine) -> None:
    for capability, engines in ENGINES.items():
        assert (engine.name in engines) == (capability in engine.capabilities)
        if capability in engine.capabilities:
            engine.require(capability)
        else:
            with pytest.raises(pc.UnsupportedError, match=f"'{engine.name}'.*'{capability}'"):
                engine.require(capability)


def test_a_missing_capability_names_an_engine_that_has_it() -> None:
    own: list[Capability] = []
    with pytest.raises(pc.UnsupportedError, match="'process' has no .*'shares'.*use.*'native'"):
        require("shares", "process", own)


def test_a_name_that_is_no_capability(engine: Engine) -> None:
    with pytest.raises(pc.SpecError, match="'snapshot' is not a capability"):
        engine.require("snapshot")  # type: ignore[arg-type]


# --------------------------------------------------------------------------- bundles


def test_the_life_of_an_oci_bundle(engine: Engine, tmp_path: Path) -> None:
    if "oci" not in engine.capabilities:
        with pytest.raises(pc.UnsupportedError):
            engine.run_oci({}, tmp_path)
        return
    kinds = ("pid", "network", "mount", "ipc", "uts")
    config = {
        "ociVersion": "1.2.0",
        "process": {"args": ["sleep", "1000"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "linux": {"namespaces": [{"type": kind} for kind in kinds]},
    }
    with engine.run_oci(config, write_root(tmp_path / "root"), start=False) as container:
        assert isinstance(container, contract.OciContainer)
        assert container.state().status == "created"
        container.start()
        assert container.state().status == "running"
        assert container.exec(["id", "-u"], text=True).stdout == "0\n"
        with pytest.raises(pc.StartError):
            container.delete()
        container.kill("KILL")
        assert container.wait(60) == 137
        assert container.state().status == "stopped"
        container.delete()
    with pytest.raises(pc.NotRunningError):
        container.state()
