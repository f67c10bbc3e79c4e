"""Mounts as text, and sources that are relative to the test's file."""

from __future__ import annotations

from pathlib import Path

import pytest

SUITE = """
import os
import pytest
import pytest_containers as pc

SHOW = ["cat", "/data/name"]
by_text = pc.container_fixture("host:", SHOW, mounts=["./data:/data:ro"])
by_object = pc.container_fixture("host:", SHOW, mounts=[pc.Bind("data", "/data")])

@pc.container_fixture
def described():
    return pc.ContainerSpec("host:", SHOW, mounts=["../suite/data:/data"])

def seed(container):
    assert container.read_text("/data/name") == "here"
    container.write_text("/srv/seeded", "yes")

seeded = pc.container_fixture("host:", ["sleep", "1000"], mounts=["./data:/data"], seed=seed)

@pytest.mark.parametrize("name", ["by_text", "by_object", "described"])
def test_fixtures(request, name):
    container = request.getfixturevalue(name)
    assert container.wait(60) == 0, container.logs()
    assert container.logs().stdout == "here"

def test_seeds(seeded):
    assert seeded.read_text("/data/name") + seeded.read_text("/srv/seeded") == "hereyes"

def test_ad_hoc(containers):
    container = containers.run("host:", SHOW, mounts=["./data:/data:ro"], wait_ready=False)
    assert container.wait(60) == 0, container.logs()
    assert container.logs().stdout == "here"

def test_read_only(containers):
    script = "echo x > /data/name"
    container = containers.run(
        "host:", ["sh", "-c", script], mounts=["./data:/data:ro"], wait_ready=False)
    assert container.wait(60) != 0

def test_of_an_engine(containers):
    container = containers.engine.run(
        "host:", SHOW, mounts=["./suite/data:/data"], wait_ready=False)
    with container:
        assert container.wait(60) == 0, container.logs()

def test_not_there(containers):
    place = os.path.join(os.path.dirname(__file__), "nosuch")
    with pytest.raises(pc.StartError) as caught:
        containers.run("host:", SHOW, mounts=["./nosuch:/data"])
    assert os.path.realpath(place) in str(caught.value)

def test_wrong(containers):
    with pytest.raises(pc.SpecError, match="mounts: 3 is not a mount"):
        containers.run("host:", SHOW, mounts=[3])
"""


def test_sources_are_relative_to_the_file(run, pytester: pytest.Pytester) -> None:
    folder = pytester.mkdir("suite")
    (folder / "test_mounts.py").write_text(SUITE)
    (folder / "data").mkdir()
    (folder / "data" / "name").write_text("here")
    run("", "suite", "-p", "no:cacheprovider").assert_outcomes(passed=9)


NGINX = """
import urllib.request
import pytest_containers as pc
web = pc.services.Nginx.fixture(image="host:", root="site")

def test_it(web):
    assert urllib.request.urlopen(web.url() + "/name").read() == b"here"
"""


@pytest.mark.needs("nginx")
@pytest.mark.long
def test_the_directory_of_a_service(run, pytester: pytest.Pytester) -> None:
    folder: Path = pytester.mkdir("suite")
    (folder / "test_web.py").write_text(NGINX)
    (folder / "site").mkdir()
    (folder / "site" / "name").write_text("here")
    run("", "suite").assert_outcomes(passed=1)
