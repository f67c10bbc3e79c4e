"""This checkout beside an earlier one: ``python -m benchmarks.before CHECKOUT [--rounds N]``.

Both do the same work in turn within one run, so that a slow minute of the machine hits both. Each
has a process and a store of its own; what is measured in fresh processes (a cold run, pytest with
the plugin and no container) gets one for every value. With ``--security-opt seccomp=unconfined``
this checkout does without the filter of system calls, which an earlier one may not have.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import ours
from benchmarks.measure import Case, Result, Sample, interleave, timed

WORKER = """
import os, sys, time
import pytest_containers as pc

engine = pc.Engine(home=sys.argv[1])
options = {"security_opt": sys.argv[2:]} if sys.argv[2:] else {}
kept = engine.run("host:", ["sleep", "10000"], **options)

def start_to_gone():
    with engine.run("host:", ["true"], wait_ready=False, **options) as container:
        assert container.wait(30) == 0

def run_exec():
    kept.exec(["true"], check=True)

def with_network():
    network = engine.create_network()
    with engine.run("host:", ["true"], network=network, wait_ready=False, **options) as container:
        assert container.wait(30) == 0
    network.remove()

def logs():
    with engine.run("host:", ["echo", "hello"], wait_ready=False, **options) as container:
        container.wait(30)
        assert container.logs().stdout == "hello\\n"

def with_bind(read_only):
    mounts = [pc.Bind(os.path.dirname(sys.argv[1]), "/mnt", read_only=read_only)]
    with engine.run("host:", ["true"], mounts=mounts, wait_ready=False, **options) as container:
        assert container.wait(30) == 0

def read_only_bind():
    with_bind(True)

def writable_bind():
    with_bind(False)

for line in sys.stdin:
    start = time.perf_counter()
    globals()[line.strip()]()
    print((time.perf_counter() - start) * 1000, flush=True)
"""
COLD = """
import sys, time
import pytest_containers as pc
engine = pc.Engine(home=sys.argv[1])
start = time.perf_counter()
options = {"security_opt": sys.argv[2:]} if sys.argv[2:] else {}
with engine.run("host:", ["true"], wait_ready=False, **options) as container:
    container.wait(10)
print((time.perf_counter() - start) * 1000)
engine.close()
"""
POSTGRES = """
import os, time
import pytest
import pytest_containers as pc

words = os.environ["SECURITY_OPT"].split()
options = {"security_opt": words} if words else {}

def load(db):
    db.sql("create table account (id integer primary key, owner text)")

db = pc.services.Postgres.fixture(image="host:", seed=load, **options)
began, took = [], []

@pytest.fixture
def before():
    began.append(time.perf_counter())

@pytest.mark.parametrize("number", range(20))
def test_it(before, db, number):
    assert db.sql("select count(*) from account") == [["0"]]
    took.append(time.perf_counter() - began[-1])

def test_last():
    import statistics
    cycles = [later - earlier for earlier, later in zip(began, began[1:])]
    for name, values in (("took", took), ("cycle", cycles)):
        open(name, "w").write(str(statistics.median(values) * 1000))
