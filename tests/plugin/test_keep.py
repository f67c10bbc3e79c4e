"""``--containers-keep``: which containers stay after the test run, and which do not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_containers import cli

SUITE = """
box = pc.container_fixture("host:", ["sh", "-c", "echo box; sleep 1000"])
wide = pc.container_fixture("host:", ["sleep", "1000"], scope="module")
broken = pc.container_fixture("host:", ["sh", "-c", "echo why; exit 3"], ports=[80])

shared = pc.container_fixture("host:", ["sleep", "1000"], isolation="none")

def load(seeded):
    seeded.write_text("/half", "done")
    raise KeyError("lost")

seeded = pc.container_fixture("host:", ["sleep", "1000"], seed=load)

def test_passes(box): pass
def test_fails(box, wide, shared): assert not box.name
def test_start(broken): pass
def test_seed(seeded): pass
"""


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of this test for kept runs, of which nothing stays."""
    path = tmp_path / "runtime"
    path.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    monkeypatch.setenv("PYTEST_CONTAINERS_HOME", str(tmp_path / "store"))
    yield path
    assert cli.main(["rm", "--all"]) == 0
    assert listed_files(path) == []


def listed_files(runtime: Path) -> list[str]:
    folder = runtime / "pytest-containers"
    return os.listdir(folder) if folder.exists() else []


def kept(capfd: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Return the lines of `ps` by the name of the container."""
    capfd.readouterr()
    assert cli.main(["ps"]) == 0
    lines = capfd.readouterr().out.splitlines()[1:]
    return {line.split()[1]: line for line in lines}


@pytest.mark.parametrize(
    "workers", [[], pytest.param(["-n", "2"], marks=pytest.mark.long)], ids=["plain", "xdist"]
)
def test_containers_of_failed_tests_stay(run, capfd, workers: list[str]) -> None:
    result = run(SUITE, "--containers-keep=failed", "--containers-keep-time=5m", *workers)
    result.assert_outcomes(passed=1, failed=1, errors=2)
    containers = kept(capfd)
    # With xdist, other workers may still use a shared container.
    shared = set() if workers else {"shared"}
    assert containers.keys() == {"box", "wide", "broken", "seeded", *shared}
    for name, test in (
        ("box", "fails"),
        ("wide", "fails"),
        ("broken", "start"),
        ("seeded", "seed"),
    ):
        assert containers[name].endswith(f"::test_{test}")
        assert "in 5 min" in containers[name]
        result.stdout.fnmatch_lines([f"*::test_{test}: {name} (host:)"])
    assert "exited (3)" in containers["broken"]
    result.stdout.fnmatch_lines(["for 5 min at most: pytest-containers ps, logs *"])
    assert cli.main(["logs", "broken"]) == 0
    assert capfd.readouterr().out == "why\n"
    assert cli.main(["exec", "seeded", "cat", "/half"]) == 0
    assert capfd.readouterr().out == "done"
    assert cli.main(["exec", "box", "getent", "hosts", "wide"]) == 0  # the networks are there


@pytest.mark.long
def test_all_stay_up_to_the_limit(run, pytester: pytest.Pytester, capfd) -> None:
    pytester.makeini("[pytest]\ncontainers_keep = all\ncontainers_keep_limit = 2\n")
    result = run(
        """
box = pc.container_fixture("host:", ["sleep", "1000"])

@pytest.mark.parametrize("number", range(4))
def test_it(box, number): pass
"""
    )
    result.assert_outcomes(passed=4)
    capfd.readouterr()
    assert cli.main(["ps"]) == 0
    lines = capfd.readouterr().out.splitlines()[1:]
    assert [line[-3:] for line in lines] == ["[2]", "[3]"]


@pytest.mark.long
def test_nothing_stays_by_default(run, runtime: Path, capfd) -> None:
    run(SUITE).assert_outcomes(passed=1, failed=1, errors=2)
    assert kept(capfd) == {} and listed_files(runtime) == []


def test_wrong_times_are_told(run) -> None:
    for option in ("--containers-keep-time=soon", "--containers-keep-time=0h"):
        result = run("", option)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["ERROR: *it must be a time such as 90s, 30m, 2h or 1d"])


@pytest.mark.long
def test_a_debugger_finds_the_containers_alive(run, pytester: pytest.Pytester, capfd) -> None:
    pytester.makepyfile(
        looking="""
import pdb, subprocess, sys

COMMAND = [sys.executable, "-c", "from pytest_containers.cli import main; raise SystemExit(main())"]

class Look(pdb.Pdb):
    def interaction(self, *args):
        for words in (["ps"], ["logs"], ["rm", "last"]):
            done = subprocess.run([*COMMAND, *words], capture_output=True, text=True)
            print("SHOWN", words[0], done.stdout, done.stderr)
"""
    )
    result = run(SUITE, "--pdb", "--pdbcls=looking:Look", "-k", "fails or start", "-s")
    result.assert_outcomes(failed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "containers: *box*; in another terminal: pytest-containers enter *",
            "SHOWN ps *",
            "*  box  *running*with its test*::test_fails",
            "*is not kept; it ends with its test*",
            "SHOWN ps *",
            "*  broken  *exited (3)*with its test*::test_start",
            "SHOWN logs why",
        ]
    )
    assert kept(capfd) == {}
