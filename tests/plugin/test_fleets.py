"""Settings that share states with other machines."""

from __future__ import annotations

import pytest
from helpers.ports import free_port
from helpers.registry import registry

pytestmark = pytest.mark.slow

SEEDED = """
def seed(box):
    with open("calls", "a") as file:
        file.write("x")
    box.write_text("/srv/text", "seeded")

box = pc.container_fixture("host:", ["sleep", "1000"], seed=seed)

@pytest.mark.parametrize("number", range(4))
def test_it(box, number):
    assert box.read_text("/srv/text") == "seeded"
"""


@pytest.mark.needs("docker-registry")
def test_a_second_store_finds_the_state(run, pytester, monkeypatch, tmp_path) -> None:
    with registry() as address:
        for number in range(2):
            monkeypatch.setenv("PYTEST_CONTAINERS_HOME", str(tmp_path / f"store{number}"))
            monkeypatch.setenv("PYTEST_CONTAINERS_STATES", f"{address}/ci/states, wait=30s")
            result = run(SEEDED)
            result.assert_outcomes(passed=4)
            result.stdout.no_fnmatch_line("*WARNING*")
    assert (pytester.path / "calls").read_text() == "x"


@pytest.mark.long
def test_a_registry_that_is_down_is_one_warning_of_all_workers(run, pytester, tmp_path) -> None:
    place = f"127.0.0.1:{free_port()}/ci/states"
    pytester.makeini(f"[pytest]\ncontainers_states = {place}\n")
    result = run(SEEDED, "-n", "2", f"--containers-home={tmp_path}/store")
    result.assert_outcomes(passed=4)
    warnings = [line for line in result.outlines if "WARNING" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"WARNING: states shared in {place}: registry")
    assert warnings[0].endswith("this run does without it")


@pytest.mark.parametrize(
    "value", ["word", "http://a/b", "a.example/b, often", "a.example/b, wait=x"]
)
def test_a_value_that_is_no_place(run, value: str) -> None:
    result = run("def test_it(): pass\n", f"--containers-states={value}")
    assert result.ret != 0
    assert "--containers-states" in result.stderr.str() + result.stdout.str()
