"""Named results on ``host:`` are images of this machine, whoever made them and whoever asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.layouts import Layout, output

import pytest_containers as pc

pytestmark = pytest.mark.slow
MakeEngine = Callable[..., pc.Engine]
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line on the store of `own_engine`."""
    environ = {**os.environ, "PYTEST_CONTAINERS_HOME": str(tmp_path / "store")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = "import sys; from pytest_containers.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    return run


def by_build(engine: pc.Engine, name: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM host:\nRUN echo made > /srv/made\nENV OWN=1\n")
    engine.build(tmp_path, tags=(name,))


def by_snapshot(engine: pc.Engine, name: str, tmp_path: Path) -> None:
    with engine.run("host:", ["sh", "-c", "echo made > /srv/made"]) as container:
        container.wait(60)
        assert container.snapshot(name).name == name


def by_commit(engine: pc.Engine, name: str, tmp_path: Path) -> None:
    with engine.run("host:", ["sh", "-c", "echo made > /srv/made"]) as container:
        container.wait(60)
        assert container.commit(name, changes={"Env": ["OWN=1", "PATH=/usr/bin:/bin"]}).name == name


MAKERS = {"build": by_build, "snapshot": by_snapshot, "commit": by_commit}


@pytest.mark.parametrize(
    "maker",
    ["build", *(pytest.param(name, marks=pytest.mark.long) for name in ("snapshot", "commit"))],
)
def test_is_used_as_any_other(own_engine: MakeEngine, cli: Cli, tmp_path: Path, maker: str) -> None:
    engine = own_engine()
    MAKERS[maker](engine, "x:1", tmp_path)
    (line,) = engine.images.list()
    assert (line["name"], line["digest"], line["compressed_bytes"]) == ("x:1", "", 0)
    assert line["size_bytes"] >= len("made\n")
    assert line["created"].startswith("20")
    details = engine.images.inspect("x:1")
    assert details["names"] == ["x:1"]
    assert details["origin"] == "host:"
    assert details["id"] == line["id"] == engine.image("x:1").id
    if maker != "snapshot":
        assert "OWN=1" in details["config"]["Env"]
        assert output(engine, "x:1", "echo $OWN") == "1\n"
    for policy in ("never", "missing"):
        assert output(own_engine(pull=policy), "x:1", "cat /srv/made") == "made\n"
    (tmp_path / "Dockerfile").write_text("FROM x:1\nRUN cat /srv/made /srv/made > /srv/twice\n")
    engine.build(tmp_path, tags=("y:1",))
    assert output(engine, "y:1", "cat /srv/twice") == "made\nmade\n"
    engine.close()
    shown = [each["name"] for each in json.loads(cli("images", "--format", "json").stdout)]
    assert shown == ["x:1", "y:1"]
    assert json.loads(cli("inspect", "x:1").stdout)[0]["id"] == line["id"]
    assert cli("run", "x:1", "cat", "/srv/made").stdout == "made\n"
    assert cli("history", "x:1").returncode == 0
    assert cli("rmi", "x:1").returncode == 0
    gone = cli("inspect", "x:1")
    assert (gone.returncode, "is not in the store" in gone.stderr) == (1, True)
    assert cli("run", "y:1", "cat", "/srv/twice").stdout == "made\nmade\n"


@pytest.mark.long
def test_by_the_command_line_alone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM host:\nRUN echo made > /srv/made\nCMD cat /srv/made\n"
    )
    built = cli("build", "--quiet", "-t", "x:1", str(tmp_path))
    assert built.returncode == 0, built.stderr
    (tmp_path / "Dockerfile").write_text("FROM x:1\nRUN echo again >> /srv/made\n")
    again = cli("build", "--quiet", "-t", "y:1", "--pull", str(tmp_path))
    assert again.returncode == 0, again.stderr
    assert cli("run", "--rm", "--name", "first", "x:1").stdout == "made\n"
    assert cli("run", "--pull", "always", "y:1").stdout == "made\nagain\n"
    for policy in ("never", "missing"):
        assert cli("pull", "--policy", policy, "x:1").returncode == 0
    assert cli("run", "--name", "first", "x:1", "hostname").stdout == "first\n"


def test_run_commit(own_engine: MakeEngine, cli: Cli) -> None:
    done = cli("run", "--commit", "x:1", "host:", "sh", "-c", "echo made > /srv/made")
    assert done.returncode == 0, done.stderr
    ran = cli("run", "x:1", "cat", "/srv/made")
    assert (ran.stdout, ran.stderr) == ("made\n", "")


@pytest.mark.parametrize("maker", MAKERS)
def test_does_not_leave_the_machine(
    own_engine: MakeEngine, cli: Cli, tmp_path: Path, maker: str
) -> None:
    engine = own_engine()
    MAKERS[maker](engine, "x:1", tmp_path)
    words = (
        "of image 'x:1': it is based on this machine's own programs .* so it can only be used "
        "here; to move it, make it of an image with a root file system of its own"
    )
    with pytest.raises(pc.ImageError, match=f"push {words}"):
        engine.images.push("x:1", "127.0.0.1:1/x:1")
    with pytest.raises(pc.ImageError, match=f"save {words}"):
        engine.images.save(["x:1"], tmp_path / "x.tar")
    engine.close()
    for arguments in (
        ("push", "x:1", "127.0.0.1:1/x:1"),
        ("save", "-o", str(tmp_path / "x"), "x:1"),
    ):
        done = cli(*arguments)
        assert done.returncode == 1
        assert "can only be used here; to move it" in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.long
def test_a_name_is_of_one_thing(
    own_engine: MakeEngine, layout: Layout, base: bytes, tmp_path: Path
) -> None:
    """The last that was given it, as with Docker's tags."""
    engine = own_engine()
    source = layout.image([base]).removeprefix("oci:")
    for _ in range(2):
        engine.images.load(source, name="x:1")
        assert output(engine, "x:1", "test -e /usr || echo layers") == "layers\n"
        assert [line["name"] for line in engine.images.list()] == ["x:1"]
        by_snapshot(engine, "x:1", tmp_path)
        assert output(engine, "x:1", "cat /srv/made") == "made\n"
        assert [line["name"] for line in engine.images.list()] == ["x:1"]
    engine.images.load(source, name="other:1")
    engine.images.tag("other:1", "x:1")
    assert output(engine, "x:1", "test -e /usr || echo layers") == "layers\n"
    by_build(engine, "x:1", tmp_path)
    assert output(engine, "x:1", "cat /srv/made") == "made\n"
    engine.images.tag("x:1", "other:1")
    assert output(engine, "other:1", "cat /srv/made") == "made\n"
    assert engine.images.inspect("x:1")["names"] == ["other:1", "x:1"]
    engine.images.remove("x:1")
    assert [line["name"] for line in engine.images.list()] == ["other:1"]
    with pytest.raises(pc.ImageNotFoundError):
        engine.images.remove("x:1")
