"""The command line about images, as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.registry import Proxy

pytestmark = [pytest.mark.slow, pytest.mark.needs("docker-registry", "skopeo")]

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    def run(
        *arguments: str, code: int = 0, home: str = "store"
    ) -> subprocess.CompletedProcess[str]:
        import os

        environ = {**os.environ, "PYTEST_CONTAINERS_HOME": str(tmp_path / home)}
        command = [
            sys.executable,
            "-c",
            "import sys; from pytest_containers.cli import main; sys.exit(main())",
        ]
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, env=environ, timeout=60
        )
        assert done.returncode == code, done.stderr
        return done

    return run


@pytest.mark.long
def test_from_pull_to_prune(
    cli: Cli, proxy: Proxy, published: Callable[[str], str], tmp_path: Path
) -> None:
    name = f"{proxy.address}/{published('cli')}"
    pulled = cli("pull", name)
    assert f"containers: pulled {name}" in pulled.stderr
    assert cli("pull", "--quiet", name).stderr == ""
    assert cli("run", name).stdout == "cli\n"
    (one,) = json.loads(cli("images", "--format", "json").stdout)
    assert (one["name"], one["digest"]) == (name, pulled.stdout.strip())
    assert cli("images").stdout.splitlines()[0].split() == ["NAME", "ID", "SIZE", "CREATED"]
    other = f"{proxy.address}/cli/copy:2"
    cli("tag", name, other)
    assert cli("push", "-q", other).stdout == pulled.stdout
    (known,) = json.loads(cli("inspect", other).stdout)
    assert known["names"] == sorted([name, other])
    assert len(json.loads(cli("history", other, "--format", "json").stdout)) == 2
    assert cli("history", other).stdout.startswith("CREATED")
    cli("save", other, "-o", str(tmp_path / "saved.tar"))
    assert cli("load", str(tmp_path / "saved.tar"), home="second").stdout == f"{other}\n"
    assert cli("images", "--verify").stdout == "All images are intact.\n"
    exported = cli("cache", "export", str(tmp_path / "cache.tar")).stdout
    assert cli("cache", "import", str(tmp_path / "cache.tar"), home="third").stdout == exported
    assert cli("run", other, home="third").stdout == "cli\n"
    cli("run", "--commit", "kept:1", name, "/bin/sh", "-c", "echo kept > /data")
    assert cli("run", "kept:1").stdout == "kept\n"
    cli("run", "--commit", "failed:1", name, "/bin/sh", "-c", "exit 3", code=3)
    assert "failed:1" not in cli("images").stdout
    cli("rm", other, "kept:1")
    told = json.loads(cli("prune", "--all", "--dry-run", "--format", "json").stdout)
    assert told["names"] == [name]
    assert name in cli("prune", "--all").stdout
    assert json.loads(cli("images", "--format", "json").stdout) == []
    cli("cache", "clear", home="third")
    assert json.loads(cli("images", "--format", "json", home="third").stdout) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pull", "127.0.0.1:1/x:1"], "cannot be reached: Connection refused"),
        (["pull", "not valid"], "is not valid"),
        (["push", "nothing:1"], "'nothing:1' is not in the store"),
        (["save", "nothing:1", "-o", "x.tar"], "'nothing:1' is not in the store"),
        (["inspect", "nothing:1"], "'nothing:1' is not in the store"),
        (["tag", "nothing:1", "other:1"], "'nothing:1' is not in the store"),
        (["rm", "nothing:1"], "'nothing:1' is not in the store"),
        (["prune", "--unused-for", "ages"], "write 90s, 30m, 12h, 7d or 2w"),
        (["prune", "--keep-size", "much"], "'much' is not a size"),
        (["load", "/nonexistent"], "does not exist"),
        (["cache", "import", "/nonexistent"], "does not exist"),
        (["cache", "export", "x.tar"], "there is no image"),
    ],
)
def test_errors_are_one_line(cli: Cli, arguments: list[str], words: str) -> None:
    done = cli(*arguments, code=1)
    assert done.stderr.startswith("pytest-containers: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
