"""Archives and a manifest for an image that was built here, when somebody wants them.

A build keeps layers as they are unpacked: that is what containers start from. Compressing them
costs more than many a build, so it waits for a push, a save or an export.
"""

from __future__ import annotations

import json

from pytest_containers.images.commit import packed
from pytest_containers.images.formats.compress import add_layer
from pytest_containers.images.formats.load import keep_image
from pytest_containers.images.manifest import Descriptor
from pytest_containers.images.store.library import Library
from pytest_containers.images.store.names import Record
from pytest_containers.model.errors import ImageError, hide_frames

__tracebackhide__ = hide_frames


def complete(library: Library, record: Record) -> Record:
    """Return the record, after making the manifest and archives that it lacks.

    Raises:
        ImageError: A layer is not stored any more.
    """
    if record.digest:
        return record
    image_name = record.reference.familiar
    with library.store.lock(f"complete-{record.config[7:47]}"), library.store.among_others():
        documents = library.documents_of(record)
        kept = _kept(library)
        layers, diff_ids = [], []
        for diff_id in documents.diff_ids:
            archive = kept.get(diff_id)
            if archive is None:
                layer = library.layers.find(diff_id)
                if layer is None:
                    raise ImageError(f"image {image_name!r}: a layer of it is gone; build it again")
                # What came from an archive that was used where it lies is another tar when it is
                # packed again, so it gets another name.
                archive, diff_id = add_layer(library.blobs, packed(library, layer))
            layers.append(archive)
            diff_ids.append(diff_id)
        data = documents.config_data
        if diff_ids != documents.diff_ids:
            rootfs = {"type": "layers", "diff_ids": diff_ids}
            data = json.dumps({**documents.config, "rootfs": rootfs}, sort_keys=True).encode()
        keep_image(library, record.reference, layers, data)
    completed = library.names.get(record.reference)
    assert completed is not None
    return completed


def _kept(library: Library) -> dict[str, Descriptor]:
    """Map diffIDs to the archives that are in the store."""
    archives: dict[str, Descriptor] = {}
    for record in library.names.all():
        if not record.digest:
            continue
        try:
            documents = library.documents_of(record)
        except ImageError:
            continue  # damaged; `images --verify` says so
        assert documents.manifest is not None
        for diff_id, layer in zip(documents.diff_ids, documents.manifest.layers, strict=True):
            if library.blobs.has(layer.digest, layer.size_bytes):
                archives[diff_id] = layer
    return archives
