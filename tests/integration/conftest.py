"""Registries and images that the tests of this folder share."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.layouts import Layout, busybox, layer, member
from helpers.registry import Proxy, registry, upload

import pytest_containers as pc
from pytest_containers.images.registry.settings import RegistrySettings


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


@pytest.fixture(scope="module")
def short_path() -> Iterator[Path]:
    """Where paths are short: both make sockets, whose addresses end at 108 bytes (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="pc-", dir="/tmp", ignore_cleanup_errors=True) as name:
        try:
            yield Path(name)
        finally:  # they leave their stores mounted on themselves
            for line in Path("/proc/self/mounts").read_text().splitlines()[::-1]:
                if line.split()[1].startswith(f"{name}/"):
                    subprocess.run(["umount", "--lazy", line.split()[1]], check=True)


@pytest.fixture(scope="module")
def docker(short_path: Path) -> Iterator[Callable[..., str]]:
    """The client of a daemon of the tests' own, without a bridge."""
    work = short_path
    client = [
        shutil.which("docker", path="/usr/bin:/usr/local/bin") or "docker",
        f"--host=unix://{work}/s",
    ]
    with open(work / "log", "wb") as log:
        daemon = subprocess.Popen(
            ["dockerd", f"--data-root={work}/data", f"--exec-root={work}/exec", f"--pidfile={work}/pid",
             f"--host=unix://{work}/s", "--iptables=false", "--ip-masq=false", "--bridge=none"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while subprocess.run([*client, "info"], capture_output=True).returncode:
            if daemon.poll() is not None or time.monotonic() > end:
                raise RuntimeError((work / "log").read_text())
            time.sleep(0.1)
        yield lambda *arguments: _run(client, *arguments)
    finally:
        daemon.terminate()
        daemon.wait(30)


@pytest.fixture
def podman(short_path: Path) -> Callable[..., str]:
    """Podman with a store of the test's own."""
    command = ["podman", f"--root={short_path}/p", f"--runroot={short_path}/r", "--cgroup-manager=cgroupfs",
               "--storage-driver=vfs", "--runtime=runc"]  # fmt: skip
    return lambda *arguments: _run(command, *arguments)
