"""States: frozen writable layers on top of an image, found again by a key.

What the key means, and what else a state depends on, is its maker's affair; it is kept beside the
layer as `State.facts`. A state is whole or not there: the layer is made first and the record is
what makes it known.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_containers.images.store import records
from pytest_containers.model.errors import hide_frames

if TYPE_CHECKING:
    from pytest_containers.images.image import Image
    from pytest_containers.images.store.layers import Freeze, Layers
    from pytest_containers.images.store.store import Store

__tracebackhide__ = hide_frames

_KEY = re.compile(r"[0-9a-f]{64}\Z")
_FAILED, _FAILED_S = "failed-", 24 * 3600.0


@dataclass(frozen=True, slots=True)
class State:
    """The record of a state.

    Attributes:
        key: 64 hex digits.
        layer: Its layer's name, as `Layer.diff_id`.
        base: Id of the image below it.
        made_at, used_at: Seconds since the epoch.
        size_bytes: Of the files in its layer.
        facts: Its maker's.
    """

    key: str
    layer: str
    base: str
    made_at: float
    used_at: float
    size_bytes: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> list[str]:
        """Its layers, bottom first: one, or those of an image that was built on ``host:``."""
        return [*self.facts.get("below", ()), self.layer]

    @property
    def id(self) -> str:
        """Id of the image that it makes; equal ids, equal files."""
        identity = "\n".join(["state 1", self.base, *self.layers])
        return f"sha256:{hashlib.sha256(identity.encode()).hexdigest()}"


class States:
    """The states of a store.

    Args:
        store: Keeps them.
        layers: Their layers.
    """

    def __init__(self, store: Store, layers: Layers) -> None:
        self._store = store
        self._layers = layers

    def candidates(self, key: str) -> list[State]:
        """Return all whole states of a key, the last used first."""
        states = list(states_in(self._folder(key)))
        whole = [state for state in states if self._layers.find(state.layer) is not None]
        return sorted(whole, key=lambda state: -state.used_at)

    def keep(self, key: str, base: Image, freeze: Freeze, facts: Mapping[str, Any]) -> State:
        """Freeze a writable layer on top of `base` as a state of `key`.

        Raises:
            ImageError: It cannot be copied or stored; nothing of it is left then.
        """
        with self._store.among_others():
            layer = self._layers.freeze(freeze, f"a state of {base.name}")
            return self.enter(key, base.id, layer.diff_id, facts)

    def enter(
        self,
        key: str,
        base: str,
        layer: str,
        facts: Mapping[str, Any],
        *,
        made_at: float | None = None,
        used_at: float | None = None,
    ) -> State:
        """Make a stored layer a state of `key`; call in `Store.among_others`.

        Args:
            made_at, used_at: Seconds since the epoch, if it was made elsewhere; None is now.
        """
        now = time.time()
        made_at, used_at = made_at or now, used_at or now
        unpacked = self._layers.find(layer)
        record = {} if unpacked is None else self._store.layer_record(unpacked.path.parent) or {}
        size_bytes = int(record.get("size_bytes", 0))
        state = State(key, layer, base, made_at, used_at, size_bytes, dict(facts))
        fields = {
            "layer": layer,
            "base": base,
            "made_at": made_at,
            "size_bytes": size_bytes,
            "facts": state.facts,
        }
        self._store.write_record(self._path(state), fields, "a state", used_at=used_at)
        return state

    def image(self, base: Image, state: State) -> Image | None:
        """Return `base` with the state on top; None if its layer was removed meanwhile."""
        if state.base != base.id:
            return None
        image = base
        for name in state.layers:
            layer = self._layers.find(name)
            if layer is None:
                return None
            image = image.with_layer(layer, state.id)
        return image

    def used(self, state: State) -> None:
        """Note that a state is used now."""
        records.touch(self._path(state))

    def remove(self, state: State) -> None:
        """Forget a state; its layer goes when the store is pruned."""
        self._path(state).unlink(missing_ok=True)

    def all(self) -> list[State]:
        """Return every state, the last used first."""
        return sorted(every(self._store), key=lambda state: -state.used_at)

    def _folder(self, key: str) -> Path:
        if not _KEY.match(key):
            raise ValueError(f"{key!r} is not the key of a state")
        return self._store.home / "states" / key

    def _path(self, state: State) -> Path:
        return self._folder(state.key) / f"{state.layer.rpartition(':')[2]}.json"


def every(store: Store) -> Iterator[State]:
    """Yield all states of a store, also those whose layers are of other users' ids."""
    with suppress(FileNotFoundError):
        for name in os.listdir(store.home / "states"):
            if _KEY.match(name):
                _forget_failures(store.home / "states" / name)
                yield from states_in(store.home / "states" / name)


def note_failure(store: Store, key: str, run: str, failure: Mapping[str, Any]) -> None:
    """Tell the other processes of a run that the state of `key` cannot be made, and why."""
    store.write_record(_failure_path(store, key, run), failure, "why a state cannot be made")


def failure_of(store: Store, key: str, run: str) -> Mapping[str, Any] | None:
    """Return the failure that `note_failure` has left for `key`; None if there is none."""
    record = records.read(_failure_path(store, key, run))
    return None if record is None else record.fields


def _failure_path(store: Store, key: str, run: str) -> Path:
    digits = hashlib.sha256(run.encode()).hexdigest()[:16]
    return store.home / "states" / key / f"{_FAILED}{digits}.json"


def _forget_failures(folder: Path) -> None:
    """Remove the failures of earlier runs, which nothing reads any more."""
    late = time.time() - _FAILED_S
    for path in folder.glob(f"{_FAILED}*.json"):
        with suppress(OSError):
            if path.stat().st_mtime < late:
                path.unlink()


def states_in(folder: Path) -> Iterator[State]:
    """Yield the states whose records are in `folder`."""
    for record in records.read_all(folder, "layer"):
        fields = record.fields
        yield State(
            folder.name,
            fields["layer"],
            str(fields.get("base", "")),
            float(fields.get("made_at", 0)),
            record.used_at,
            int(fields.get("size_bytes", 0)),
            fields.get("facts") or {},
        )
