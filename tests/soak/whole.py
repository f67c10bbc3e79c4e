"""The whole of the soak: ``tox run -e soak``. It wants the machine for itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from soak import drive

_HOLDS = 16  # are let lie (`images.store.holds`)


@pytest.mark.timeout(1800)
def test_a_run_does_not_grow(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    root = os.geteuid() == 0
    environment = {"SOAK_KERNEL": "1"} if root else {}
    arguments = (10_000, 500, tmp_path / "store", tmp_path / "tmp")
    samples = drive.results("churn.py", *arguments, **environment)
    drive.check_churn(samples, 10_000, 1.05, 1.01)
    if root:
        first = next(sample for sample in samples if sample["containers"] >= 1000)
        last = samples[-1]
        # Other programs of the machine are in it. A network namespace alone would be 100 KiB.
        for name in ("SUnreclaim", "Percpu"):
            assert last[name] - first[name] < 2 * (last["containers"] - first["containers"]), name


@pytest.mark.timeout(600)
def test_three_hundred_live_at_once(tmp_path: Path) -> None:
    drive.check_live(drive.results("live.py", 300, 3000, tmp_path / "store"), 300)


@pytest.mark.timeout(900)
def test_four_runs_on_one_store(tmp_path: Path) -> None:
    holds = []
    for name in ("first", "second", "third"):
        *runs, end = drive.results("four_runs.py", 4, 40, tmp_path / "store", tmp_path / name)
        assert [run["exit"] for run in runs] == [0] * 4, runs
        assert end["left"] == [] and end["store tmp"] == []
        holds.append(end["holds"])
    assert holds[2] <= _HOLDS + holds[0]


@pytest.mark.needs("root", "postgresql")
@pytest.mark.timeout(900)
def test_a_database_beside_hogs(tmp_path: Path) -> None:
    results = drive.results("neighbour.py", tmp_path / "store", 2, 10)
    assert {
        result["beside"]: result["median / alone"]
        for result in results
        if result["median / alone"] > 1.5
    } == {}
