"""Containers that all processes of a run share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_containers.engines.native.container import Container
from pytest_containers.engines.native.core import Core, Network
from pytest_containers.engines.native.description import describe
from pytest_containers.model.errors import hide_frames
from pytest_containers.runtime.wire.client import error_of
from pytest_containers.runtime.wire.faults import Fault, received
from pytest_containers.runtime.wire.operations.session import ClaimShare, FailShare, PublishShare

if TYPE_CHECKING:
    from pytest_containers.model.spec import ContainerSpec

__tracebackhide__ = hide_frames


def begin(
    core: Core,
    key: str,
    spec: ContainerSpec,
    launch: Callable[[], Container],
    await_ready: Callable[[Container], None],
    name: str,
) -> Callable[[], Container]:
    """Begin to start a shared container; see `Engine.begin_shared`."""
    claim = core.client.call(ClaimShare(key=key))
    if claim.state == "make":
        with _failing(core, key):
            container = launch()
        return functools.partial(_ready, core, key, container, await_ready)
    if claim.state == "failed":
        raise error_of(received(claim.error))
    network = Network(core, claim.result["network"])
    image = core.image(spec.image)
    joined = Container(core, spec, image, name, describe(core, spec, image, name, network))
    joined._join(claim.result["container"])
    return lambda: joined


def _ready(
    core: Core, key: str, container: Container, await_ready: Callable[[Container], None]
) -> Container:
    """Wait until the container is ready, and tell the other processes."""
    with _failing(core, key):
        await_ready(container)
    network = container.network
    assert network is not None
    core.client.call(
        PublishShare(
            key=key,
            container=container.id,
            network=network.id,
            result={"container": container._shared_facts, "network": network.id},
        )
    )
    return container


@contextmanager
def _failing(core: Core, key: str) -> Iterator[None]:
    """Tell the other processes of an error."""
    try:
        yield
    except Exception as error:
        fields = getattr(error, "data", {}).items()
        data = {name: value for name, value in fields if isinstance(value, str | int)}
        notes = getattr(error, "__notes__", ())
        fault = Fault(type(error).__name__, str(error), data, notes)
        core.client.call(FailShare(key=key, error=fault))
        raise