"""
WARM = {
    "a container, start to gone": "start_to_gone",
    "the same with a network of its own": "with_network",
    "the same with a read-only bind": "read_only_bind",
    "the same with a writable bind": "writable_bind",
    "echo and its output": "logs",
    "exec of true": "run_exec",
}


class Checkout:
    """One of the two sides: a checkout, a store, and a process that serves samples."""

    def __init__(self, path: Path, work: Path, security_opt: Sequence[str] = ()) -> None:
        self.path = path
        self.security_opt = security_opt
        self.home = work / "store"
        self.work = work
        work.mkdir()
        self._worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(self.home), *security_opt], env=self.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """What makes a fresh Python import this checkout."""
        return {
            **os.environ, "PYTHONPATH": str(self.path), "PYTEST_CONTAINERS_HOME": str(self.home),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONSAFEPATH": "1",
            "SECURITY_OPT": " ".join(self.security_opt),
        }  # fmt: skip

    def close(self) -> None:
        """End the process and its run."""
        assert self._worker.stdin is not None
        self._worker.stdin.close()
        self._worker.wait(30)

    def warm(self, function: str) -> Sample:
        """Milliseconds of a function of the worker, whose run goes on from value to value."""

        def sample() -> float:
            assert self._worker.stdin is not None
            assert self._worker.stdout is not None
            self._worker.stdin.write(f"{function}\n")
            self._worker.stdin.flush()
            return float(self._worker.stdout.readline())

        return sample

    def cold(self) -> float:
        """Milliseconds to the end of the first container in a fresh process."""
        return float(self._python("-c", COLD, str(self.home), *self.security_opt))

    def imported(self) -> float:
        """Milliseconds that pytest takes for one test without containers, plugin loaded."""
        folder = self.work / "unused"
        folder.mkdir(exist_ok=True)
        (folder / "test_plain.py").write_text("def test_it(): pass\n")
        return timed(lambda: self._pytest(folder))()

    def postgres(self) -> float:
        """Milliseconds until a test has a seeded PostgreSQL of its own that has answered."""
        return self._postgres("took")

    def postgres_cycle(self) -> float:
        """Milliseconds from one such test to the next: the end of its server counts too."""
        return self._postgres("cycle")

    def _postgres(self, what: str) -> float:
        folder = self.work / "postgres"
        folder.mkdir(exist_ok=True)
        (folder / "test_postgres.py").write_text(POSTGRES)
        self._pytest(folder, "-p", "no:randomly", "--containers-lookahead=off")
        return float((folder / what).read_text())

    def _pytest(self, folder: Path, *arguments: str) -> None:
        extra = ["-q", "-p", "no:cacheprovider", *ours.PLUGIN, *arguments]
        self._python("-m", "pytest", *extra, ".", cwd=folder)

    def _python(self, *arguments: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], env=self.environment, cwd=cwd or self.work, text=True,
            capture_output=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{self.path}: {done.stdout}{done.stderr}")
        return done.stdout


@contextlib.contextmanager
def _both(earlier: Path, security_opt: Sequence[str]) -> Iterator[dict[str, Checkout]]:
    here = Path(__file__).resolve().parents[1]
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as name,
        contextlib.ExitStack() as stack,
    ):
        sides = {}
        for side, path, words in (("now", here, security_opt), ("before", earlier.resolve(), ())):
            sides[side] = Checkout(path, Path(name) / side, words)
            stack.callback(sides[side].close)
        yield sides


def cases(sides: dict[str, Checkout], rounds: int) -> list[Case]:
    """All that is compared; slow work has fewer rounds."""

    def of(method: str) -> dict[str, Sample]:
        return {side: getattr(checkout, method) for side, checkout in sides.items()}

    fewer = max(rounds // 3, 3)
    warm = [
        Case(title, {side: checkout.warm(function) for side, checkout in sides.items()},
             rounds=rounds * 10)
        for title, function in WARM.items()
    ]  # fmt: skip
    return [
        *warm,
        Case("first container of a cold run", of("cold"), rounds=rounds),
        Case("one test without containers, plugin loaded", of("imported"), rounds=rounds),
        Case("seeded PostgreSQL per test, until it answers", of("postgres"), rounds=fewer),
        Case("the same, from test to test", of("postgres_cycle"), rounds=fewer),
    ]


def row(results: list[Result]) -> str:
    """A line of the table: medians, quartiles and the ratio."""
    by = {result.who: result for result in results}
    cells = [
        f"{by[side].median:.2f} ({by[side].quartiles[0]:.2f}–{by[side].quartiles[1]:.2f})"
        for side in ("now", "before")
    ]
    # Neighbours in time are compared: what slows the machine for a while slows both.
    pairs = [a / b for a, b in zip(by["now"].values, by["before"].values, strict=True)]
    return (
        f"| {results[0].case} | {' | '.join(cells)} | "
        f"{by['now'].median / by['before'].median:.3f} | {statistics.median(pairs):.3f} |"
    )


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.before")
    parser.add_argument("checkout", type=Path, help="the earlier checkout")
    parser.add_argument("--rounds", type=int, default=20, help="values of a cold start (20)")
    parser.add_argument(
        "--security-opt", action="append", default=[], help="of this checkout's containers only"
    )
    arguments = parser.parse_args()
    print("| ms, median (quartiles) | now | before | ratio | ratio of pairs |")
    print("|---|---|---|---|---|")
    with _both(arguments.checkout, arguments.security_opt) as sides:
        for case in cases(sides, arguments.rounds):
            print(row(interleave(case, arguments.rounds, warm_up=2)), flush=True)


if __name__ == "__main__":
    main()
