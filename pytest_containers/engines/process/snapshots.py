"""Images from the files of a container: whole copies, without layers."""

from __future__ import annotations

import hashlib
import os
import uuid
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_containers.engines.process.core import ProcessCore
from pytest_containers.engines.process.refusals import refuse
from pytest_containers.images.image import Layer
from pytest_containers.model.errors import ImageError, hide_frames

if TYPE_CHECKING:
    from pytest_containers.images.image import Image

__tracebackhide__ = hide_frames


def with_files(image: Image, folder: Path, image_id: str) -> Image:
    """Return an image with the files of a directory."""
    return image.with_layer(Layer(folder, "mapped", image_id.rpartition(":")[2]), image_id)


def snapshot(
    core: ProcessCore,
    image: Image,
    root: str,
    stopped: AbstractContextManager[None],
    name: str | None,
) -> Image:
    """Copy the files of a container; see `Container.snapshot`.

    Args:
        image: The image of the container.
        root: Its files.
        stopped: Keeps its processes from writing.
    """
    if name is not None:
        raise refuse("snapshot(name)", "its snapshots are copies that last until the run ends")
    folder = core.run.places.files / "snapshots" / core.next_id()
    folder.parent.mkdir(exist_ok=True)
    folder.parent.chmod(0o711)
    try:
        with stopped:
            core.copy(root, folder)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise ImageError(
            f"snapshot of an {image.name} container: {place}{error.strerror}", errno=error.errno
        ) from error
    image_id = f"sha256:{hashlib.sha256(uuid.uuid4().bytes).hexdigest()}"
    return with_files(image, folder, image_id)


def freeze(
    core: ProcessCore, root: str, stopped: AbstractContextManager[None], name: str, parent: int
) -> dict[str, Any]:
    """Copy the files of a container to ``tree``; see `Container.freeze`."""
    folder = Path(f"/proc/self/fd/{parent}/tree")
    try:
        with stopped:
            core.copy(root, folder)
    except OSError as error:
        raise ImageError(f"freeze of {name}: {error.strerror}", errno=error.errno) from None
    size = sum(
        os.lstat(f"{where}/{name}").st_size for where, _, names in os.walk(folder) for name in names
    )
    return {"size_bytes": size, "entries": 1}
