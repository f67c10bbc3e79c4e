"""Removal of what nobody uses.

What a live run uses is held by a lock that dies with the run (`Holds`), so no process has to be
asked. Who starts to use a layer writes that down first and then looks whether it is still there;
who removes one makes it not be there first and then looks whether somebody has written it down. So
one of them sees the other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytest_containers.images.store import build_steps, records
from pytest_containers.images.store.directories import remove_tree, try_lock
from pytest_containers.images.store.holds import Holds
from pytest_containers.images.store.states import State, every
from pytest_containers.model.errors import ImageError, hide_frames
from pytest_containers.model.images import Pruned

if TYPE_CHECKING:
    from pytest_containers.images.store.library import Library
    from pytest_containers.images.store.names import Record

__tracebackhide__ = hide_frames

_PARTIAL_AGE_S = 24 * 3600.0


@dataclass(slots=True)
class Usage:
    """The needs of a name: digests of blobs, with sizes, and diffIDs."""

    digests: dict[str, int]
    diff_ids: list[str]


class LayerOwner(NamedTuple):
    """An owner of layers: the name of an image, or a state, or a step of a build.

    Attributes:
        name: Of an image, as people write it; empty for a state or a step of a build.
        used_at: Seconds since the epoch.
    """

    name: str
    used_at: float
    usage: Usage
    remove: Callable[[], None]
    is_step: bool = False


def prune(
    library: Library,
    *,
    unused_for_s: float | None = None,
    keep_bytes: int | None = None,
    all_unused: bool = False,
    dry_run: bool = False,
) -> Pruned:
    """Remove layers and blobs that nothing leads to, and names and states as asked for.

    Never what a live run uses.

    Args:
        unused_for_s: Also names and states that were not used for so long.
        keep_bytes: Also those used longest ago, until what remains is not larger.
        all_unused: Also all names and states that no live run uses.
        dry_run: Only tell.
    """
    done = Pruned()
    with library.store.alone():
        holds = Holds(library.store)
        entries = list(_entries(library))
        doomed = _doomed(library, entries, holds, unused_for_s, keep_bytes, all_unused)
        done.names = [entry.name for entry in doomed if entry.name]
        done.steps = sum(entry.is_step for entry in doomed)
        done.states = sum(not entry.name for entry in doomed) - done.steps
        kept = [entry for entry in entries if entry not in doomed]
        if not dry_run:
            for entry in doomed:
                entry.remove()
        needed_layers = {diff_id for entry in kept for diff_id in entry.usage.diff_ids}
        needed_digests = {digest for entry in kept for digest in entry.usage.digests}
        _prune_layers(library, needed_layers, holds, done, dry_run=dry_run)
        _prune_blobs(library, needed_digests, done, dry_run=dry_run)
        if all_unused or unused_for_s is not None:
            _prune_build_files(library, 0.0 if all_unused else unused_for_s or 0.0, done, dry_run)
        if not dry_run:
            _prune_leftovers(library)
    return done


def drop_states(library: Library, states: Iterable[State]) -> None:
    """Remove states; layers that a live run uses go with a later prune."""
    holds, gone = Holds(library.store), list(states)
    for state in gone:
        library.states.remove(state)
    if not gone:
        return
    # A snapshot that has a name may be on top of one.
    needed = {name for state in every(library.store) for name in state.layers}
    for state in gone:
        layer = library.layers.find(state.layer)
        if layer is not None and state.layer not in needed:
            _remove_layer(library, layer.path.parent, holds)


def _entries(library: Library) -> Iterator[LayerOwner]:
    for record in library.names.all():
        remove = partial(library.names.remove, record.reference)
        yield LayerOwner(
            record.reference.familiar, record.used_at, usage_of(library, record), remove
        )
    for state in every(library.store):
        usage = Usage({}, state.layers)
        yield LayerOwner("", state.used_at, usage, partial(library.states.remove, state))
    for step, path in build_steps.every(library.store):
        usage = Usage({}, [step.diff_id] if step.diff_id else [])
        yield LayerOwner("", step.used_at, usage, path.unlink, is_step=True)


def usage_of(library: Library, record: Record) -> Usage:
    digests = {record.config: 0}
    try:
        documents = library.documents_of(record)
    except ImageError:
        return Usage(digests, [])
    digests[record.config] = len(documents.config_data)
    if documents.manifest is not None:
        digests[documents.manifest.digest] = len(documents.manifest.data)
        digests |= {layer.digest: layer.size_bytes for layer in documents.manifest.layers}
    return Usage(digests, documents.diff_ids)


def _doomed(
    library: Library,
    entries: list[LayerOwner],
    holds: Holds,
    unused_for_s: float | None,
    keep_bytes: int | None,
    all_unused: bool,
) -> list[LayerOwner]:
    """Select the names and states to remove."""
    held = holds.layers()
    now = time.time()

    def in_use(entry: LayerOwner) -> bool:
        return any(diff_id.rpartition(":")[2] in held for diff_id in entry.usage.diff_ids)

    free = sorted(
        (entry for entry in entries if not in_use(entry)), key=lambda entry: entry.used_at
    )
    doomed = [
        entry
        for entry in free
        if all_unused or (unused_for_s is not None and now - entry.used_at > unused_for_s)
    ]
    if keep_bytes is not None:
        sizes = layer_sizes(library)
        for entry in free:
            remaining = [other for other in entries if other not in doomed]
            if _total(remaining, sizes) <= keep_bytes:
                break
            if entry not in doomed:
                doomed.append(entry)
    return doomed


def _total(entries: Iterable[LayerOwner], sizes: dict[str, int]) -> int:
    """Sum the bytes of blobs and unpacked layers; shared ones count once."""
    used = [entry.usage for entry in entries]
    blobs = {key: size for usage in used for key, size in usage.digests.items()}
    layers = {diff_id.rpartition(":")[2] for usage in used for diff_id in usage.diff_ids}
    return sum(blobs.values()) + sum(sizes.get(digits, 0) for digits in layers)


def layer_sizes(library: Library) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for path in layer_directories(library):
        record = library.store.layer_record(path) or {}
        sizes[path.name] = sizes.get(path.name, 0) + int(record.get("size_bytes", 0))
    return sizes


def layer_directories(library: Library) -> Iterator[Path]:
    """Yield every unpacked layer, of all classes of id maps."""
    for family in (library.store.home / "layers").iterdir():
        yield from family.iterdir()


def _prune_layers(
    library: Library, needed: set[str], holds: Holds, done: Pruned, *, dry_run: bool
) -> None:
    names = {diff_id.rpartition(":")[2] for diff_id in needed}
    for path in list(layer_directories(library)):
        if path.name in names:
            continue
        if path.name in holds.layers():
            done.held += 1
            continue
        record = library.store.layer_record(path) or {}
        if not dry_run and not _remove_layer(library, path, holds):
            done.held += 1
            continue
        done.layers += 1
        done.freed_bytes += int(record.get("size_bytes", 0))


def _remove_layer(library: Library, path: Path, holds: Holds) -> bool:
    """Remove a layer, unless a run has begun to use it meanwhile."""
    with library.store.hidden_layer(path) as restore:
        if path.name in holds.layers():
            return False
        restore.pop_all()
    if path.parent.name == "caller":
        remove_tree(path)
    else:
        library.layers.drop(path)
    return True


def _prune_blobs(library: Library, needed: set[str], done: Pruned, *, dry_run: bool) -> None:
    for digest, path in list(library.blobs.all()):
        if digest in needed:
            continue
        done.blobs += 1
        done.freed_bytes += path.stat().st_size
        if not dry_run:
            library.blobs.drop(digest)


def _prune_build_files(library: Library, unused_for_s: float, done: Pruned, dry_run: bool) -> None:
    """Remove caches of builds, files they fetched, and records of their contexts."""
    store = library.store
    for path in (store.home / "caches").glob("*/*"):
        if time.time() - path.stat().st_mtime < unused_for_s:
            continue
        fd = try_lock(os.fspath(path))
        if fd is None:
            continue  # a build uses it
        try:
            done.caches += 1
            if not dry_run:
                with store.temp_dir() as temp:
                    temp.removed_by = library.layers.remove_inside
                    path.rename(temp.path / "cache")
        finally:
            os.close(fd)
    for folder in ("downloads", "contexts"):
        for path in (store.home / folder).glob("*"):
            if not dry_run and time.time() - path.stat().st_mtime >= unused_for_s:
                path.unlink(missing_ok=True)


def _prune_leftovers(library: Library) -> None:
    """Remove files of interrupted work, and records of root file systems that are gone."""
    store = library.store
    store.sweep(library.layers.remove_inside)
    for path in (store.home / "partial").glob("*"):
        if time.time() - path.stat().st_mtime > _PARTIAL_AGE_S:
            path.unlink(missing_ok=True)
    for folder in (store.home / "states").glob("*"):
        with suppress(OSError):  # there are states of this key
            folder.rmdir()
    layer_names = {path.name for path in layer_directories(library)}
    for path in (store.home / "images").glob("rootfs-*.json"):
        record = records.read(path, "diff_id")
        if record is None or record.fields["diff_id"].rpartition(":")[2] not in layer_names:
            path.unlink(missing_ok=True)
