"""What all tests share: capabilities that decide skips, and a look at what is left behind."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

import pytest_containers as pc

pytest_plugins = ["pytester"]

# No test is about time, and on a busy machine any of them may take long.
hypothesis.settings.register_profile("ours", deadline=None)
hypothesis.settings.load_profile("ours")

NO_SKIPS = os.environ.get("PYTEST_CONTAINERS_TEST_NO_SKIPS") == "1"
"""In CI, where what can be installed is installed: a skip is a failure."""


def _has_id_range() -> bool:
    from pytest_containers.runtime.launcher import identity

    return identity.choose().mode != "single"


def _has_root() -> bool:
    return os.geteuid() == 0


def program_of(name: str) -> str | None:
    return shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")


CAPABILITIES: dict[str, tuple[Callable[[], bool], str]] = {
    "id range": (_has_id_range, "subordinate ids: `pytest-containers setup` tells how"),
    "root": (_has_root, "root"),
    "postgresql": (lambda: bool(list(Path("/usr/lib/postgresql").glob("*/bin"))), "postgresql"),
    "aarch64": (
        lambda: all(map(shutil.which, ("aarch64-linux-gnu-gcc", "qemu-aarch64"))),
        "gcc-aarch64-linux-gnu and qemu-user",
    ),
    "skopeo": (lambda: shutil.which("skopeo") is not None, "skopeo"),
    "umoci": (lambda: shutil.which("umoci") is not None, "umoci"),
    "docker-registry": (lambda: shutil.which("docker-registry") is not None, "docker-registry"),
    "podman": (lambda: shutil.which("podman") is not None, "podman"),
    "docker": (lambda: shutil.which("dockerd", path="/usr/sbin:/usr/bin") is not None, "docker.io"),
    **{
        name: (lambda program=program: program_of(program) is not None, package)
        for name, program, package in (
            ("redis", "redis-server", "redis-server"),
            ("memcached", "memcached", "memcached"),
            ("nats", "nats-server", "nats-server"),
            ("mosquitto", "mosquitto", "mosquitto"),
            ("etcd", "etcd", "etcd-server"),
            ("nginx", "nginx", "nginx-light"),
            ("mariadb", "mariadbd", "mariadb-server"),
            ("rabbitmq", "rabbitmq-server", "rabbitmq-server"),
        )
    },
    "mmdebstrap": (lambda: shutil.which("mmdebstrap") is not None, "mmdebstrap"),
}
_EXPECTED = {
    "id range": lambda: os.environ.get("PYTEST_CONTAINERS_TEST_SINGLE_ID") != "1",
    "root": _has_root,
}
"""Capabilities that not every CI run is meant to have: whether this one is."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*capabilities): skip without one of them")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            probe, what = CAPABILITIES[name]
            if probe():
                continue
            if NO_SKIPS and _EXPECTED.get(name, lambda: True)():
                pytest.fail(
                    f"capability {name!r} is missing although this run must have it: {what}"
                )
            pytest.skip(f"needs {what}")


@pytest.fixture(scope="session")
def store_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image store for the tests of this process."""
    chosen = os.environ.get("PYTEST_CONTAINERS_TEST_HOME")
    return Path(chosen) if chosen else tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def engine(store_home: Path) -> Iterator[pc.Engine]:
    """One run for many tests."""
    with pc.Engine(home=store_home) as engine:
        yield engine


@pytest.fixture(params=["stub", "python", "older kernel"])
def any_engine(request: pytest.FixtureRequest, store_home: Path) -> Iterator[pc.Engine]:
    """A run of its own, with each of the runners, and with what kernels before 6.15 offer."""
    older = request.param == "older kernel"
    runner = "auto" if older else request.param
    with pc.Engine(home=store_home, runner=runner, force_fallback=older) as engine:
        yield engine


def descriptors() -> set[str]:
    """What this process has open, by what it is."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue
    return found


def mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def links() -> set[str]:
    return {name for name in os.listdir("/sys/class/net") if name.startswith("pc")}


def run_processes() -> list[int]:
    """Processes of runs that this process started, of any age."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            comm = Path(f"/proc/{entry}/comm").read_text().strip()
        except OSError:
            continue
        if comm in ("pc-launcher", "pc-supervisor", "pc-network"):
            found.append(int(entry))
    return found


def eventually(condition: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    """Whether `condition` becomes true in time."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


@pytest.fixture(autouse=True)
def _leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each integration test: no new mounts here, and no descriptors of removed containers."""
    if "integration" not in request.path.parts or "engine" not in request.fixturenames:
        yield
        return
    engine = request.getfixturevalue("engine")
    engine.start()
    _ = engine.facts
    before_mounts, before = mounts(), len(descriptors())
    yield
    assert mounts() == before_mounts
    # Sockets may be closed by the collector a little later: some room, but no growth.
    assert len(descriptors()) <= before + 4
