"""What `pytest-containers doctor` says of Docker's endpoints, and of the engine to take."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from helpers import dockerd

from pytest_containers.cli import main
from pytest_containers.engines import choose, possible, shared_proc
from pytest_containers.engines.docker import connection, survey
from pytest_containers.linux import landlock
from pytest_containers.model.machine import DaemonReport, MachineFeature

NATIVE = [MachineFeature("kernel", True, True, "new"), MachineFeature("way out", False, False, "")]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory without contexts, and nothing in the environment."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def silent() -> Iterator[str]:
    """A port whose connections are accepted by the kernel, and never answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


def add_context(home: Path, name: str, url: str) -> None:
    """Add a context of Docker's command line."""
    folder = home / ".docker" / "contexts" / "meta" / sha256(name.encode()).hexdigest()
    folder.mkdir(parents=True)
    meta = {"Name": name, "Endpoints": {"docker": {"Host": url}}}
    (folder / "meta.json").write_text(json.dumps(meta))


def doctor(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Run it and return its answer."""
    main(["doctor", "--json"])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_an_endpoint_that_does_not_answer(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", silent)
    taken = survey.begin_survey(0.1)()[0]
    assert taken == DaemonReport(silent, "DOCKER_HOST", True, False, False, taken.reason)
    assert taken.reason.startswith("it does not answer")


def test_contexts_and_why_they_cannot_be_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_context(home, "far", "ssh://somebody@elsewhere")
    add_context(home, "near", "tcp://127.0.0.1:1")
    add_context(home, "of no kind", "ftp://nowhere")
    monkeypatch.setenv("DOCKER_CONTEXT", "near")
    monkeypatch.setenv("PATH", str(home))  # where no ssh is
    reports = [each for each in survey.begin_survey(20)() if "unix:" not in each.url]
    nobody = "nothing listens there: start Docker, or set DOCKER_HOST"
    near = DaemonReport("tcp://127.0.0.1:1", "context 'near'", True, False, False, nobody)
    no_ssh = "ssh failed: the program ssh is not installed"
    far = DaemonReport("ssh://somebody@elsewhere", "context 'far'", False, True, False, no_ssh)
    assert reports == [near, far]


def test_a_context_that_does_not_exist(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "gone")
    monkeypatch.setattr("pytest_containers.cli.doctor._features", lambda: NATIVE)
    answer = doctor(capsys)
    assert "Docker has no context 'gone'" in answer["docker"][0]["reason"]
    assert answer["auto"]["engine"] == "native"


@pytest.mark.slow
@pytest.mark.needs("docker", "root")
def test_a_daemon(
    daemon: dockerd.Daemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pytest_containers.cli.doctor._features", lambda: NATIVE)
    begin = survey.begin_survey
    monkeypatch.setattr(survey, "begin_survey", lambda: begin(20))
    monkeypatch.setenv("DOCKER_HOST", daemon.url)
    taken = doctor(capsys)["docker"][0]
    version = daemon.call("version", "--format={{.Server.Version}}").strip()
    assert (taken["reachable"], taken["remote"], taken["reason"]) == (True, False, "")
    assert taken["product"] == f"Docker {version}"
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    api = taken["api_version"]
    assert f"{daemon.url} (DOCKER_HOST): Docker {version}, API {api}, on this machine" in shown
    assert "ok  auto     takes native, which lacks capture, way out" in shown


@pytest.mark.parametrize(
    ("reason", "abi", "engine", "lacking"),
    [("", 7, "docker", "keep"), ("down", 7, "process", "builds"), ("down", 0, "", "")],
)
def test_what_auto_takes_where_native_cannot_run(
    reason: str, abi: int, engine: str, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(possible, "why_not", lambda: "Operation not permitted")
    monkeypatch.setattr(landlock, "version", lambda: abi)
    daemon = DaemonReport("unix:///s", "the default", True, False, not reason, reason)
    choice = choose.auto_choice(NATIVE, [daemon])
    assert choice.engine == engine
    assert choice.passed_over["native"] == "Operation not permitted"
    assert choice.passed_over.get("docker", "") == reason
    assert not engine or lacking in choice.lacks
    assert "way out" not in choice.lacks  # of the native engine


def test_the_docker_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert connection.lacks_package().endswith("pip install 'pytest-containers[docker]'")


ROOT = "21 1 254:0 / / rw - ext4 /dev/vda rw\n"
PROC = "22 21 0:20 / /proc rw,nosuid - proc proc rw\n"
EMPTY = "23 22 0:30 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw\n"
MASK = "24 22 0:31 / /proc/acpi ro - tmpfs tmpfs ro\n"
SYS = "25 22 0:20 /sys /proc/sys ro,nosuid - proc proc rw\n"


@pytest.mark.parametrize(
    ("lines", "is_shared"),
    [
        (ROOT + PROC, False),
        (ROOT + PROC + EMPTY, False),
        (ROOT + PROC + MASK, True),
        (ROOT + PROC + SYS, True),
        (ROOT + PROC.replace("rw,", "ro,"), True),
        (ROOT + PROC + MASK + "26 21 0:32 / /mnt/proc rw - proc proc rw\n", False),
        (ROOT, True),
    ],
)
def test_whether_a_proc_may_be_mounted_here(lines: str, is_shared: bool, tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(lines)
    assert shared_proc.is_shared(str(tmp_path / "mountinfo")) is is_shared


def test_it_is_as_a_run_finds_it() -> None:
    with choose.create_engine("native") as engine:
        assert shared_proc.is_shared() is not engine.facts["features"]["own_proc"]
        assert bool(engine.facts["label"]) is shared_proc.is_shared()
