"""A look for damage in the store, and its repair."""

from __future__ import annotations

from collections.abc import Callable

from pytest_containers.images.formats.save import have_all
from pytest_containers.images.registry.pull import Puller
from pytest_containers.images.store.blobs import file_digest
from pytest_containers.images.store.layers import archive_at
from pytest_containers.images.store.library import Documents, Library
from pytest_containers.images.store.names import Record
from pytest_containers.model.errors import ImageError, hide_frames
from pytest_containers.model.images import Finding

__tracebackhide__ = hide_frames


def verify(library: Library, puller: Puller, pull: Callable[[Record], object]) -> list[Finding]:
    """Look at every stored byte of the images that have names, and mend what is damaged.

    Args:
        puller: Fetches archives of layers.
        pull: Pulls the image of a record again.
    """
    findings: list[Finding] = []
    seen: set[str] = set()
    for record in library.names.all():
        name = record.reference.familiar
        _verify_documents(library, record, seen, findings, pull)
        try:
            documents = library.documents_of(record)
        except ImageError:
            continue  # a finding already
        _verify_archives(library, record, documents, seen, findings, puller)
        _verify_layers(library, name, documents, seen, findings)
    return findings


def _verify_documents(
    library: Library,
    record: Record,
    seen: set[str],
    findings: list[Finding],
    pull: Callable[[Record], object],
) -> None:
    digests = [digest for digest in (record.config, record.digest) if digest and digest not in seen]
    bad = [
        (digest, problem)
        for digest in digests
        if (problem := _problem(library, digest, "is missing"))
    ]
    seen.update(digests)
    if not bad:
        return
    for digest, _ in bad:
        library.blobs.drop(digest)
    repaired = _succeeds(lambda: pull(record)) and not any(
        _problem(library, digest, "is missing") for digest, _ in bad
    )
    for digest, problem in bad:
        findings.append(Finding(_blob(record, digest), problem, repaired))


def _verify_archives(
    library: Library,
    record: Record,
    documents: Documents,
    seen: set[str],
    findings: list[Finding],
    puller: Puller,
) -> None:
    layers = documents.manifest.layers if documents.manifest is not None else ()
    digests = [layer.digest for layer in layers if layer.digest not in seen]
    seen.update(digests)
    # One that is not there is no damage: what was unpacked already was never fetched.
    bad = [(digest, problem) for digest in digests if (problem := _problem(library, digest, ""))]
    for digest, problem in bad:
        library.blobs.drop(digest)
        repaired = _succeeds(lambda: have_all(library, record, documents, puller))
        findings.append(Finding(_blob(record, digest), problem, repaired))


def _problem(library: Library, digest: str, when_missing: str) -> str:
    path = library.blobs.path(digest)
    if not path.exists():
        return when_missing
    return "" if file_digest(path, digest) == digest else "is damaged"


def _succeeds(mend: Callable[[], object]) -> bool:
    try:
        mend()
    except ImageError:
        return False
    return True


def _blob(record: Record, digest: str) -> str:
    return f"{record.reference.familiar}: blob {digest}"


def _verify_layers(
    library: Library, image: str, documents: Documents, seen: set[str], findings: list[Finding]
) -> None:
    """Unpack every layer once more and compare; the new one replaces what is damaged."""
    if documents.manifest is None:
        return
    for layer, diff_id in zip(documents.manifest.layers, documents.diff_ids, strict=True):
        if diff_id in seen or library.layers.find(diff_id) is None:
            continue
        seen.add(diff_id)
        path = library.blobs.path(layer.digest)
        name = f"{image}: layer {diff_id}"
        if not library.blobs.has(layer.digest, layer.size_bytes):
            findings.append(Finding(name, "cannot be compared: its archive is not stored", True))
            continue
        try:
            with archive_at(path, layer.digest) as archive:
                problem, repaired = library.layers.compare(archive, diff_id, name)
        except ImageError as error:
            problem, repaired = str(error), False
        if problem:
            findings.append(Finding(name, problem, repaired))
