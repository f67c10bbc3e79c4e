"""What users of containers leave in directories of an ordinary user."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import inner

import pytest_containers as pc

LEAVE = """
import os, subprocess

SCRIPT = '''
mkdir -p /data/deep/inner && echo left > /data/deep/inner/file && ln -s /etc/shadow /data/deep/link
mkdir /data/closed && touch /data/closed/file && chmod 0 /data/closed
'''

def leave(containers, path):
    path.chmod(0o777)
    container = containers.run(
        "host:", ["sh", "-c", SCRIPT], user="1000:1000", mounts=[pc.Bind(path, "/data")],
        wait_ready=False)
    assert container.wait(60) == 0, container.logs()

def test_of_a_test(containers, tmp_path):
    leave(containers, tmp_path)
    assert (tmp_path / "deep").stat().st_uid != os.geteuid()

@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("session")

def test_of_a_session(session_containers, folder):
    (folder / "data").mkdir()
    leave(session_containers, folder / "data")

def test_used_again(containers, folder):
    container = containers.run(
        "host:", ["sh", "-c", "echo more >> /data/deep/inner/file"], user="1000:1000",
        mounts=[pc.Bind(folder / "data", "/data")], wait_ready=False)
    assert container.wait(60) == 0, container.logs()
"""


@pytest.mark.needs("ordinary user")
@pytest.mark.parametrize(("policy", "workers"), [("all", "2"), ("failed", "0"), ("none", "0")])
def test_pytest_removes_them(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, policy: str, workers: str
) -> None:
    root = pytester.mkdir("temporary")
    monkeypatch.setenv("PYTEST_DEBUG_TEMPROOT", str(root))
    test = pytester.makepyfile("import pytest\nimport pytest_containers as pc\n" + LEAVE)
    command = [
        sys.executable, "-m", "pytest", *inner.plugins("-n"), "-n", workers, "--dist", "loadfile", "-W", "error", "-o", f"tmp_path_retention_policy={policy}",
        "-o", "tmp_path_retention_count=1", test,
    ]  # fmt: skip
    for _ in range(2):
        result = pytester.run(*command)
        result.assert_outcomes(passed=3)
        assert "warning" not in result.stdout.str().lower()
        assert [path for path in root.rglob("*") if path.lstat().st_uid != os.geteuid()] == []
    kept = [path for path in root.glob("pytest-of-*/pytest-*") if not path.is_symlink()]
    assert len(kept) == (1 if policy == "all" else 0)


@pytest.mark.needs("ordinary user")
def test_unshare_runs_a_command_to_which_they_belong(tmp_path: Path, engine: pc.Engine) -> None:
    tmp_path.chmod(0o777)
    with engine.run(
        "host:", ["sh", "-c", "mkdir -m 700 /data/left && touch /data/left/file"],
        user="1000:1000", mounts=[pc.Bind(tmp_path, "/data")], wait_ready=False,
    ) as container:  # fmt: skip
        assert container.wait(60) == 0, container.logs()
    assert (tmp_path / "left").stat().st_uid != os.geteuid()
    shown = unshare("stat", "-c", "%u:%g", str(tmp_path / "left"), str(tmp_path))
    assert (shown.returncode, shown.stdout) == (0, "1000:1000\n0:0\n")
    assert unshare("rm", "-r", str(tmp_path / "left")).returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["sh", "-c", "id -u; exit 3"], 3, "0\n"),
        (["sh", "-c", "kill -TERM $$"], -15 if os.geteuid() == 0 else 143, ""),
        (["--", "echo", "-n", "word"], 0, "word"),
    ],
    ids=str,
)
def test_the_exit_code_of_unshare(command: list[str], code: int, words: str) -> None:
    done = unshare(*command)
    assert (done.returncode, done.stdout) == (code, words), done.stderr


def test_a_command_that_is_not_there() -> None:
    done = unshare("/nosuch")
    assert done.returncode == 127
    # A user without subordinate ids is told of that before.
    assert done.stderr.endswith("unshare: /nosuch: No such file or directory\n")


def test_no_command() -> None:
    done = unshare()
    assert done.returncode == 125
    assert "there is no command" in done.stderr


def unshare(*command: str) -> subprocess.CompletedProcess[str]:
    main = "import sys; from pytest_containers.cli import main; sys.exit(main())"
    program = [sys.executable, "-c", main, "unshare", *command]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
