"""A look for damage in the store, and its repair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest_containers.errors import ImageError, hide_frames
from pytest_containers.images.blobs import file_digest
from pytest_containers.images.layers import archive_at
from pytest_containers.images.library import Documents, Library
from pytest_containers.images.names import Record
from pytest_containers.images.pull import Puller
from pytest_containers.images.save import have_all

__tracebackhide__ = hide_frames


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
            found = library.documents_of(record)
        except ImageError:
            continue  # a finding already
        _verify_archives(library, record, found, seen, findings, puller)
        _verify_layers(library, name, found, seen, findings)
    return findings


def _verify_documents(
    library: Library, record: Record, seen: set[str], findings: list[Finding],
    pull: Callable[[Record], object],
) -> None:  # fmt: skip
    digests = [one for one in (record.config, record.digest) if one and one not in seen]
    bad = [(one, problem) for one in digests if (problem := _problem(library, one, "is missing"))]
    seen.update(digests)
    if not bad:
        return
    for digest, _ in bad:
        library.blobs.drop(digest)
    repaired = _succeeds(lambda: pull(record)) and not any(
        _problem(library, one, "is missing") for one, _ in bad
    )
    for digest, problem in bad:
        findings.append(Finding(_blob(record, digest), problem, repaired))


def _verify_archives(
    library: Library, record: Record, found: Documents, seen: set[str], findings: list[Finding],
    puller: Puller,
) -> None:  # fmt: skip
    layers = found.manifest.layers if found.manifest is not None else ()
    digests = [one.digest for one in layers if one.digest not in seen]
    seen.update(digests)
    # One that is not there is no damage: what was unpacked already was never fetched.
    bad = [(one, problem) for one in digests if (problem := _problem(library, one, ""))]
    for digest, problem in bad:
        library.blobs.drop(digest)
        repaired = _succeeds(lambda: have_all(library, record, found, puller))
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
    library: Library, image: str, found: Documents, seen: set[str], findings: list[Finding]
) -> None:
    """Unpack every layer once more and compare; the new one replaces what is damaged."""
    if found.manifest is None:
        return
    for layer, diff_id in zip(found.manifest.layers, found.diff_ids, strict=True):
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
