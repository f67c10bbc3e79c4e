"""Every door that needs a capability refuses an engine without it, and names one that has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

import pytest_containers as pc
from pytest_containers import cli
from pytest_containers.engines import choose
from pytest_containers.engines.native import broker
from pytest_containers.model.capabilities import ENGINES, Capability
from pytest_containers.model.engine import Engine
from pytest_containers.services.endpoints import Endpoint, Endpoints
from pytest_containers.state.warm import Stage, WarmStates, nothing


def refusal(capability: Capability) -> str:
    """Return the message for an engine that lacks a capability."""
    engines = " or ".join(repr(name) for name in ENGINES[capability])
    way_out = f"use engine {engines}" if engines else "no engine of this version has it"
    return f"engine 'lacking' has no capability {capability!r}; {way_out}"


def lacking(capability: Capability) -> type[Engine]:
    """Return a native engine that lacks a capability; `choose` is left alone."""
    native = choose.Engine
    has: Any = native.capabilities
    return type("Lacking", (native,), {"name": "lacking", "capabilities": has - {capability}})


@pytest.mark.parametrize("capability", get_args(Capability))
def test_every_capability_has_a_message(capability: Capability) -> None:
    with lacking(capability)() as engine:
        with pytest.raises(pc.UnsupportedError) as caught:
            engine.require(capability)
        assert str(caught.value) == refusal(capability)
        assert caught.value.engines == list(ENGINES[capability])


@pytest.mark.parametrize(
    ("capability", "arguments"),
    [
        ("attach", ["run", "host:", "true"]),
        ("snapshots", ["run", "--commit", "name", "host:", "true"]),
        ("builds", ["build", "."]),
    ],
)
def test_commands(
    capability: Capability, arguments: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    engine = lacking(capability)
    monkeypatch.setattr(choose, "create_engine", lambda name, **options: engine(**options))
    assert cli.main(arguments) != 0
    assert capsys.readouterr().err == f"pytest-containers: {refusal(capability)}\n"


def test_endpoints() -> None:
    endpoint = Endpoint("lacking", 80)
    with lacking("endpoints")() as engine, engine.run("host:", ["sleep", "1000"]) as container:
        with pytest.raises(pc.UnsupportedError, match=refusal("endpoints")):
            Endpoints(engine).lead(endpoint, container)


def test_states(tmp_path: Path) -> None:
    spec = pc.ContainerSpec("host:", ["sleep", "1000"])
    stage = Stage("seed", spec, nothing, {"the seed": "lacking"})
    with lacking("snapshots")() as engine:
        with pytest.raises(pc.UnsupportedError, match=refusal("snapshots")):
            WarmStates(engine, tmp_path).image("label", engine.image("host:"), [stage], name="box")


def test_other_processes_that_join_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = lacking("shares")()
    joined: list[Any] = []
    monkeypatch.setattr(broker, "NativeBroker", joined.append)
    choose.share_run(lambda: engine)
    with pytest.raises(pc.UnsupportedError, match=refusal("shares")):
        joined[0]()
    engine.close()
