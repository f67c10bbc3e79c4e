"""States: frozen writable layers on top of an image, found again by a key.

What the key means, and what else a state depends on, is its maker's affair; it is kept beside the
layer as `State.facts`. A state is whole or not there: the layer is made first and the record is
what makes it known.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_containers.errors import hide_frames
from pytest_containers.images.image import Image
from pytest_containers.images.layers import Freeze, Layers
from pytest_containers.images.store import Store, storing

__tracebackhide__ = hide_frames

_KEY = re.compile(r"[0-9a-f]{64}\Z")
_FAILED, _FAILED_S = "failed-", 24 * 3600.0


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a state.

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
        """Of the image that it makes; equal ids, equal files."""
        text = "\n".join(["state 1", self.base, *self.layers])
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


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
        """All whole states of a key, the one used last first."""
        found = list(known(self._store, self._folder(key)))
        whole = [state for state in found if self._layers.find(state.layer) is not None]
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
        self, key: str, base: str, layer: str, facts: Mapping[str, Any], *,
        made_at: float | None = None, used_at: float | None = None,
    ) -> State:  # fmt: skip
        """Make a layer that is there a state of `key`; whoever calls is among others.

        Args:
            made_at, used_at: Seconds since the epoch, if it was made elsewhere; None is now.
        """
        now = time.time()
        made_at, used_at = made_at or now, used_at or now
        unpacked = self._layers.find(layer)
        record = {} if unpacked is None else self._store.layer_record(unpacked.path.parent) or {}
        size_bytes = int(record.get("size_bytes", 0))
        state = State(key, layer, base, made_at, used_at, size_bytes, dict(facts))
        kept = {
            "layer": layer, "base": base, "made_at": made_at, "size_bytes": size_bytes,
            "facts": state.facts,
        }  # fmt: skip
        with storing("a state", self._store.home):
            self._store.write_atomically(self._path(state), json.dumps(kept).encode())
            os.utime(self._path(state), (used_at, used_at))
        return state

    def image(self, base: Image, state: State) -> Image | None:
        """`base` with the state on top of it; None if its layer was removed meanwhile."""
        if state.base != base.id:
            return None
        made = base
        for name in state.layers:
            layer = self._layers.find(name)
            if layer is None:
                return None
            made = made.with_layer(layer, state.id)
        return made

    def used(self, state: State) -> None:
        """It is used now."""
        with suppress(OSError):
            os.utime(self._path(state))

    def remove(self, state: State) -> None:
        """Forget it; its layer goes when the store is pruned."""
        self._path(state).unlink(missing_ok=True)

    def all(self) -> list[State]:
        """Every state, the one used last first."""
        return sorted(every(self._store), key=lambda state: -state.used_at)

    def _folder(self, key: str) -> Path:
        if not _KEY.match(key):
            raise ValueError(f"{key!r} is not the key of a state")
        return self._store.home / "states" / key

    def _path(self, state: State) -> Path:
        return self._folder(state.key) / f"{state.layer.rpartition(':')[2]}.json"


def every(store: Store) -> Iterator[State]:
    """All states of a store, also those whose layers are of other users' ids."""
    with suppress(FileNotFoundError):
        for name in os.listdir(store.home / "states"):
            if _KEY.match(name):
                _forget_failures(store.home / "states" / name)
                yield from known(store, store.home / "states" / name)


def failure_path(store: Store, key: str, run: str) -> Path:
    """Where the processes of a run tell each other that the state of `key` cannot be made."""
    digits = hashlib.sha256(run.encode()).hexdigest()[:16]
    return store.home / "states" / key / f"{_FAILED}{digits}.json"


def _forget_failures(folder: Path) -> None:
    """Of runs that are over; nobody reads them any more, and a run has nobody to remove them."""
    late = time.time() - _FAILED_S
    for path in folder.glob(f"{_FAILED}*.json"):
        with suppress(OSError):
            if path.stat().st_mtime < late:
                path.unlink()


def known(store: Store, folder: Path) -> Iterator[State]:
    """The states whose records are in `folder`."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in names:
        path = folder / name
        found = store.read_json(path)
        if found is None or not isinstance(found.get("layer"), str):
            continue
        with suppress(FileNotFoundError):  # removed meanwhile
            yield State(
                folder.name, found["layer"], str(found.get("base", "")),
                float(found.get("made_at", 0)), path.stat().st_mtime,
                int(found.get("size_bytes", 0)), found.get("facts") or {},
            )  # fmt: skip
