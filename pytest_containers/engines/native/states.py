"""The states of the native engine: layers in its image store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pytest_containers.images.image import Image
from pytest_containers.images.images import Images
from pytest_containers.images.store import states as records
from pytest_containers.images.store.states import State
from pytest_containers.model.states import Freeze, SharedStates, own_state


class NativeStates:
    """The implementation of `model.states.StateStore` with the image store.

    Args:
        images: The image store.
    """

    def __init__(self, images: Images) -> None:
        self._images = images
        self._library = images.library

    @property
    def shared(self) -> SharedStates | None:
        """The states of other machines; see `StateStore.shared`."""
        return None if self._images.shared is None else self._images.shared.states

    @property
    def home(self) -> Path:
        """The directory in which states are kept."""
        return self._library.store.home

    def lock(self, key: str) -> AbstractContextManager[object]:
        """Lock a key; see `StateStore.lock`."""
        return self._library.store.lock(f"state-{key[:32]}")

    def candidates(self, key: str) -> list[State]:
        """Return the states of a key; see `StateStore.candidates`."""
        return self._library.states.candidates(key)

    def all(self) -> list[State]:
        """Return all states; see `StateStore.all`."""
        return self._library.states.all()

    def keep(self, key: str, base: Image, freeze: Freeze, facts: Mapping[str, Any]) -> State:
        """Store a state; see `StateStore.keep`."""
        return self._library.states.keep(key, base, freeze, facts)

    def image(self, base: Image, state: State) -> Image | None:
        """Return the image of a state; see `StateStore.image`."""
        return self._library.states.image(base, own_state(state, State, "native"))

    def used(self, state: State) -> None:
        """Record a use; see `StateStore.used`."""
        self._library.states.used(own_state(state, State, "native"))

    def drop(self, states: Sequence[State]) -> None:
        """Remove states; see `StateStore.drop`."""
        from pytest_containers.images.store.upkeep import drop_states

        drop_states(self._library, [own_state(state, State, "native") for state in states])

    def note_failure(self, key: str, run: str, failure: Mapping[str, Any]) -> None:
        """Record a failure; see `StateStore.note_failure`."""
        records.note_failure(self._library.store, key, run, failure)

    def failure_of(self, key: str, run: str) -> Mapping[str, Any] | None:
        """Return a recorded failure; see `StateStore.failure_of`."""
        return records.failure_of(self._library.store, key, run)
