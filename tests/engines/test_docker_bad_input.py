"""Bad input of the docker engine: what is refused, by the name of what mends it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import dockerd

import pytest_containers as pc
from pytest_containers.engines.choose import create_engine
from pytest_containers.engines.docker import DockerEngine
from pytest_containers.engines.docker.place import OVERRIDE

pytestmark = pytest.mark.slow
needs_daemon = pytest.mark.needs("docker", "root")

AS_NOBODY = """
import os, sys
import pytest_containers as pc
from pytest_containers.engines.docker import DockerEngine, api, connection, tls  # while it may read
if os.geteuid() == 0:
    os.setuid(65534)
try:
    DockerEngine(endpoint=sys.argv[1]).start()
except pc.UnsupportedError as error:
    print(error)
"""


@pytest.fixture
def engine(daemon: dockerd.Daemon, tmp_path: Path) -> Iterator[DockerEngine]:
    with daemon.entered(), DockerEngine(endpoint=daemon.url, home=tmp_path) as engine:
        yield engine


def test_a_socket_without_permission() -> None:
    path = f"/tmp/pc-denied-{os.getpid()}"  # where everybody may look
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        try:
            os.chmod(path, 0)
            server.listen()
            done = subprocess.run(
                [sys.executable, "-c", AS_NOBODY, f"unix://{path}"], capture_output=True, text=True
            )
        finally:
            os.unlink(path)
    words = "permission denied: join the group of the socket (`docker`), or be root"
    assert words in done.stdout, done.stderr


@needs_daemon
def test_a_bind_mount_that_a_remote_host_does_not_have(
    daemon: dockerd.Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OVERRIDE, "127.0.0.1")  # as if it were on another machine
    with daemon.entered(), DockerEngine(endpoint=daemon.url, home=tmp_path) as engine:
        with pytest.raises(pc.StartError) as caught:
            engine.run(dockerd.IMAGE, ["true"], mounts=[pc.Bind("/no/such", "/a")])
    where = f"the daemon is on another machine, {daemon.url}"
    assert f"/no/such: it does not exist where the daemon runs; {where}" in caught.value.message


@needs_daemon
def test_states_and_images_of_another_engine(engine: DockerEngine) -> None:
    key = os.urandom(32).hex()
    with create_engine("native") as native:
        base = engine.image(dockerd.IMAGE)
        with (
            native.run("host:", ["sleep", "1000"], init=True) as theirs,
            engine.run(base, ["sleep", "1000"], init=True) as ours,
        ):
            snapshot = theirs.snapshot()
            for container in (theirs, ours):
                container.stop()
            foreign = native.states.keep(key, theirs.image, theirs.freeze, {"label": "test"})
            state = engine.states.keep(key, base, ours.freeze, {"label": "test"})
        try:
            assert engine.states.candidates(key) == [state]  # by the same key, each its own
            for states, image, other in (
                (engine.states, base, foreign), (native.states, theirs.image, state),
            ):  # fmt: skip
                for use in (lambda: states.image(image, other), lambda: states.drop([other])):  # noqa: B023
                    with pytest.raises(pc.SpecError, match="run the seed with this engine"):
                        use()
            assert engine.states.candidates(key) == [state]
            with pytest.raises(pc.SpecError, match="^image 'host:' is not one of engine 'docker'"):
                engine.run(snapshot, ["true"])
            with pytest.raises(pc.SpecError, match="is not one of engine 'native'"):
                native.run(base, ["true"])
        finally:
            engine.states.drop([state])
            native.states.drop([foreign])


@needs_daemon
def test_what_it_cannot_keep(engine: DockerEngine) -> None:
    from pytest_containers.model.kept import KeepLimits

    with engine.run(dockerd.IMAGE, ["sleep", "1000"]) as container:
        for capability, use in (
            ("keep", lambda: engine.keep(container, test="test", limits=KeepLimits(1, 60.0))),
            ("oci", lambda: engine.run_oci({}, "/")),
        ):
            with pytest.raises(pc.UnsupportedError, match=f"'{capability}'; use engine 'native'"):
                use()
        assert container.status == "running"


@needs_daemon
@pytest.mark.long
def test_a_daemon_that_was_restarted_in_mid_test(tmp_path: Path) -> None:
    with dockerd.apart() as daemon, daemon.entered():
        with DockerEngine(endpoint=daemon.url, home=tmp_path) as engine:
            container = engine.run(dockerd.IMAGE, ["sleep", "1000"])
            daemon.stop()
            daemon.start()
            with pytest.raises(pc.RunLostError, match="its containers are lost to this run"):
                container.exec(["true"])
            with pytest.raises(pc.RunLostError):
                engine.run(dockerd.IMAGE, ["true"])
        with DockerEngine(endpoint=daemon.url, home=tmp_path) as another:
            assert another.run(dockerd.IMAGE, ["true"]).wait(30) == 0
