"""A container's files as an image: the writable layer, packed or frozen while nothing moves."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_containers.errors import (
    ContainersError,
    ImageError,
    NotRunningError,
    RunLostError,
    hide_frames,
)
from pytest_containers.images.image import Image
from pytest_containers.images.layers import FREEZE, PACK

if TYPE_CHECKING:
    from pytest_containers.engines.native.container import Container
    from pytest_containers.engines.native.engine import Engine

__tracebackhide__ = hide_frames

_log = logging.getLogger(__name__)


def commit(
    engine: Engine, container: Container, name: str, *, changes: Mapping[str, Any] | None,
    message: str, author: str,
) -> Image:  # fmt: skip
    """See `Container.commit`."""

    def pack(pipe: int) -> None:
        _on_upper(engine, container, PACK, {"without": []}, [pipe])

    with _paused(container):
        return engine.images.commit(
            container.image, pack, name, changes=changes, message=message, author=author
        )


def snapshot(engine: Engine, container: Container, name: str | None) -> Image:
    """See `Container.snapshot`."""
    if name is not None and not container.image.mounts:
        return container.commit(name, message="snapshot")
    images = engine.images

    def copy(parent: int) -> dict[str, Any]:
        return freeze(engine, container, parent)

    with _paused(container) as running:
        if running:
            _log.info(
                "snapshot of container %s while it runs: what starts from it recovers as after "
                "a crash", container.name,
            )  # fmt: skip
        if name is not None:
            return images.freeze_as(container.image, copy, name)
        with images.store.among_others():
            image = images.freeze(container.image, copy)
            engine.make_ready(image)
        return image


def freeze(engine: Engine, container: Container, parent: int) -> dict[str, Any]:
    """See `Container.freeze`."""
    return _on_upper(engine, container, FREEZE, {}, [parent])


@contextlib.contextmanager
def _paused(container: Container) -> Iterator[bool]:
    """Its processes stand still meanwhile; tells whether there are any."""
    running = container.status == "running"
    if running:
        try:
            container.pause()
        except NotRunningError:  # it has ended this moment
            running = False
    try:
        yield running
    finally:
        if running:
            container.unpause()


def _on_upper(
    engine: Engine, container: Container, function: str, args: dict[str, Any], fds: Sequence[int]
) -> dict[str, Any]:
    """Run a job on its writable layer."""
    if container.status == "removed":
        raise NotRunningError(f"container {container.name!r} was removed")
    search_path = [path for path in sys.path if path]
    try:
        frame = engine.client.call(
            "job", function=function, args=args, upper_of=container.id, search_path=search_path,
            fds=fds,
        )  # fmt: skip
    except (ImageError, NotRunningError, RunLostError):
        raise
    except ContainersError as error:
        raise ImageError(error.message, **error.data) from error
    result: dict[str, Any] = frame.body["ok"]
    return result
