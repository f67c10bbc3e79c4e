"""The store as one file of the caller's, for caches of CI; and its end.

What is unpacked belongs to subordinate ids, and is much larger; so only the archives travel, and
layers are unpacked again when they are first used.
"""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_containers.images import manifest as manifests
from pytest_containers.images.commit import packed
from pytest_containers.images.complete import complete
from pytest_containers.images.formats import archives
from pytest_containers.images.formats.compress import gzipped
from pytest_containers.images.formats.load import archive_at_path
from pytest_containers.images.formats.save import save
from pytest_containers.images.reference import check_digest, parse_reference
from pytest_containers.images.registry.pull import Puller
from pytest_containers.images.store.directories import remove_tree
from pytest_containers.images.store.holds import Holds
from pytest_containers.images.store.library import Library
from pytest_containers.images.store.states import State, every
from pytest_containers.images.store.store import LATER_FOLDERS
from pytest_containers.model.errors import ImageError, hide_frames

__tracebackhide__ = hide_frames

_ENDING_S, _CLOCKS_S = 1.0, 3600.0
_FACTS = "pytest-containers.json"


def export(library: Library, target: Path, puller: Puller) -> list[str]:
    """Write all named images and all states to one file; return their names.

    Without what was built on ``host:``: it is of no use on another machine.

    Raises:
        ImageError: There is none, or the file cannot be written.
    """
    records = [complete(library, record) for record in library.names.all()]
    states = library.states.all() if has_states(library) else []
    if not records and not states:
        raise ImageError(f"cache export to {target}: there is no image in {library.store.home}")
    save(library, records, target, "archive", puller)
    images = [
        {
            "name": record.name,
            "digest": record.digest,
            "resolved": record.resolved,
            "origin": record.origin,
        }
        for record in records
    ]
    names = [record.reference.familiar for record in records]
    with tarfile.open(target, "a") as tar:
        entries = [_add_state(library, tar, state) for state in states]
        facts = {"images": images, "states": [entry for entry in entries if entry is not None]}
        _add(tar, _FACTS, json.dumps(facts).encode())
    return names + [_title(entry) for entry in facts["states"]]


def has_states(library: Library) -> bool:
    """Check whether there are any states; reading one may need the run."""
    return next(every(library.store), None) is not None


def _add_state(library: Library, tar: tarfile.TarFile, state: State) -> dict[str, Any] | None:
    """Add a state's layer and return its record; None if it is of other ids, or gone.

    The nonce shows that the name of a layer is not an image's (`layers.is_state_layer`).
    """
    layer = library.layers.find(state.layer)
    record = {} if layer is None else library.store.layer_record(layer.path.parent) or {}
    if layer is None or len(state.layers) > 1 or not record.get("nonce"):
        return None
    name = f"states/{state.layer[7:]}.tar.gz"
    with library.store.temp_dir() as temp, (temp.path / "layer").open("w+b") as file:
        for piece in gzipped(packed(library, layer)):
            file.write(piece)
        member = tarfile.TarInfo(name)
        member.size, member.mode = file.tell(), 0o644
        file.seek(0)
        tar.addfile(member, file)
    return {
        "file": name,
        "key": state.key,
        "layer": state.layer,
        "nonce": record["nonce"],
        "base": state.base,
        "facts": dict(state.facts),
        "made_at": state.made_at,
        "used_at": state.used_at,
    }


def _title(state: Mapping[str, Any]) -> str:
    facts = state["facts"]
    return f"state: {facts.get('title') or facts.get('name') or state['key'][:12]}"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))


def bring_in(library: Library, path: Path) -> list[str]:
    """Import the images and states of a file that `export` has written, with their names.

    Layers of images are unpacked when they are first used.

    Raises:
        ImageError: It is none, or damaged.
    """
    source = archive_at_path(path)
    names: list[str] = []
    with archives.Files(path) as files, library.store.among_others():
        if not files.has(_FACTS):
            raise ImageError(f"{path} was not made by `cache export`; use `load`", path=str(path))
        contents = manifests.document(files.read(_FACTS), f"{path}: {_FACTS}")
        try:
            facts = {str(entry["name"]): _texts(entry) for entry in contents["images"]}
            for image in archives.every(files, source) if facts else ():
                names += _take(library, image, facts)
            for state in contents["states"]:
                names += _take_state(library, files, state)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            if isinstance(error, ImageError):
                raise
            raise ImageError(f"{path} is damaged: {error}", path=str(path)) from None
    return names


def _texts(entry: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in entry.items() if isinstance(value, str)}


def _take_state(library: Library, files: archives.Files, state: Mapping[str, Any]) -> list[str]:
    """Import a state; return its name, or nothing for one of a version before nonces."""
    if "nonce" not in state:
        return []
    facts, title = dict(state["facts"]), _title(state)
    base, key = check_digest(state["base"]), str(state["key"])
    latest = time.time() + _CLOCKS_S
    made_at, used_at = (
        min(max(float(state.get(name) or 0), 0.0), latest) for name in ("made_at", "used_at")
    )
    library.layers.thaw(files.part(state["file"]), state["layer"], state["nonce"], title)
    library.states.enter(key, base, state["layer"], facts, made_at=made_at, used_at=used_at)
    return [title]


def _take(
    library: Library, image: archives.ArchivedImage, facts: dict[str, dict[str, str]]
) -> list[str]:
    if image.manifest is None:
        raise ImageError("an image without a manifest is not of `cache export`")
    for part, layer in zip(image.layers, image.manifest.layers, strict=True):
        with open(f"/proc/self/fd/{part.fd}", "rb") as file:
            file.seek(part.offset)
            library.blobs.copy(archives.Limited(file, part.size), layer.digest, layer.size_bytes)
    library.blobs.write(image.config_data)
    library.blobs.write(image.manifest.data)
    taken = []
    for name in dict.fromkeys(image.names):
        reference, fields = parse_reference(name), facts.get(name, {})
        library.names.set(
            reference,
            config=image.manifest.config.digest,
            digest=image.manifest.digest,
            resolved=fields.get("resolved", ""),
            origin=fields.get("origin", ""),
        )
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
        for path in (home / "caches").glob("*/*"):
            _remove(library, path)
        for folder in ("images", "blobs", "partial", "host", "holds", "states", *LATER_FOLDERS):
            _remove(library, home / folder)
            (home / folder).mkdir(mode=0o700)


def _remove(library: Library, path: Path) -> None:
    remove_tree(path, library.layers.remove_inside)
