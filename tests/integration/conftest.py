"""Registries and images that the tests of this folder share."""

from __future__ import annotations

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
