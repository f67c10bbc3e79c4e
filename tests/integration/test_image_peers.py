"""Docker and Podman take what we save and push, and we take what they do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.layouts import Layout, busybox, layer, member, output

import pytest_containers as pc

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.needs("root", "docker-registry")]

MakeEngine = Callable[..., pc.Engine]
Run = Callable[..., str]


@pytest.fixture
def made(own_engine: MakeEngine, layout: Layout) -> tuple[pc.Engine, str]:
    """An image in our store; two layers, the upper hides a file of the lower."""
    lower = layer(
        [*busybox("ls", "cat"), member("gone", b"x"), member("tmp", b"", type=b"5", mode=0o1777)]
    )
    upper = layer([member("data", b"hello\n", mode=0o644), member(".wh.gone")])
    config = {"Cmd": ["/bin/sh", "-c", "cat /data; ls /"], "Env": ["PATH=/bin"]}
    engine = own_engine()
    engine.images.load(layout.image([lower, upper], config).removeprefix("oci:"), name="app:1")
    return engine, "app:1"


@pytest.mark.needs("docker")
def test_docker(
    docker: Run,
    made: tuple[pc.Engine, str],
    own_engine: MakeEngine,
    tmp_path: Path,
    plain_registry: str,
) -> None:
    engine, name = made
    engine.images.save([name], tmp_path / "saved.tar")
    assert "Loaded image: app:1" in docker("load", "-i", str(tmp_path / "saved.tar"))
    shown = docker("run", "--rm", "--network=none", name).split()
    assert shown[0] == "hello"
    assert "gone" not in shown
    assert (
        docker("inspect", "--format", "{{.Id}}", name).strip() == engine.images.inspect(name)["id"]
    )
    docker("save", "-o", str(tmp_path / "docker.tar"), name)
    with pc.Engine(home=tmp_path / "other") as other:
        assert other.images.load(tmp_path / "docker.tar") == [name]
        assert output(other, name, "read x < /data; echo $x") == "hello\n"
        assert other.images.inspect(name)["id"] == engine.images.inspect(name)["id"]
    pushed = f"{plain_registry}/by/docker:1"
    docker("tag", name, pushed)
    docker("push", "--quiet", pushed)
    assert output(engine, pushed, "read x < /data; echo $x") == "hello\n"
    ours = f"{plain_registry}/by/us:1"
    engine.images.push(name, ours)
    assert docker("run", "--rm", "--network=none", ours).split()[0] == "hello"


@pytest.mark.needs("podman")
def test_podman(
    podman: Run, made: tuple[pc.Engine, str], tmp_path: Path, plain_registry: str
) -> None:
    engine, name = made
    engine.images.save([name], tmp_path / "saved.tar")
    assert "library/app:1" in podman("load", "-q", "-i", str(tmp_path / "saved.tar"))
    assert (
        podman("inspect", "--format", "{{.Id}}", name).strip()
        == engine.images.inspect(name)["id"][7:]
    )
    podman("save", "--format=oci-archive", "-o", str(tmp_path / "podman.tar"), name)
    with pc.Engine(home=tmp_path / "other") as other:
        assert other.images.load(tmp_path / "podman.tar", name="theirs:1") == ["theirs:1"]
        assert output(other, "theirs:1", "read x < /data; echo $x") == "hello\n"
    ours = f"{plain_registry}/for/podman:1"
    engine.images.push(name, ours)
    podman("pull", "-q", "--tls-verify=false", ours)
    pushed = f"{plain_registry}/by/podman:1"
    podman("push", "-q", "--tls-verify=false", ours, pushed)
    assert output(engine, pushed, "read x < /data; echo $x") == "hello\n"
