"""What confinement costs a start: ``python -m benchmarks.confinement [--rounds N]``.

One container from start to gone, with the filter of system calls, a cgroup and limits, and without
them, in turn within one run; the difference is the median of that of neighbours in time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from typing import Any

import pytest_containers as pc
from benchmarks.measure import Case, Sample, interleave, timed

NOTHING = "nothing"
OPTIONS: dict[str, dict[str, Any]] = {
    NOTHING: {"security_opt": ["seccomp=unconfined"]},
    "filter": {},
    "limits of memory": {"security_opt": ["seccomp=unconfined"], "mem_limit": "256m"},
    "filter, limits of memory and processes": {"mem_limit": "256m", "pids_limit": 100},
    "filter, limits of memory, processes and processors": {
        "mem_limit": "256m", "pids_limit": 100, "cpus": 1,
    },
}  # fmt: skip


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.confinement")
    parser.add_argument("--rounds", type=int, default=500, help="values per case (500)")
    rounds = parser.parse_args().rounds
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as home,
        pc.Engine(home=home) as engine,
    ):
        samples = {name: _sample(engine, options) for name, options in OPTIONS.items()}
        results = {one.who: one for one in interleave(Case("", samples), rounds, warm_up=10)}
    print("| confined by | median | quartiles | more than nothing |")
    print("|---|---|---|---|")
    for name, result in results.items():
        pairs = zip(result.values, results[NOTHING].values, strict=True)
        more = statistics.median(a - b for a, b in pairs)
        low, high = result.quartiles
        print(f"| {name} | {result.median:.2f} ms | {low:.2f} to {high:.2f} | {more:.2f} ms |")


def _sample(engine: pc.Engine, options: dict[str, Any]) -> Sample:
    def start_to_gone() -> None:
        with engine.run("host:", ["true"], wait_ready=False, **options) as container:
            if container.wait(30) != 0:
                raise RuntimeError(container.logs())

    return timed(start_to_gone)


if __name__ == "__main__":
    main()
