"""Capabilities: named parts of the contract that not every engine has."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, get_args

from pytest_containers.model.errors import SpecError, UnsupportedError, hide_frames

__tracebackhide__ = hide_frames

Capability = Literal[
    "attach",
    "builds",
    "capture",
    "endpoints",
    "keep",
    "limits",
    "oci",
    "pause",
    "shares",
    "snapshots",
    "stats",
    "warmup",
]
"""The names of all capabilities."""

MEANINGS: dict[Capability, str] = {
    "attach": "the streams of a container as descriptors",
    "builds": "images from Dockerfiles",
    "capture": "the packets of a network",
    "endpoints": "sockets of the caller that forward to a container",
    "keep": "containers that stay after the test process",
    "limits": "limits of memory, processors and processes",
    "oci": "containers of OCI bundles",
    "pause": "freezing and thawing all processes of a container",
    "shares": "containers that all processes of a run share",
    "snapshots": "the files of a container as an image, and stored states",
    "stats": "the figures of what a container uses",
    "warmup": "a request that a server gets as soon as its log shows a given text",
}

ENGINES: dict[Capability, tuple[str, ...]] = {
    "attach": ("native", "docker", "process"),
    "builds": ("native", "docker"),
    "capture": (),
    "endpoints": ("native", "docker", "process"),
    "keep": ("native",),
    "limits": ("native", "docker"),
    "oci": ("native",),
    "pause": ("native", "docker", "process"),
    "shares": ("native", "docker"),
    "snapshots": ("native", "docker", "process"),
    "stats": ("native", "docker"),
    "warmup": ("native",),
}
"""The engines that have each capability. `tests/engines` compares it with the engines."""


def capabilities_of(engine: str) -> frozenset[Capability]:
    """Return the capabilities of an engine."""
    return frozenset(name for name, engines in ENGINES.items() if engine in engines)


def require(capability: Capability, engine: str, own: Collection[str]) -> None:
    """Raise unless an engine has a capability.

    Args:
        capability: The name of the capability.
        engine: The name of the engine.
        own: The capabilities of the engine.

    Raises:
        UnsupportedError: The engine lacks the capability; the message names an engine that has it.
        SpecError: No capability has that name.
    """
    if capability not in get_args(Capability):
        raise SpecError(
            f"{capability!r} is not a capability of engines; "
            f"there are {', '.join(get_args(Capability))}"
        )
    if capability in own:
        return
    others = [name for name in ENGINES[capability] if name != engine]
    advice = (
        f"use engine {' or '.join(map(repr, others))}"
        if others
        else "no engine of this version has it"
    )
    raise UnsupportedError(
        f"engine {engine!r} has no capability {capability!r}; {advice}",
        engine=engine,
        capability=capability,
        engines=others,
    )
