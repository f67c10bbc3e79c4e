"""Images from the files of a container, which is paused while its writable layer is copied."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_containers.engines.native.jobs import call_job
from pytest_containers.images.jobs import FREEZE, PACK
from pytest_containers.model.errors import ImageError, NotRunningError, hide_frames

if TYPE_CHECKING:
    from pytest_containers.engines.native.core import Core
    from pytest_containers.images.image import Image
    from pytest_containers.model.engine import Container
    from pytest_containers.runtime.wire.operations.job import Job

__tracebackhide__ = hide_frames

_log = logging.getLogger(__name__)


def commit(
    core: Core,
    container: Container,
    image: Image,
    name: str,
    *,
    changes: Mapping[str, Any] | None,
    message: str,
    author: str,
) -> Image:
    """Make an image with a name; see `Container.commit`."""
    from pytest_containers.images import derived

    if image.mounts:

        def copy(parent: int) -> dict[str, Any]:
            return freeze(core, container, parent)

        with _paused(container):
            return derived.freeze_as(core.images, image, copy, name, changes=changes)

    def pack(pipe: int) -> None:
        _on_upper(core, container, PACK, {"without": []}, [pipe])

    with _paused(container):
        return derived.commit(
            core.images, image, pack, name, changes=changes, message=message, author=author
        )


def snapshot(core: Core, container: Container, image: Image, name: str | None) -> Image:
    """Make an image for more containers; see `Container.snapshot`."""
    from pytest_containers.images import derived

    if name is not None and not image.mounts:
        return commit(core, container, image, name, changes=None, message="snapshot", author="")

    def copy(parent: int) -> dict[str, Any]:
        return freeze(core, container, parent)

    with _paused(container) as running:
        if running:
            _log.info(
                "snapshot of container %s while it runs: servers recover from it as from a crash",
                container.name,
            )
        if name is not None:
            return derived.freeze_as(core.images, image, copy, name)
        with core.images.library.store.among_others():
            frozen = derived.freeze(core.images, image, copy)
            core.make_ready(frozen)
        return frozen


def freeze(core: Core, container: Container, parent: int) -> dict[str, Any]:
    """Copy the writable layer; see `Container.freeze`."""
    return _on_upper(core, container, FREEZE, {}, [parent])


@contextlib.contextmanager
def _paused(container: Container) -> Iterator[bool]:
    """Pause a container while the body runs; yield False if it has ended."""
    running = container.status == "running"
    if running:
        try:
            container.pause()
        except NotRunningError:  # it has just ended
            running = False
    try:
        yield running
    finally:
        if running:
            with contextlib.suppress(NotRunningError):  # it was killed meanwhile
                container.unpause()


def _on_upper(
    core: Core, container: Container, job: Job[Any, Any], args: dict[str, Any], fds: Sequence[int]
) -> dict[str, Any]:
    """Run a job on the writable layer of a container."""
    if container.status == "removed":
        raise NotRunningError(f"container {container.name!r} was removed")
    result: dict[str, Any] = call_job(
        core.client, job, args, fds, upper_of=container.id, kind=ImageError
    )
    return result
