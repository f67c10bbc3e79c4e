"""Nothing is left behind, whoever is killed and whenever."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_containers as pc
from pytest_containers.images.store.store import Store

CHAOS = Path(__file__).with_name("chaos.py")
_ALL = int(os.environ.get("PYTEST_CONTAINERS_TEST_TRIALS", "100"))
TRIALS = {"engine": _ALL - 2 * (_ALL // 3), "pytest": _ALL // 3, "xdist": _ALL // 3}
"""How often, in all three kinds together."""


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", TRIALS)
def test_kill_anything_at_any_time(kind: str, tmp_path: Path) -> None:
    if kind == "xdist":
        pytest.importorskip("xdist")
    seed = os.environ.get("PYTEST_CONTAINERS_TEST_SEED", str(random.randrange(1 << 30)))
    environment = dict(os.environ)
    if "pytest_containers.plugin" in sys.argv:
        environment["CHAOS_LOAD_PLUGIN"] = "1"
    for name in [name for name in environment if name.startswith("PYTEST_XDIST")]:
        del environment[name]
    home, temporary = tmp_path / "store", tmp_path / "tmp"
    temporary.mkdir()
    arguments = [sys.executable, CHAOS, seed, str(TRIALS[kind]), home, temporary, kind]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == TRIALS[kind], done.stderr
    for result in results:
        what = f"seed {seed}: {result}"
        assert result["alive"] and result["containers"] >= 1, f"nothing to kill: {what}"
        assert result["left_of_run"] == [], what
        assert result["left_processes"] == [], what
        assert result["left"] == {}, what
    assert len({result["victim"] for result in results}) >= min(3, len(results))
    # The store is whole, and nobody holds a lock in it.
    with pc.Engine(home=home) as engine, engine.run("host:", ["true"]) as container:
        assert container.wait(60) == 0
    store = Store(home)
    store.sweep()
    assert os.listdir(home / "tmp") == []
