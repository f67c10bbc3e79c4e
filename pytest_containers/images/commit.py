"""A container's changes as a new image."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from pytest_containers.images import manifest as manifests
from pytest_containers.images.formats.compress import add_layer
from pytest_containers.images.formats.load import keep_image
from pytest_containers.images.image import Image, Layer
from pytest_containers.images.jobs import PACK
from pytest_containers.images.manifest import Descriptor
from pytest_containers.images.reference import Reference
from pytest_containers.images.store.library import Library
from pytest_containers.model.errors import ImageError, hide_frames
from pytest_containers.model.threads import starting_threads

__tracebackhide__ = hide_frames

Pack = Callable[[int], None]
"""Writes a layer's tar to a pipe and returns when that is done."""
_CHUNK_BYTES = 1 << 20


def commit(
    library: Library,
    base: Image,
    pack: Pack,
    reference: Reference,
    *,
    changes: Mapping[str, Any],
    message: str,
    author: str,
) -> None:
    """Keep `base` and what `pack` gives on top of it as a new image.

    Args:
        changes: Replace what the image says of running it: ``{"Cmd": […], "Env": […]}``.
    """
    layers, diff_ids = _base_layers(library, base)
    layer, diff_id = add_layer(library.blobs, _through_pipe(pack))
    config = _config_of(library, base)
    config["rootfs"] = {"type": "layers", "diff_ids": [*diff_ids, diff_id]}
    config["config"] = {**(config.get("config") or {}), **changes}
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    history = {"created": now, "created_by": "pytest-containers commit"}
    history |= {key: value for key, value in (("comment", message), ("author", author)) if value}
    config["history"] = [*_history(config, len(diff_ids)), history]
    config["created"] = now
    if author:
        config["author"] = author
    keep_image(library, reference, [*layers, layer], json.dumps(config, sort_keys=True).encode())


def _config_of(library: Library, base: Image) -> dict[str, Any]:
    data = library.blobs.read(base.base_id or base.id, manifests.MAX_DOCUMENT_BYTES)
    return manifests.document(data, f"{base.name}: config")


def _history(config: Mapping[str, Any], layers: int) -> list[Any]:
    """Return the history, else an entry per layer: tools compare their numbers."""
    entries = config.get("history")
    if isinstance(entries, list) and entries:
        return entries
    return [{"created_by": "unknown"} for _ in range(layers)]


def _base_layers(library: Library, base: Image) -> tuple[list[Descriptor], list[str]]:
    """Return the base's archives: the stored ones, and new ones packed from unpacked layers."""
    manifest_layers: tuple[Descriptor, ...] = ()
    if base.digest:
        with suppress(ImageError):  # it was used where it lies, and never kept
            data = library.blobs.read(base.digest, manifests.MAX_DOCUMENT_BYTES)
            manifest_layers = manifests.parse(data, base.digest, "", base.name).layers
    archives = iter(manifest_layers)
    layers, diff_ids = [], []
    anew = False
    for layer in base.layers:
        kept = next(archives, None) if layer.diff_id else None
        if kept is not None and library.blobs.has(kept.digest, kept.size_bytes):
            archive, diff_id, anew = kept, layer.diff_id, False
        elif not layer.diff_id and not anew:
            continue  # it will be made again when the image is used
        else:
            archive, diff_id = add_layer(library.blobs, packed(library, layer))
            anew = True
        layers.append(archive)
        diff_ids.append(diff_id)
    return layers, diff_ids


def packed(library: Library, layer: Layer) -> Iterator[bytes]:
    """Yield an unpacked layer as a tar, in pieces."""

    def pack(pipe: int) -> None:
        fd = os.open(layer.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            library.layers.inside.call(PACK, {"without": []}, [fd, pipe])
        finally:
            os.close(fd)

    return _through_pipe(pack)


def _through_pipe(pack: Pack) -> Iterator[bytes]:
    """Yield the output of `pack`, which a thread runs meanwhile."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            pack(writer)
        except BaseException as error:  # noqa: BLE001 - raised by the reader
            failures.append(error)
        finally:
            os.close(writer)

    thread = threading.Thread(target=run, daemon=True)
    with starting_threads():
        thread.start()
    try:
        while data := os.read(reader, _CHUNK_BYTES):
            yield data
    finally:
        os.close(reader)
        thread.join()
    if failures:
        raise failures[0]
