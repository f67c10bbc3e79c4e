"""The states of the process engine: whole trees below the image store, found again by a key."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytest_containers.engines.process.core import STATES, ProcessCore
from pytest_containers.engines.process.snapshots import with_files
from pytest_containers.images.image import Image
from pytest_containers.images.store import states as records
from pytest_containers.images.store.states import State
from pytest_containers.model.errors import ImageError, hide_frames
from pytest_containers.model.states import Freeze

__tracebackhide__ = hide_frames

_FORMAT = 1  # counts changes of what a state is


class ProcessStates:
    """The implementation of `model.states.StateStore` with directories.

    A state is made in a directory without a record, which is what makes it known.

    Args:
        core: The engine.
    """

    def __init__(self, core: ProcessCore) -> None:
        self._core = core
        self._store = core.images.library.store
        kind = "root" if core.is_root else f"user-{os.geteuid()}"
        self._folder = self._store.home / STATES / f"{_FORMAT}-{kind}"

    @property
    def shared(self) -> None:
        """The states of other machines: none, since these are directories and no layers."""
        return

    @property
    def home(self) -> Path:
        """The directory in which states are kept."""
        return self._store.home

    def lock(self, key: str) -> AbstractContextManager[object]:
        """Lock a key; see `StateStore.lock`."""
        return self._store.lock(f"process-state-{key[:32]}")

    def candidates(self, key: str) -> Sequence[State]:
        """Return the states of a key; see `StateStore.candidates`."""
        return sorted(self._in(self._folder / key), key=lambda state: -state.used_at)

    def all(self) -> Sequence[State]:
        """Return all states; see `StateStore.all`."""
        states = [state for folder in self._folder.glob("*") for state in self._in(folder)]
        return sorted(states, key=lambda state: -state.used_at)

    def _in(self, folder: Path) -> list[State]:
        states = []
        for path in folder.glob("*.json"):
            with suppress(OSError, ValueError, TypeError):
                fields = json.loads(path.read_text())
                states.append(State(**{**fields, "used_at": path.stat().st_mtime}))
        return states

    def keep(self, key: str, base: Image, freeze: Freeze, facts: Mapping[str, Any]) -> State:
        """Store a state; see `StateStore.keep`."""
        name = uuid.uuid4().hex
        place = self._folder / key / name
        try:
            place.mkdir(parents=True)
            parent = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                frozen = freeze(parent)
            finally:
                os.close(parent)
            now = time.time()
            state = State(key, name, base.id, now, now, int(frozen["size_bytes"]), dict(facts))
            record = place.with_suffix(".json")
            partial = place.with_suffix(".partial")
            partial.write_text(json.dumps(asdict(state)))
            partial.rename(record)
        except OSError as error:
            shutil.rmtree(place, ignore_errors=True)
            raise ImageError(
                f"a state of {base.name}: {error.strerror}", errno=error.errno
            ) from error
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        return state

    def image(self, base: Image, state: State) -> Image | None:
        """Return the image of a state; see `StateStore.image`."""
        tree = self._folder / state.key / state.layer / "tree"
        if not tree.is_dir():
            return None
        return with_files(base, self._core.near(tree, state.layer), state.id)

    def used(self, state: State) -> None:
        """Record a use; see `StateStore.used`."""
        with suppress(OSError):
            os.utime(self._folder / state.key / f"{state.layer}.json")

    def drop(self, states: Sequence[State]) -> None:
        """Remove states; see `StateStore.drop`."""
        for state in states:
            (self._folder / state.key / f"{state.layer}.json").unlink(missing_ok=True)
            shutil.rmtree(self._folder / state.key / state.layer, ignore_errors=True)

    def note_failure(self, key: str, run: str, failure: Mapping[str, Any]) -> None:
        """Record a failure; see `StateStore.note_failure`."""
        records.note_failure(self._store, key, run, failure)

    def failure_of(self, key: str, run: str) -> Mapping[str, Any] | None:
        """Return a recorded failure; see `StateStore.failure_of`."""
        return records.failure_of(self._store, key, run)
