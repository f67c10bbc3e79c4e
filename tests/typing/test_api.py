"""How users write it, as type checkers see it; checked, and never run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_type

import pytest_containers as pc

redis = pc.container_fixture(
    "redis:7", ports=[6379], ready=pc.wait.log("Ready to accept connections")
)


@pc.container_fixture(scope="module")
def api(redis: pc.Container) -> pc.ContainerSpec:
    return pc.ContainerSpec("host:", ["api", redis.ip], ports=[8000], ready=pc.wait.http("/health"))


@pc.container_fixture
def worker(api: pc.Container) -> Iterator[pc.ContainerSpec]:
    yield pc.ContainerSpec("host:", ["worker"], mounts=[pc.Bind("/srv", "/srv", read_only=True)])


def check(containers: pc.Containers, redis: pc.Container) -> None:
    container = containers.run("host:", ["true"])
    assert_type(container, pc.Container)
    assert_type(container.wait(timeout_s=5), int)
    assert_type(container.address(8000), tuple[str, int])
    assert_type(container.logs().stdout, str)
    assert_type(container.exec(["ls"], text=True).returncode, int)
    with pc.Engine() as engine, engine.run("host:", ["/bin/true"]) as other:
        assert_type(other, pc.Container)
