"""A look for damage in the store, and its repair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pytest_containers.errors import ImageError, hide_frames
from pytest_containers.images.blobs import file_digest
from pytest_containers.images.layers import archive_at
from pytest_containers.images.library import Documents, Library
from pytest_containers.images.names import Record

__tracebackhide__ = hide_frames

Fetch = Callable[[Record], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was not as it should be.

    Attributes:
        what: The thing: a blob, a layer, a name.
        problem: What is wrong with it.
        repaired: Whether it is right now.
    """

    what: str
    problem: str
    repaired: bool


def verify(library: Library, fetch: Fetch) -> list[Finding]:
    """Look at every stored byte of the images that have names, and mend what is damaged.

    Args:
        fetch: Pulls the image of a record again, or raises ImageError.
    """
    findings: list[Finding] = []
    seen_blobs: set[str] = set()
    seen_layers: set[str] = set()
    for record in library.names.all():
        _verify_blobs(library, record, seen_blobs, findings, fetch)
        try:
            found = library.documents_of(record)
        except ImageError:
            continue
        _verify_layers(library, record, found, seen_layers, findings)
    return findings


def _verify_blobs(
    library: Library, record: Record, seen: set[str], findings: list[Finding], fetch: Fetch
) -> None:
    bad = list(_bad_blobs(library, record, seen))
    if not bad:
        return
    for digest, _ in bad:
        library.blobs.drop(digest)
    try:
        fetch(record)
        repaired = not list(_bad_blobs(library, record, set()))
    except ImageError:
        repaired = False
    findings += [
        Finding(f"{record.reference.familiar}: blob {digest}", problem, repaired)
        for digest, problem in bad
    ]


def _bad_blobs(library: Library, record: Record, seen: set[str]) -> Iterator[tuple[str, str]]:
    """Blobs of an image whose content is not what their name says, or that are missing."""
    listed = [one for one in (record.config, record.digest) if one]
    try:
        found = library.documents_of(record)
    except ImageError:
        found = None
    if found is not None and found.manifest is not None:
        listed += [layer.digest for layer in found.manifest.layers]
    for digest in listed:
        if digest in seen:
            continue
        seen.add(digest)
        path = library.blobs.path(digest)
        if not path.exists():
            # A layer that was unpacked from elsewhere need not be there as an archive.
            if digest in (record.config, record.digest):
                yield digest, "is missing"
        elif file_digest(path, digest) != digest:
            yield digest, "is damaged"


def _verify_layers(
    library: Library, record: Record, found: Documents, seen: set[str], findings: list[Finding]
) -> None:
    """Unpack every layer once more and compare; the new one replaces what is damaged."""
    if found.manifest is None:
        return
    for layer, diff_id in zip(found.manifest.layers, found.diff_ids, strict=True):
        if diff_id in seen or library.layers.find(diff_id) is None:
            continue
        seen.add(diff_id)
        path = library.blobs.path(layer.digest)
        name = f"{record.reference.familiar}: layer {diff_id}"
        if not library.blobs.has(layer.digest, layer.size_bytes):
            findings.append(Finding(name, "cannot be compared: its archive is not stored", True))
            continue
        with archive_at(path, layer.digest) as archive:
            problem, repaired = library.layers.compare(archive, diff_id, name)
        if problem:
            findings.append(Finding(name, problem, repaired))
