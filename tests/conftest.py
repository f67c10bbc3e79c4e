"""What all tests share: capabilities that decide skips, and a look at what is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest
from helpers import cgroups, leaks

import pytest_containers as pc

pytest_plugins = ["pytester"]

# No test is about time, and on a busy machine any of them may take long.
hypothesis.settings.register_profile("ours", deadline=None)
hypothesis.settings.load_profile("ours")

# A shell starts its background jobs with SIGINT ignored, and all programs below them inherit that:
# those that a test interrupts would never hear of it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

NO_SKIPS = os.environ.get("PYTEST_CONTAINERS_TEST_NO_SKIPS") == "1"
"""In CI, where what can be installed is installed: a skip is a failure."""


def _has_id_range() -> bool:
    from pytest_containers.runtime import identity

    return identity.choose().mode != "single"


def _has_root() -> bool:
    return os.geteuid() == 0


def _has_tmpfs_xattrs() -> bool:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        try:
            os.setxattr(file.name, "user.pytest_containers", b"")
        except OSError:
            return False
    return True


def program_of(name: str) -> str | None:
    return shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")


_MKFS = ("mount", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs")
CAPABILITIES: dict[str, tuple[Callable[[], bool], str]] = {
    "id range": (_has_id_range, "subordinate ids: `pytest-containers setup` tells how"),
    "root": (_has_root, "root"),
    "ordinary user": (
        lambda: not _has_root() and _has_id_range(),
        "an ordinary user with subordinate ids",
    ),
    "cgroups": (lambda: leaks.writable_cgroup() is not None, "a cgroup hierarchy to write to"),
    "all controllers": (
        lambda: {"cpuset", "io"} <= cgroups.handed_down(),
        "cgroups with the controllers cpuset and io, which systemd does not hand to users",
    ),
    "loop devices": (
        lambda: os.access("/dev/loop-control", os.W_OK) and all(map(program_of, _MKFS)),
        "loop devices, and the programs that make xfs and btrfs (xfsprogs, btrfs-progs)",
    ),
    "xattrs of tmpfs": (_has_tmpfs_xattrs, "writable layers in memory (Linux 6.6)"),
    "postgresql": (lambda: bool(list(Path("/usr/lib/postgresql").glob("*/bin"))), "postgresql"),
    "aarch64": (
        lambda: all(map(shutil.which, ("aarch64-linux-gnu-gcc", "qemu-aarch64"))),
        "gcc-aarch64-linux-gnu and qemu-user",
    ),
    "skopeo": (lambda: shutil.which("skopeo") is not None, "skopeo"),
    "umoci": (lambda: shutil.which("umoci") is not None, "umoci"),
    "docker-registry": (lambda: shutil.which("docker-registry") is not None, "docker-registry"),
    "buildah": (lambda: shutil.which("buildah") is not None, "buildah"),
    "runc": (lambda: program_of("runc") is not None, "runc"),
    "crun": (lambda: program_of("crun") is not None, "crun"),
    "podman": (lambda: shutil.which("podman") is not None, "podman"),
    "names of podman": (
        lambda: os.access("/usr/lib/podman/aardvark-dns", os.X_OK),
        "Podman's networks with names (netavark, aardvark-dns)",
    ),
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
            ("openssh", "sshd", "openssh-server"),
            ("openldap", "slapd", "slapd and ldap-utils"),
            ("influxdb", "influxd", "influxdb"),
            ("haproxy", "haproxy", "haproxy"),
            ("pgbouncer", "pgbouncer", "pgbouncer"),
            ("bind9", "named", "bind9"),
            ("squid", "squid", "squid"),
            ("beanstalkd", "beanstalkd", "beanstalkd"),
            ("chromium", "chromedriver", "chromium and chromium-driver"),
        )
    },
    "zookeeper": (lambda: Path("/usr/share/java/zookeeper.jar").exists(), "zookeeper"),
    "smtp": (lambda: find_spec("aiosmtpd") is not None, "aiosmtpd in this environment"),
    "moto": (
        lambda: all(map(find_spec, ("moto", "flask", "flask_cors"))),
        "moto[s3], flask and flask-cors in this environment",
    ),
    "zsh": (lambda: shutil.which("zsh") is not None, "zsh"),
    "fish": (lambda: shutil.which("fish") is not None, "fish"),
    "mmdebstrap": (lambda: shutil.which("mmdebstrap") is not None, "mmdebstrap"),
}
_EXPECTED = {
    "id range": lambda: os.environ.get("PYTEST_CONTAINERS_TEST_SINGLE_ID") != "1",
    "root": _has_root,
    "ordinary user": lambda: not _has_root() and _EXPECTED["id range"](),
    "cgroups": _has_root,
    "loop devices": _has_root,
}
"""Capabilities that not every CI run is meant to have: whether this one is."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*capabilities): skip without one of them")
    leaks.isolate()  # before any run is started, which is then isolated as well


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


@pytest.hookimpl(trylast=True)  # after workers have ended
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Own all files below the temporary directory, also those of stores with subordinate ids.

    pytest removes the directory three runs later, as whoever runs it then; what it cannot remove
    is a warning, and warnings are errors here.
    """
    # There is no public way to it that does not make the directory.
    folder = getattr(session.config._tmp_path_factory, "_basetemp", None)  # type: ignore[attr-defined]
    if folder is None or hasattr(session.config, "workerinput") or _has_root():
        return
    if _has_id_range():
        own = "from pytest_containers.cli import main; raise SystemExit(main())"
        command = [sys.executable, "-c", own, "unshare", "chown", "--recursive", "0:0", str(folder)]
        subprocess.run(command, check=True)


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


@pytest.fixture(scope="module", params=["stub", "python", "older kernel"])
def any_engine(request: pytest.FixtureRequest, store_home: Path) -> Iterator[pc.Engine]:
    """A run of its own, with each of the runners, and with what kernels before 6.15 offer."""
    older = request.param == "older kernel"
    runner = "auto" if older else request.param
    with pc.Engine(home=store_home, runner=runner, force_fallback=older) as engine:
        yield engine


@pytest.fixture(autouse=True)
def _leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail an integration test that leaves a mount, or descriptors of removed containers."""
    if "integration" not in request.path.parts or "engine" not in request.fixturenames:
        yield
        return
    engine = request.getfixturevalue("engine")
    engine.start()
    _ = engine.facts
    mounts, descriptors = leaks.mounts(), leaks.descriptors()
    yield
    assert leaks.mounts() - mounts == set()
    # Sockets may be closed by the collector a little later: some room, but no growth.
    assert len(leaks.descriptors()) <= len(descriptors) + 4
