"""An image that is built from its Dockerfile before the tests; each test has its own container."""

from __future__ import annotations

from typing import Any
from urllib.request import urlopen

import pytest_containers as pc

visits_image = pc.build_fixture("visits", args={"GREETING": "welcome"})


@pc.container_fixture
def visits(visits_image: Any) -> pc.ContainerSpec:
    return pc.ContainerSpec(visits_image, ports=[8000], ready=pc.wait.http("/", port=8000))


def ask(container: pc.Container) -> str:
    with urlopen(f"http://{container.host}:{container.port(8000)}/") as answer:
        return str(answer.read().decode())


def test_counts(visits: pc.Container) -> None:
    first, second = ask(visits).split(), ask(visits).split()
    assert (first[0], int(second[1]) - int(first[1])) == ("welcome", 1)


def test_begins_anew(visits: pc.Container) -> None:
    assert ask(visits) == "welcome 2\n"  # the first was to see whether it is ready
