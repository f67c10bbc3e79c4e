"""The store as one file of the caller's, for caches of CI; and its end.

What is unpacked belongs to subordinate ids, and is much larger; so only the archives travel, and
layers are unpacked again when they are first used.
"""

from __future__ import annotations

import io
import json
import tarfile
import time
from pathlib import Path

from pytest_containers.errors import ImageError, hide_frames
from pytest_containers.images import archives
from pytest_containers.images.directories import remove_tree
from pytest_containers.images.holds import Holds
from pytest_containers.images.library import Library
from pytest_containers.images.load import archive_at_path
from pytest_containers.images.pull import Puller
from pytest_containers.images.reference import parse_reference
from pytest_containers.images.save import save

__tracebackhide__ = hide_frames

_ENDING_S = 1.0
_FACTS = "pytest-containers.json"


def export(library: Library, target: Path, puller: Puller) -> list[str]:
    """Write all named images to one file; returns their names.

    Raises:
        ImageError: There is none, or the file cannot be written.
    """
    records = library.names.all()
    if not records:
        raise ImageError(f"cache export to {target}: there is no image in {library.store.home}")
    save(library, records, target, "archive", puller)
    facts = [
        {"name": one.name, "digest": one.digest, "resolved": one.resolved, "origin": one.origin}
        for one in records
    ]
    with tarfile.open(target, "a") as tar:
        _add(tar, _FACTS, json.dumps(facts).encode())
    return [record.reference.familiar for record in records]


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))


def bring_in(library: Library, path: Path) -> list[str]:
    """Take the images of such a file, names and all; nothing is unpacked yet.

    Raises:
        ImageError: It is none, or damaged.
    """
    source = archive_at_path(path)
    names: list[str] = []
    with archives.Files(path) as files, library.store.among_others():
        if not files.has(_FACTS):
            raise ImageError(f"{path} was not made by `cache export`; use `load`", path=str(path))
        facts = {one["name"]: one for one in json.loads(files.read(_FACTS))}
        for found in archives.every(files, source):
            names += _take(library, found, facts)
    return names


def _take(library: Library, found: archives.Found, facts: dict[str, dict[str, str]]) -> list[str]:
    if found.manifest is None:
        raise ImageError("an image without a manifest is not of `cache export`")
    for part, layer in zip(found.layers, found.manifest.layers, strict=True):
        with open(f"/proc/self/fd/{part.fd}", "rb") as file:
            file.seek(part.offset)
            library.blobs.copy(archives.Limited(file, part.size), layer.digest, layer.size_bytes)
    library.blobs.write(found.config_data)
    library.blobs.write(found.manifest.data)
    taken = []
    for name in dict.fromkeys(found.names):
        reference, known = parse_reference(name), facts.get(name, {})
        library.names.set(
            reference, config=found.manifest.config.digest, digest=found.manifest.digest,
            resolved=known.get("resolved", ""), origin=known.get("origin", ""),
        )  # fmt: skip
        taken.append(reference.familiar)
    return taken


def clear(library: Library) -> None:
    """Remove the whole store, with what belongs to subordinate ids.

    Raises:
        ImageError: A live run uses it.
    """
    home = library.store.home
    with library.store.alone():
        holds = Holds(library.store)
        end = time.monotonic() + _ENDING_S
        while (held := holds.layers()) and time.monotonic() < end:
            time.sleep(0.02)  # a run that was just left is on its way out
        if held:
            raise ImageError(
                f"cache clear of {home}: a live run uses {len(held)} layers of it; end that first"
            )
        for folder in ("layers", "tmp"):
            for path in (home / folder).iterdir():
                _remove(library, path)
        for folder in ("images", "blobs", "partial", "host", "holds", "states"):
            _remove(library, home / folder)
            (home / folder).mkdir(mode=0o700)


def _remove(library: Library, path: Path) -> None:
    remove_tree(path, library.layers.remove_inside)
