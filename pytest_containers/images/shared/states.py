"""States that machines share: each with its own layer, on top of an image that all have.

The layers of the image are not part of it. A machine looks for a state of the very image that it
has, since the image's id is in the key, and so has its layers already.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_containers.images import manifest as manifests
from pytest_containers.images.commit import packed
from pytest_containers.images.shared.background import FetchAhead, Pushes
from pytest_containers.images.shared.documents import FORMAT, Artifact, ListedResult
from pytest_containers.images.shared.repository import SharedRepository
from pytest_containers.images.shared.turns import Turns
from pytest_containers.images.store.holds import LayerHold
from pytest_containers.images.store.layers import is_state_layer
from pytest_containers.images.store.states import State
from pytest_containers.model.errors import ImageError, RegistryError, hide_frames
from pytest_containers.model.states import Accept, Following

if TYPE_CHECKING:
    from pytest_containers.images.image import Image, Layer
    from pytest_containers.images.store.library import Library

__tracebackhide__ = hide_frames

_CLOCKS_S = 3600.0


class _Search(NamedTuple):
    """A state that is looked for: of a key, on top of the image with an id and a name."""

    key: str
    base: str
    name: str
    accept: Accept
    following: Following


class RegistryStates:
    """The implementation of `model.states.SharedStates` with a repository of a registry.

    Args:
        library: The image store.
        repository: Where states are shared.
        pushes: Pushes them.
    """

    def __init__(self, library: Library, repository: SharedRepository, pushes: Pushes) -> None:
        self._library = library
        self._pushes = pushes
        self._ahead: dict[str, FetchAhead[State | None]] = {}
        self._repository = repository
        self._turns = Turns(repository)
        self._refused: set[str] = set()

    def obtain(
        self,
        key: str,
        base: Image,
        accept: Accept,
        following: Following = lambda image_id: None,
    ) -> State | None:
        """Return a state that others have made, or wait for it; see `SharedStates.obtain`."""
        tag = self._tag(key)
        ahead = self._ahead.pop(tag, None)
        state = None if ahead is None else ahead.answer()
        if state is not None and state.base == base.id:
            return state
        search = _Search(key, base.id, base.name, accept, following)
        return self._turns.take(tag, lambda: self._look(search))

    def offer(self, state: State, base: Image, accept: Accept) -> None:
        """Push a state that was made here; see `SharedStates.offer`."""
        layer = self._library.layers.find(state.layer)
        if not self._repository.writable or layer is None or len(state.layers) > 1:
            return
        search = _Search(state.key, base.id, base.name, accept, lambda image_id: None)
        # Until it is pushed, the note of its maker has the others wait.
        self._pushes.add(
            lambda: self._push(state, layer, search),
            lambda: LayerHold(self._library.store, [layer]),
        )

    def _push(self, state: State, layer: Layer, search: _Search) -> None:
        tag = self._tag(state.key)
        record = self._library.store.layer_record(Path(layer.path).parent) or {}
        config = {
            "format": FORMAT,
            "key": state.key,
            "base": state.base,
            "layer": state.layer,
            "nonce": record.get("nonce", ""),
            "made_at": state.made_at,
            "facts": dict(state.facts),
        }
        notes = {
            "org.pytest-containers.key": state.key,
            "org.pytest-containers.base": state.base,
            "org.pytest-containers.architecture": manifests.architecture(),
            "org.opencontainers.image.title": str(state.facts.get("title", "")),
        }

        def wanted() -> bool:
            return all(self._wanted(entry, search) is None for entry in self._repository.find(tag))

        self._repository.publish(tag, config, packed(self._library, layer), notes, wanted=wanted)
        self._turns.end(tag)

    def give_up(self, key: str) -> None:
        """Let others make a state; see `SharedStates.give_up`."""
        self._turns.end(self._tag(key))

    def _tag(self, key: str) -> str:
        # A single identity has lost the owners of files, which servers of other identities need.
        owners = "single" if self._library.layers.single else "all"
        return self._repository.tag(f"{FORMAT} {key} {manifests.architecture()} {owners}")

    def _look(self, search: _Search) -> State | None:
        for entry in self._repository.find(self._tag(search.key)):
            wanted = self._wanted(entry, search)
            if wanted is None:
                continue
            artifact, facts = wanted
            try:
                return self._bring_in(search, artifact, facts)
            except ImageError as error:
                self._refuse(entry, error)
        return None

    def _wanted(
        self, entry: ListedResult, search: _Search
    ) -> tuple[Artifact, Mapping[str, Any]] | None:
        """Return a state with its facts as they are kept here; None if it is of no use."""
        if entry.digest in self._refused or not self._repository.usable:
            return None
        try:
            artifact = self._repository.artifact(entry)
            config = artifact.config
            if config.get("key") != search.key or config.get("format") != FORMAT:
                raise ImageError("it is a state of another key or format")
            if artifact.layer is None or not is_state_layer(config["layer"], config["nonce"]):
                raise ImageError("its layer has no name of a state")
            if config["base"] != search.base:
                return None
            if not 0 < float(config["made_at"]) <= time.time() + _CLOCKS_S:
                raise ImageError("it has no time of its making")
            facts = search.accept(config["facts"], float(config["made_at"]))
        except (
            ImageError, LookupError, TypeError, ValueError, AttributeError, OSError,
            OverflowError, RecursionError,
        ) as error:  # fmt: skip
            self._refuse(entry, error)
            return None
        return None if facts is None else (artifact, facts)

    def _bring_in(self, search: _Search, artifact: Artifact, facts: Mapping[str, Any]) -> State:
        library, layer = self._library, artifact.layer
        layer_id, made_at = artifact.config["layer"], float(artifact.config["made_at"])
        assert layer is not None  # `_wanted` has looked
        self._look_ahead(search, State(search.key, layer_id, search.base, made_at, made_at, 0).id)
        with library.store.among_others():
            if library.layers.find(layer_id) is None:
                with self._repository.fetched(layer) as archive:
                    nonce = artifact.config["nonce"]
                    library.layers.thaw(archive, layer_id, nonce, f"a state of {search.name}")
            return library.states.enter(search.key, search.base, layer_id, facts, made_at=made_at)

    def _look_ahead(self, search: _Search, image_id: str) -> None:
        """Begin to bring in the state that will be asked for next, on top of this one."""
        upcoming = search.following(image_id)
        if upcoming is None:
            return
        key, accept, following = upcoming
        next_search = _Search(key, image_id, search.name, accept, following)
        with suppress(OSError):  # no thread
            self._ahead[self._tag(key)] = FetchAhead(lambda: self._look(next_search))

    def _refuse(self, entry: ListedResult, error: Exception) -> None:
        """Warn of a damaged state, which is not looked at again."""
        if isinstance(error, RegistryError) and error.status is not None:
            self._repository.give_up(error)
            return
        self._refused.add(entry.digest)
        cause = error if isinstance(error, ImageError) else f"{type(error).__name__}: {error}"
        self._repository.tell(f"state {entry.digest[:19]} is damaged and not used: {cause}")
