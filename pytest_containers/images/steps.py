"""Steps of builds that were done: the layer that each left, found again by a key.

What a key means is the builder's affair. A step is whole or not there: its layer is made first and
the record is what makes it known.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_containers.images.image import Layer
from pytest_containers.images.layers import Layers
from pytest_containers.images.store import Store, storing

FOLDER = "steps"


@dataclass(frozen=True, slots=True)
class Step:
    """What is known of a step.

    Attributes:
        key: 64 hex digits.
        diff_id: Of its layer; empty where it changed nothing.
        made_at, used_at: Seconds since the epoch.
    """

    key: str
    diff_id: str
    made_at: float
    used_at: float


class Steps:
    """The steps of a store.

    Args:
        store: Keeps them.
        layers: Their layers.
    """

    def __init__(self, store: Store, layers: Layers) -> None:
        self._store = store
        self._layers = layers

    def find(self, key: str) -> tuple[Step, Layer | None] | None:
        """A step that was done, and its layer unless it changed nothing."""
        step = _read(self._store, self._path(key))
        if step is None:
            return None
        layer = self._layers.find(step.diff_id) if step.diff_id else None
        if step.diff_id and layer is None:
            return None
        with suppress(OSError):
            os.utime(self._path(key))
        return step, layer

    def enter(self, key: str, diff_id: str) -> Step:
        """It was done now; whoever calls is among others (`Store.among_others`)."""
        now = time.time()
        record = {"layer": diff_id, "made_at": now}
        with storing("a step of a build", self._store.home):
            self._store.write_atomically(self._path(key), json.dumps(record).encode())
        return Step(key, diff_id, now, now)

    def _path(self, key: str) -> Path:
        return self._store.home / FOLDER / f"{key}.json"


def every(store: Store) -> Iterator[tuple[Step, Path]]:
    """All steps of a store, with their records."""
    for path in (store.home / FOLDER).glob("*.json"):
        step = _read(store, path)
        if step is not None:
            yield step, path


def _read(store: Store, path: Path) -> Step | None:
    found = store.read_json(path)
    if found is None or not isinstance(found.get("layer"), str):
        return None
    with suppress(FileNotFoundError):  # removed meanwhile
        made_at = float(found.get("made_at", 0))
        return Step(path.stem, found["layer"], made_at, path.stat().st_mtime)
    return None
