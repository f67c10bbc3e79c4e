"""The documents of shared results: OCI artifacts, listed in an index for each key.

A key has the tag ``KIND-HASH``: an index of the newest results for it, whose inputs may differ as
between branches of a project. Each result is an artifact (image-spec manifest.md, "Guidelines for
Artifact Usage") with its files as an ordinary layer, and a config that says what it is.

An index is rewritten by whoever adds a result to it. Where two do that at once, one of their
results is not listed; it is made again when somebody needs it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pytest_containers.images import manifest as manifests
from pytest_containers.images.manifest import Descriptor
from pytest_containers.model.errors import ImageError

FORMAT = 1
EMPTY_TYPE, EMPTY = "application/vnd.oci.empty.v1+json", b"{}"
CREATED = "org.opencontainers.image.created"
SIGNATURE = "org.pytest-containers.signature"
OWNER, UNTIL = "org.pytest-containers.owner", "org.pytest-containers.until"
KEPT = 5
"""Results that an index lists."""


class ListedResult(NamedTuple):
    """A result in an index.

    Attributes:
        created: Seconds since the epoch.
    """

    digest: str
    size_bytes: int
    created: float
    signature: str


class Artifact(NamedTuple):
    """A result: its config, and the layer with its files; None where it has none."""

    config: Mapping[str, Any]
    layer: Descriptor | None


class Marker(NamedTuple):
    """A note that somebody makes a result; `until` is in seconds since the epoch."""

    owner: str
    until: float


def artifact_type(kind: str) -> str:
    """Return the media type of the artifacts of a kind."""
    return f"application/vnd.pytest-containers.{kind}.v{FORMAT}+json"


def index_of(entries: Sequence[ListedResult], kind: str) -> bytes:
    """Return the document of an index."""
    listed = [
        {
            "mediaType": manifests.OCI_MANIFEST,
            "artifactType": artifact_type(kind),
            "digest": entry.digest,
            "size": entry.size_bytes,
            "annotations": {
                CREATED: _time_text(entry.created),
                **({SIGNATURE: entry.signature} if entry.signature else {}),
            },
        }
        for entry in entries
    ]
    return _encoded({"schemaVersion": 2, "mediaType": manifests.OCI_INDEX, "manifests": listed})


def parse_index(data: bytes, subject: str) -> list[ListedResult]:
    """Return the results of an index, newest first.

    Raises:
        ImageError: It is none.
    """
    body = manifests.document(data, subject)
    listed = body.get("manifests")
    if not isinstance(listed, list):
        raise ImageError(f"{subject} is not an index of results")
    entries = []
    for item in listed[: 4 * KEPT]:
        descriptor = manifests.descriptor(item, subject)
        notes = _annotations(item)
        created = _time_of(notes.get(CREATED, ""), subject)
        entries.append(
            ListedResult(
                descriptor.digest, descriptor.size_bytes, created, notes.get(SIGNATURE, "")
            )
        )
    return sorted(entries, key=lambda entry: -entry.created)


def artifact_of(
    config: Descriptor, layer: Descriptor, kind: str, notes: Mapping[str, str], created: float
) -> bytes:
    """Return the manifest of a result."""
    return _encoded(
        {
            "schemaVersion": 2,
            "mediaType": manifests.OCI_MANIFEST,
            "artifactType": artifact_type(kind),
            "config": config.json,
            "layers": [layer.json],
            "annotations": {CREATED: _time_text(created), **notes},
        }
    )


def parse_artifact(data: bytes, kind: str, subject: str) -> tuple[Descriptor, Descriptor | None]:
    """Return the descriptors of the config and of the layer of a result.

    Raises:
        ImageError: It is none of that kind.
    """
    body = manifests.document(data, subject)
    layers = body.get("layers")
    if not isinstance(layers, list) or len(layers) != 1:
        raise ImageError(f"{subject} is not a result of this format: it needs one layer")
    config = manifests.descriptor(body.get("config"), subject)
    layer = manifests.descriptor(layers[0], subject)
    if config.media_type != artifact_type(kind):
        raise ImageError(f"{subject} is of another format: {config.media_type!r}")
    if config.size_bytes > manifests.MAX_DOCUMENT_BYTES:
        raise ImageError(f"{subject} has a config of {config.size_bytes} bytes; it is refused")
    # Not from other addresses that it may name.
    return config, None if layer.media_type == EMPTY_TYPE else layer._replace(urls=())


def marker_of(marker: Marker, tag: str, secret: bytes | None) -> bytes:
    """Return the document of a note that `marker.owner` makes a result."""
    empty = Descriptor(EMPTY_TYPE, f"sha256:{hashlib.sha256(EMPTY).hexdigest()}", len(EMPTY)).json
    notes = {OWNER: marker.owner, UNTIL: _time_text(marker.until)}
    if secret is not None:
        notes[SIGNATURE] = signature(secret, tag, f"{notes[OWNER]} {notes[UNTIL]}")
    return _encoded(
        {
            "schemaVersion": 2,
            "mediaType": manifests.OCI_MANIFEST,
            "artifactType": artifact_type("making"),
            "config": empty,
            "layers": [empty],
            "annotations": notes,
        }
    )


def parse_marker(data: bytes, tag: str, secret: bytes | None, subject: str) -> Marker | None:
    """Return a note; None if it is not signed as it must be.

    Raises:
        ImageError: It is none.
    """
    notes = _annotations(manifests.document(data, subject))
    owner, until = notes.get(OWNER, ""), notes.get(UNTIL, "")
    if secret is not None and not is_signed(
        secret, tag, f"{owner} {until}", notes.get(SIGNATURE, "")
    ):
        return None
    return Marker(owner, _time_of(until, subject))


def signature(secret: bytes, tag: str, statement: str) -> str:
    """Sign a statement about a tag: HMAC-SHA256 (RFC 2104), in hex."""
    return hmac.new(secret, _bytes(f"pytest-containers\n{tag}\n{statement}"), "sha256").hexdigest()


def is_signed(secret: bytes, tag: str, statement: str, given: str) -> bool:
    """Check a signature."""
    return hmac.compare_digest(signature(secret, tag, statement).encode(), _bytes(given))


def _bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")  # JSON may have halves of characters


def _annotations(body: Mapping[str, Any]) -> dict[str, str]:
    notes = body.get("annotations")
    if not isinstance(notes, dict):
        return {}
    return {str(name): value for name, value in notes.items() if isinstance(value, str)}


def _time_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _time_of(value: str, subject: str) -> float:
    try:
        seconds = datetime.fromisoformat(value).timestamp()
        _time_text(seconds)  # zones lead out of what the calendar of Python has
        return seconds
    except (ValueError, OverflowError, OSError):
        raise ImageError(f"{subject} has no time of its making") from None


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
