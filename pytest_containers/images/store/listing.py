"""What is known of stored images, for people and programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_containers.images.store.upkeep import layer_sizes, usage_of
from pytest_containers.model.errors import ImageError, hide_frames

if TYPE_CHECKING:
    from pytest_containers.images.store.library import Library
    from pytest_containers.images.store.names import Record
    from pytest_containers.model.images import HistoryStep, ImageDetails, ImageSummary

__tracebackhide__ = hide_frames


def summary(library: Library, record: Record) -> ImageSummary:
    """Return a line of a listing: ``name``, ``id``, ``digest``, ``created``, ``size_bytes`` …"""
    usage = usage_of(library, record)
    sizes = layer_sizes(library)
    unpacked = sum(sizes.get(diff_id.rpartition(":")[2], 0) for diff_id in set(usage.diff_ids))
    created = ""
    try:
        created = str(library.documents_of(record).config.get("created") or "")
    except ImageError:
        created = ""
    return {
        "name": record.reference.familiar,
        "id": record.config,
        "digest": record.digest,
        "created": created,
        "size_bytes": unpacked,
        "compressed_bytes": sum(usage.digests.values()),
        "used_at": record.used_at,
    }


def details(library: Library, record: Record) -> ImageDetails:
    """Return names, digests, layers, platform, and the config as it is written."""
    documents = library.documents_of(record)
    names = [named for named in library.names.all() if named.config == record.config]
    layers = documents.manifest.layers if documents.manifest is not None else ()
    return {
        **summary(library, record),
        "names": [named.reference.familiar for named in names],
        "origin": record.origin,
        "media_type": documents.manifest.media_type if documents.manifest is not None else "",
        "os": documents.config.get("os") or "linux",
        "architecture": documents.config.get("architecture") or "",
        "variant": documents.config.get("variant") or "",
        "layers": [
            {
                "digest": layer.digest,
                "diff_id": diff_id,
                "media_type": layer.media_type,
                "size_bytes": layer.size_bytes,
            }
            for layer, diff_id in zip(layers, documents.diff_ids, strict=False)
        ],
        "config": documents.config.get("config") or {},
    }


def history(library: Library, record: Record) -> list[HistoryStep]:
    """Return the steps that made an image, newest first, with the layer that each one added."""
    documents = library.documents_of(record)
    layers = iter(documents.manifest.layers if documents.manifest is not None else ())
    steps = documents.config.get("history")
    listed: list[HistoryStep] = []
    for step in steps if isinstance(steps, list) else []:
        if not isinstance(step, dict):
            continue
        layer = None if step.get("empty_layer") else next(layers, None)
        listed.append(
            {
                "created": str(step.get("created") or ""),
                "created_by": str(step.get("created_by") or ""),
                "comment": str(step.get("comment") or ""),
                "digest": layer.digest if layer is not None else "",
                "size_bytes": layer.size_bytes if layer is not None else 0,
            }
        )
    unlisted: list[HistoryStep] = [
        {
            "created": "",
            "created_by": "",
            "comment": "",
            "digest": layer.digest,
            "size_bytes": layer.size_bytes,
        }
        for layer in layers
    ]
    return [*unlisted[::-1], *listed[::-1]]
