"""Nothing is open in a container here that Docker's defaults close."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from probe.run import (
    IMAGE,
    OPEN_HERE,
    Answers,
    ask_docker,
    ask_here,
    compile_probe,
    reason_for,
    write_image,
)

import pytest_containers as pc

pytestmark = [pytest.mark.needs("root"), pytest.mark.slow]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("probe")
    return write_image(work / "image", compile_probe(work / "probe"))


@pytest.fixture(scope="module")
def docker(
    image: Path, docker_client: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Answers:
    archive = image.parent / "probe.tar"
    with pc.Engine(home=tmp_path_factory.mktemp("store")) as engine:
        engine.images.load(image, name=IMAGE)
        engine.images.save([IMAGE], archive)
    return ask_docker(docker_client, archive)


@pytest.fixture(params=["root", "range", "single"])
def here(
    request: pytest.FixtureRequest, image: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Answers]:
    with pc.Engine(home=tmp_path_factory.mktemp("store"), identity=request.param) as engine:
        engine.images.load(image, name=IMAGE)
        yield ask_here(engine)


def test_nothing_is_open_that_docker_closes(here: Answers, docker: Answers) -> None:
    opened = {
        question
        for question, answer in here.items()
        if answer == "open" and docker[question].startswith("closed")
    }
    assert opened == set(OPEN_HERE)
    assert set(here) == set(docker)


def test_every_difference_from_docker_has_a_reason(here: Answers, docker: Answers) -> None:
    different = [question for question, answer in here.items() if docker[question] != answer]
    assert [question for question in different if reason_for(question) is None] == []
