"""Every argument of every call of engines and containers, of a wrong type."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pytest_containers as pc
from pytest_containers.engines.native.container import Container
from pytest_containers.engines.native.engine import Engine

VALID: dict[str, Any] = {
    "command": ["true"], "number": 80, "port": 80, "ports": [], "timeout_s": 1.0, "path": "/x",
    "data": b"", "text": "", "source": "/etc/hostname", "target": "/x", "name": "x",
    "config": {}, "image": "host:", "reference": "host:", "id_or_name": "x", "folder": "/x", "spec": pc.ContainerSpec("host:"),
}  # fmt: skip
FOR_DOORS = {
    "adopt", "begin_shared", "close", "events", "freeze", "keep", "lead", "require", "start",
    "started", "heeds_stop_signal",
}  # fmt: skip
"""Methods for the project's own doors, and those without arguments of a caller."""


def arguments_of(kind: type) -> list[Any]:
    cases = []
    for name, method in vars(kind).items():
        if name.startswith("_") or name in FOR_DOORS or not inspect.isfunction(method):
            continue
        for parameter in list(inspect.signature(method).parameters.values())[1:]:
            if parameter.kind is not parameter.VAR_KEYWORD and parameter.name != "display":
                cases.append(pytest.param(name, parameter.name, id=f"{name}-{parameter.name}"))
    return cases


def call_with(method: Callable[..., Any], wrong: str) -> None:
    parameters = inspect.signature(method).parameters
    needed = {
        name: VALID[name]
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    }
    with pytest.raises(pc.SpecError, match="is not"):
        method(**{**needed, wrong: object()})


@pytest.fixture(scope="module")
def container(module_engine: pc.Engine) -> Iterator[pc.Container]:
    with module_engine.run("host:", ["sleep", "1000"]) as container:
        yield container


@pytest.mark.parametrize(("name", "argument"), arguments_of(Container))
def test_of_a_container(container: pc.Container, name: str, argument: str) -> None:
    call_with(getattr(container, name), argument)
    assert container.status == "running"


@pytest.mark.parametrize(("name", "argument"), arguments_of(Engine))
def test_of_an_engine(module_engine: pc.Engine, name: str, argument: str) -> None:
    call_with(getattr(module_engine, name), argument)


def test_of_an_event_stream(module_engine: pc.Engine) -> None:
    with pytest.raises(pc.SpecError, match="timeout_s"):
        module_engine.events("soon")  # type: ignore[arg-type]


@pytest.mark.parametrize("argument", inspect.signature(Engine).parameters)
def test_of_a_new_engine(argument: str) -> None:
    if argument in ("options", "registries", "display", "sharing"):
        return
    with pytest.raises(pc.SpecError, match=argument):
        pc.Engine(**{argument: object()})  # type: ignore[arg-type]
