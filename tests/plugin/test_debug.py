"""The option ``--containers-debug``."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.long
def test_workers_and_their_controller_write_one_file(
    run, pytester: pytest.Pytester, store_home: Path
) -> None:
    pytest.importorskip("xdist")
    file = pytester.path / "debug.txt"
    result = run(
        """
@pytest.mark.parametrize("n", range(4))
def test_it(containers, n):
    containers.run("host:", ["true"], name=f"c{n}").wait()
""",
        "-n2",
        f"--containers-debug={file}",
        f"--containers-home={store_home}",
    )
    result.assert_outcomes(passed=4)
    trace = file.read_text()
    assert len({line.split()[3] for line in trace.splitlines() if "  test " in line}) >= 2
    assert all(f"name=c{n} " in trace for n in range(4))


def test_the_environment_names_it_too(
    run, pytester: pytest.Pytester, store_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = pytester.path / "debug.txt"
    monkeypatch.setenv("PYTEST_CONTAINERS_DEBUG", str(file))
    test = """
def test_it(containers):
    containers.run("host:", ["true"], name="c").wait()
"""
    run(test, f"--containers-home={store_home}").assert_outcomes(passed=1)
    assert " supervisor      Run  " in file.read_text()
