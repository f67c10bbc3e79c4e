"""Run the programs of this directory, and compare the figures that they print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROLES = ("test", "launcher", "supervisor", "network")
_COUNTED = ("threads", "descriptors", "mounts", "sockets")


def results(program: str, *arguments: object, **environment: str) -> list[dict[str, Any]]:
    """Run a program; return the objects that it prints."""
    environment = {**os.environ, **environment}
    for name in [name for name in environment if name.startswith("PYTEST_XDIST")]:
        del environment[name]
    if "pytest_containers.plugin" in sys.argv:
        environment["SOAK_LOAD_PLUGIN"] = "1"
    command = [sys.executable, Path(__file__).with_name(program), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    sys.stdout.write(done.stdout)  # the figures, with `pytest -s` or when the test fails
    return [json.loads(line) for line in done.stdout.splitlines()]


def counts(sample: dict[str, Any]) -> dict[str, Any]:
    """Return the figures that are the same whenever nothing is left."""
    names = [f"{role} {kind}" for role in ROLES for kind in _COUNTED]
    names += ["processes", "namespaces", "cgroups", "store files", "store KiB"]
    return {name: sample[name] for name in names}


def memory(sample: dict[str, Any]) -> dict[str, float]:
    """Return the memory of each process of a run, in KiB."""
    return {
        f"{role} {kind}": sample[f"{role} {kind}"] for role in ROLES for kind in ("rss", "private")
    }


def check_churn(samples: list[dict[str, Any]], count: int, most: float, at_rest: float) -> None:
    """Check the figures of `churn.py` from a tenth of its containers on.

    What a run keeps for later, it mostly has by then; before that, it grows.

    Args:
        samples: The figures.
        count: How many containers there were to be.
        most: The largest ratio of memory, last to first.
        at_rest: The same from half of the containers on.
    """
    last = samples[-1]
    assert last["containers"] >= count
    for part, limit in ((10, most), (2, at_rest)):
        first = next(sample for sample in samples if sample["containers"] >= count / part)
        assert counts(last) == counts(first)
        before, after = memory(first), memory(last)
        grown = {
            name: (before[name], after[name])
            for name in before
            if after[name] > before[name] * limit
        }
        assert grown == {}


def check_live(samples: list[dict[str, Any]], count: int) -> None:
    """Check the figures of `live.py`."""
    before, begun, churned, after = samples
    assert [sample["live"] for sample in samples] == [0, count, count, 0]
    assert begun["processes"] == before["processes"] + count
    assert counts(begun) == counts(churned)
    assert counts(before) == counts(after)
