"""The engines that the contract is tried on: add another one to ENGINES."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from helpers import dockerd

import pytest_containers as pc
from pytest_containers.engines.choose import create_engine
from pytest_containers.engines.docker.place import OVERRIDE
from pytest_containers.linux import landlock
from pytest_containers.model.engine import Container, Engine
from pytest_containers.runtime import identity

ENGINES: dict[str, tuple[dict[str, str], Callable[[], bool]]] = {
    "native-root": ({"identity": "root"}, lambda: os.geteuid() == 0),
    "native-range": ({"identity": "range"}, lambda: identity.choose().mode != "single"),
    "native-single": ({"identity": "single"}, lambda: True),
    "process": ({}, lambda: landlock.version() > 0),
    "docker": ({}, lambda: os.geteuid() == 0),
    "docker-far": ({}, lambda: os.geteuid() == 0),
    "docker-podman": ({}, lambda: os.geteuid() == 0),
}
"""Name and identity: arguments of `create_engine`, and if this machine has it.

``docker-far`` is reached by TLS, as if it were on another machine; ``docker-podman`` is the docker
engine with the service of Podman.
"""


def _params() -> list[object]:
    possible = [name for name, (_, is_possible) in ENGINES.items() if is_possible()]
    needs, podman = (
        pytest.mark.needs("docker"),
        pytest.mark.needs("docker", "podman", "names of podman"),
    )
    slow, long = pytest.mark.slow, pytest.mark.long  # takes a daemon: on the newest Python only
    marks = {
        "docker": [needs, slow], "docker-far": [needs, slow, long],
        "docker-podman": [podman, slow, long],
    }  # fmt: skip
    return [pytest.param(name, marks=marks.get(name, ())) for name in possible]


@pytest.fixture(scope="session")
def daemon() -> Iterator[dockerd.Daemon]:
    """A daemon of Docker for the tests of this folder."""
    with dockerd.apart() as daemon:
        yield daemon


@pytest.fixture(scope="session")
def podman() -> Iterator[dockerd.Daemon]:
    """A service of Podman for the tests of this folder."""
    with dockerd.apart(kind=dockerd.PodmanService) as service:
        yield service


@pytest.fixture(scope="module", params=_params())
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    options, _ = ENGINES[request.param]
    if not request.param.startswith("docker"):
        with create_engine(request.param.partition("-")[0], **options) as engine:
            yield engine
        return
    kind = "podman" if request.param == "docker-podman" else "daemon"
    daemon: dockerd.Daemon = request.getfixturevalue(kind)
    home = tmp_path_factory.mktemp("docker")
    environ = {"DOCKER_HOST": daemon.url}
    if request.param == "docker-far":
        certificates = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(daemon.work)}
        environ = {"DOCKER_HOST": daemon.tls_url, OVERRIDE: "127.0.0.1", **certificates}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        with daemon.entered(), create_engine("docker", home=home) as engine:
            yield engine


@pytest.fixture(scope="module")
def image(engine: Engine) -> str:
    """An image with a shell, some programs and Python."""
    return dockerd.IMAGE if engine.name == "docker" else "host:"


@pytest.fixture
def box(engine: Engine, image: str) -> Iterator[Container]:
    """A container that does nothing until it is told to."""
    with engine.run(image, ["sleep", "1000"], init=True) as container:
        yield container


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[object]:
    """Let a test pass whose engine refuses it by the name of a capability that it lacks."""
    try:
        return (yield)
    except pc.UnsupportedError as error:
        engine = pyfuncitem.funcargs.get("engine")
        if not isinstance(engine, Engine) or error.capability in (None, *engine.capabilities):
            raise
        assert engine.name not in error.engines
        return True
