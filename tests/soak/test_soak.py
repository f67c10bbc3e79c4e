"""A run stays as it is, however many containers it starts, and however many live at once.

This is the short form; ``tox run -e soak`` has the whole (`whole.py`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from soak import drive

pytestmark = pytest.mark.slow


def test_a_run_does_not_grow(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    samples = drive.results("churn.py", 100, 50, tmp_path / "store", tmp_path / "tmp")
    drive.check_churn(samples, 100, 1.1, 1.1)


def test_many_live_at_once(tmp_path: Path) -> None:
    drive.check_live(drive.results("live.py", 60, 40, tmp_path / "store"), 60)
