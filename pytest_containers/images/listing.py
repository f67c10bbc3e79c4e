"""What is known of stored images, for people and programs."""

from __future__ import annotations

from typing import Any

from pytest_containers.errors import ImageError, hide_frames
from pytest_containers.images.library import Library
from pytest_containers.images.names import Record
from pytest_containers.images.upkeep import layer_sizes, usage_of

__tracebackhide__ = hide_frames


def summary(library: Library, record: Record) -> dict[str, Any]:
    """A line of a listing: ``name``, ``id``, ``digest``, ``created``, ``size_bytes`` …"""
    usage = usage_of(library, record)
    sizes = layer_sizes(library)
    unpacked = sum(sizes.get(one.rpartition(":")[2], 0) for one in usage.diff_ids)
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


def details(library: Library, record: Record) -> dict[str, Any]:
    """Everything: names, digests, layers, platform, and the config as it is written."""
    found = library.documents_of(record)
    names = [one for one in library.names.all() if one.config == record.config]
    layers = found.manifest.layers if found.manifest is not None else ()
    return {
        **summary(library, record),
        "names": [one.reference.familiar for one in names],
        "origin": record.origin,
        "media_type": found.manifest.media_type if found.manifest is not None else "",
        "os": found.config.get("os") or "linux",
        "architecture": found.config.get("architecture") or "",
        "variant": found.config.get("variant") or "",
        "layers": [
            {"digest": one.digest, "diff_id": diff_id, "media_type": one.media_type,
             "size_bytes": one.size_bytes}
            for one, diff_id in zip(layers, found.diff_ids, strict=False)
        ],
        "config": found.config.get("config") or {},
    }  # fmt: skip


def history(library: Library, record: Record) -> list[dict[str, Any]]:
    """The steps that made an image, the newest first, with the layer that each one added."""
    found = library.documents_of(record)
    layers = iter(found.manifest.layers if found.manifest is not None else ())
    steps = found.config.get("history")
    listed = []
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
    rest = [
        {"created": "", "created_by": "", "comment": "", "digest": layer.digest,
         "size_bytes": layer.size_bytes}
        for layer in layers
    ]  # fmt: skip
    return [*rest[::-1], *listed[::-1]]
