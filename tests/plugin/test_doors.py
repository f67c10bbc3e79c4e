"""Fixtures that need a capability refuse an engine without it, and name one that has it."""

from __future__ import annotations

import pytest

from pytest_containers.model.capabilities import ENGINES, Capability

CONFTEST = """
from pytest_containers.engines import choose
from pytest_containers.engines.native import Engine

class Lacking(Engine):
    name = "lacking"
    capabilities = Engine.capabilities - {{{capability!r}}}

def create_engine(name="native", **options):
    return Lacking(**options)

choose.create_engine = create_engine
"""

FIXTURES: dict[Capability, str] = {
    "builds": "pc.build_fixture('.')",
    "shares": "pc.container_fixture('host:', ['sleep', '1000'], isolation='none')",
    "snapshots": "pc.container_fixture('host:', ['sleep', '1000'], seed=lambda box: None)",
    "endpoints": "pc.container_fixture('host:', ['sleep', '1000'], "
    "endpoint=pc.endpoint('box', 80))",
}


def refusal(capability: Capability) -> str:
    """Return the message for an engine that lacks a capability."""
    engines = " or ".join(map(repr, ENGINES[capability]))
    return f"engine 'lacking' has no capability '{capability}'; use engine {engines}"


@pytest.mark.parametrize("capability", FIXTURES)
def test_fixtures(capability: Capability, pytester: pytest.Pytester, run) -> None:
    pytester.makeconftest(CONFTEST.format(capability=capability))
    result = run(f"box = {FIXTURES[capability]}\ndef test(box): pass\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*UnsupportedError: {refusal(capability)}"])


def test_keeping(pytester: pytest.Pytester, run) -> None:
    pytester.makeconftest(CONFTEST.format(capability="keep"))
    suite = "box = pc.container_fixture('host:', ['true'])\ndef test(box): pass\n"
    result = run(suite, "--containers-keep=all")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([f"*UnsupportedError: {refusal('keep')}"])


WARMED = """
class Warmed(pc.services.Redis):
    def warmup(self):
        raise AssertionError("asked for a warm-up")

box = Warmed.fixture(image="host:")
def test_1(box): pass
def test_2(box): assert box.command("PING")
"""


@pytest.mark.needs("redis")
@pytest.mark.long
def test_a_server_started_ahead_is_not_warmed_up(pytester: pytest.Pytester, run) -> None:
    """A warm-up only saves time: without the capability, the tests run all the same."""
    pytester.makeconftest(CONFTEST.format(capability="warmup"))
    run(WARMED).assert_outcomes(passed=2)
