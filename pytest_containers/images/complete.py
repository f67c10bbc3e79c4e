"""Archives and a manifest for an image that was built here, when somebody wants them.

A build keeps layers as they are unpacked: that is what containers start from. Compressing them
costs more than many a build, so it waits for a push, a save or an export.
"""

from __future__ import annotations

import json

from pytest_containers.errors import ImageError, hide_frames
from pytest_containers.images.commit import packed
from pytest_containers.images.compress import add_layer
from pytest_containers.images.library import Library
from pytest_containers.images.load import made
from pytest_containers.images.manifest import Descriptor
from pytest_containers.images.names import Record

__tracebackhide__ = hide_frames


def complete(library: Library, record: Record) -> Record:
    """The record, after a manifest and archives were made for it if it has none.

    Raises:
        ImageError: A layer is not stored any more.
    """
    if record.digest:
        return record
    what = record.reference.familiar
    with library.store.lock(f"complete-{record.config[7:47]}"), library.store.among_others():
        found = library.documents_of(record)
        kept = _kept(library)
        layers, diff_ids = [], []
        for diff_id in found.diff_ids:
            archive = kept.get(diff_id)
            if archive is None:
                layer = library.layers.find(diff_id)
                if layer is None:
                    raise ImageError(f"image {what!r}: a layer of it is gone; build it again")
                # What came from an archive that was used where it lies is another tar when it is
                # packed again, so it gets another name.
                archive, diff_id = add_layer(library.blobs, packed(library, layer))
            layers.append(archive)
            diff_ids.append(diff_id)
        data = found.config_data
        if diff_ids != found.diff_ids:
            rootfs = {"type": "layers", "diff_ids": diff_ids}
            data = json.dumps({**found.config, "rootfs": rootfs}, sort_keys=True).encode()
        made(library, record.reference, layers, data)
    completed = library.names.get(record.reference)
    assert completed is not None
    return completed


def _kept(library: Library) -> dict[str, Descriptor]:
    """The archives that are in the store, by diffID."""
    found: dict[str, Descriptor] = {}
    for record in library.names.all():
        if not record.digest:
            continue
        try:
            known = library.documents_of(record)
        except ImageError:
            continue  # damaged; `images --verify` says so
        assert known.manifest is not None
        for diff_id, layer in zip(known.diff_ids, known.manifest.layers, strict=True):
            if library.blobs.has(layer.digest, layer.size_bytes):
                found[diff_id] = layer
    return found
