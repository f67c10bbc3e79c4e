"""Registries and images that the tests of this folder share."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import dockerd
from helpers.in_docker import InDocker
from helpers.in_docker import in_docker as run_in_docker
from helpers.layouts import Layout, busybox, layer, member
from helpers.registry import Proxy, registry, upload

import pytest_containers as pc
from pytest_containers.model.engine_options import RegistrySettings


@pytest.fixture(scope="session")
def base() -> bytes:
    """A layer that can run a shell."""
    return layer(busybox())


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


@pytest.fixture(scope="session")
def plain_registry() -> Iterator[str]:
    """A registry without TLS or passwords."""
    with registry() as address:
        yield address


@pytest.fixture
def proxy(plain_registry: str) -> Iterator[Proxy]:
    """The same, through a proxy that misbehaves when it is told to."""
    proxy = Proxy(plain_registry)
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def published(
    plain_registry: str, base: bytes, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], str]:
    """Publishes an image of two layers as a repository; returns ``repository:1``."""

    def publish(repository: str) -> str:
        target = Layout(tmp_path_factory.mktemp("published") / "layout")
        top = layer([member("data", f"{repository}\n".encode(), mode=0o644)])
        source = target.image([base, top], {"Cmd": ["/bin/sh", "-c", "read x < /data; echo $x"]})
        upload(f"{source}:1", f"{plain_registry}/{repository}:1")
        return f"{repository}:1"

    return publish


@pytest.fixture
def own_engine(tmp_path: Path) -> Iterator[Callable[..., pc.Engine]]:
    """Makes engines on a store of the test's own."""
    made: list[pc.Engine] = []

    def make(**options: object) -> pc.Engine:
        engine = pc.Engine(**{"home": tmp_path / "store", **options})
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.close()


@pytest.fixture(scope="module")
def module_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pc.Engine]:
    """A run on a store of the module's own, for tests that look at everything in it."""
    with pc.Engine(home=tmp_path_factory.mktemp("module") / "store") as engine:
        yield engine


@pytest.fixture(scope="module", params=["root", "range", "single"])
def each_engine(request: pytest.FixtureRequest, store_home: Path) -> Iterator[pc.Engine]:
    """A run of each identity that this user can have: as root all three."""
    with pc.Engine(home=store_home, identity=request.param) as engine:
        if engine.facts["identity"] != request.param:
            pytest.skip(f"needs identity {request.param}: {engine.facts['identity_reason']}")
        yield engine


@pytest.fixture
def as_user(tmp_path: Path) -> Callable[..., RegistrySettings]:
    """Settings with an environment of the test's own: nobody's real credentials are used."""

    def make(*, insecure: frozenset[str] = frozenset(), **environ: str) -> RegistrySettings:
        import os

        clean = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], **environ}
        return RegistrySettings(insecure=insecure, environ=clean)

    return make


def _run(command: list[str], *arguments: str) -> str:
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def short_path() -> Iterator[Path]:
    """Where paths are short: both make sockets, whose addresses end at 108 bytes (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="pc-", dir="/tmp", ignore_cleanup_errors=True) as name:
        try:
            yield Path(name)
        finally:  # they leave their stores mounted on themselves
            for line in Path("/proc/self/mounts").read_text().splitlines()[::-1]:
                if line.split()[1].startswith(f"{name}/"):
                    subprocess.run(["umount", "--lazy", line.split()[1]], check=True)


@pytest.fixture(scope="session")
def docker_client(short_path: Path) -> Iterator[list[str]]:
    """The client's command line for a daemon of the tests' own, without a bridge."""
    with dockerd.daemon(short_path) as client:
        yield client


@pytest.fixture(scope="session")
def docker(docker_client: list[str]) -> Callable[..., str]:
    """Runs the client of that daemon, and returns what it says."""
    return lambda *arguments: _run(docker_client, *arguments)


@pytest.fixture(scope="module")
def in_docker(docker: Callable[..., str], short_path: Path) -> InDocker:
    """Runs Python code in a Docker container that has this machine's programs."""
    return run_in_docker(docker, short_path)


@pytest.fixture
def podman(short_path: Path) -> Callable[..., str]:
    """Podman with a store of the test's own."""
    command = ["podman", f"--root={short_path}/p", f"--runroot={short_path}/r", "--cgroup-manager=cgroupfs",
               "--storage-driver=vfs", "--runtime=runc"]  # fmt: skip
    return lambda *arguments: _run(command, *arguments)
