"""`setup` on a machine that lacks nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_containers.cli import doctor, main
from pytest_containers.model.machine import MachineFeature


def test_setup_says_that_there_is_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    present = MachineFeature("user namespaces", True, True, "may be made")
    monkeypatch.setattr(doctor, "_features", lambda: [present])
    assert main(["setup"]) == 0
    assert capsys.readouterr().out == "# Nothing to do: this machine offers everything.\n"


def test_setup_prints_the_commands_for_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = MachineFeature(
        "user namespaces", False, True, "denied", fix="permit them", commands=("sysctl x=1",)
    )
    monkeypatch.setattr(doctor, "_features", lambda: [missing])
    assert main(["setup"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "# user namespaces: denied", "# To do: permit them.", "sysctl x=1",
    ]  # fmt: skip


def test_what_containers_can_do_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTEST_CONTAINERS_HOME", str(tmp_path / "store"))
    assert main(["doctor", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["containers_run"] is True
    features = {feature["name"]: feature for feature in answer["features"]}
    assert features["a container"]["present"]
    assert features["snapshots"]["present"]
    assert str(tmp_path / "store") in features["disk"]["detail"]
    limits = features["limits"]
    assert limits["present"] or limits["fallback"]
    assert "confinement" in features
