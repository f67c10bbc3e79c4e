"""Steps of builds that were done: the layer that each left, found again by a key.

What a key means is the builder's affair. A step is whole or not there: its layer is made first and
the record is what makes it known.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_containers.images.store import records

if TYPE_CHECKING:
    from pytest_containers.images.image import Layer
    from pytest_containers.images.store.layers import Layers
    from pytest_containers.images.store.store import Store

FOLDER = "steps"


@dataclass(frozen=True, slots=True)
class Step:
    """The record of a step.

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
        """Find a step that was done, and its layer unless it changed nothing."""
        record = records.read(self._path(key), "layer")
        if record is None:
            return None
        step = _step_of(record)
        layer = self._layers.find(step.diff_id) if step.diff_id else None
        if step.diff_id and layer is None:
            return None
        records.touch(record.path)
        return step, layer

    def enter(self, key: str, diff_id: str) -> Step:
        """Record that a step was done now; call in `Store.among_others`."""
        now = time.time()
        record = {"layer": diff_id, "made_at": now}
        self._store.write_record(self._path(key), record, "a step of a build")
        return Step(key, diff_id, now, now)

    def _path(self, key: str) -> Path:
        return self._store.home / FOLDER / f"{key}.json"


def every(store: Store) -> Iterator[tuple[Step, Path]]:
    """Yield all steps of a store, with their records."""
    for record in records.read_all(store.home / FOLDER, "layer"):
        yield _step_of(record), record.path


def _step_of(record: records.JsonRecord) -> Step:
    made_at = float(record.fields.get("made_at", 0))
    return Step(record.path.stem, record.fields["layer"], made_at, record.used_at)
