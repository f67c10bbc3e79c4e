"""States that machines share: each with its own layer, on top of an image that all have.

The layers of the image are not part of it. A machine looks for a state of the very image that it
has, since the image's id is in the key, and so has its layers already.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_containers.images import manifest as manifests
from pytest_containers.images.commit import packed
from pytest_containers.images.shared.documents import FORMAT, Artifact, ListedResult
from pytest_containers.images.shared.repository import SharedRepository
from pytest_containers.images.shared.turns import Turns
from pytest_containers.images.store.layers import is_state_layer
from pytest_containers.images.store.states import State
from pytest_containers.model.errors import ImageError, RegistryError, hide_frames
from pytest_containers.model.states import Accept

if TYPE_CHECKING:
    from pytest_containers.images.image import Image
    from pytest_containers.images.store.library import Library

__tracebackhide__ = hide_frames

_CLOCKS_S = 3600.0


class RegistryStates:
    """The implementation of `model.states.SharedStates` with a repository of a registry.

    Args:
        library: The image store.
        repository: Where states are shared.
    """

    def __init__(self, library: Library, repository: SharedRepository) -> None:
        self._library = library
        self._repository = repository
        self._turns = Turns(repository)
        self._refused: set[str] = set()

    def obtain(self, key: str, base: Image, accept: Accept) -> State | None:
        """Return a state that others have made, or wait for it; see `SharedStates.obtain`."""
        return self._turns.take(self._tag(key), lambda: self._look(key, base, accept))

    def offer(self, state: State, base: Image, accept: Accept) -> None:
        """Push a state that was made here; see `SharedStates.offer`."""
        tag = self._tag(state.key)
        layer = self._library.layers.find(state.layer)
        if not self._repository.writable or layer is None or len(state.layers) > 1:
            return
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
            return all(
                self._wanted(entry, state.key, base, accept) is None
                for entry in self._repository.find(tag)
            )

        self._repository.publish(tag, config, packed(self._library, layer), notes, wanted=wanted)
        self._turns.end(tag)

    def give_up(self, key: str) -> None:
        """Let others make a state; see `SharedStates.give_up`."""
        self._turns.end(self._tag(key))

    def _tag(self, key: str) -> str:
        # A single identity has lost the owners of files, which servers of other identities need.
        single = self._library.layers.inside.id_map_class.startswith("single")
        owners = "single" if single else "all"
        return self._repository.tag(f"{FORMAT} {key} {manifests.architecture()} {owners}")

    def _look(self, key: str, base: Image, accept: Accept) -> State | None:
        for entry in self._repository.find(self._tag(key)):
            wanted = self._wanted(entry, key, base, accept)
            if wanted is None:
                continue
            artifact, facts = wanted
            try:
                return self._bring_in(key, base, artifact, facts)
            except ImageError as error:
                self._refuse(entry, error)
        return None

    def _wanted(
        self, entry: ListedResult, key: str, base: Image, accept: Accept
    ) -> tuple[Artifact, Mapping[str, Any]] | None:
        """Return a state with its facts as they are kept here; None if it is of no use."""
        if entry.digest in self._refused or not self._repository.usable:
            return None
        try:
            artifact = self._repository.artifact(entry)
            config = artifact.config
            if config.get("key") != key or config.get("format") != FORMAT:
                raise ImageError("it is a state of another key or format")
            if artifact.layer is None or not is_state_layer(config["layer"], config["nonce"]):
                raise ImageError("its layer has no name of a state")
            if config["base"] != base.id:
                return None
            if not 0 < float(config["made_at"]) <= time.time() + _CLOCKS_S:
                raise ImageError("it has no time of its making")
            facts = accept(config["facts"], float(config["made_at"]))
        except (
            ImageError, LookupError, TypeError, ValueError, AttributeError, OSError,
            OverflowError, RecursionError,
        ) as error:  # fmt: skip
            self._refuse(entry, error)
            return None
        return None if facts is None else (artifact, facts)

    def _bring_in(
        self, key: str, base: Image, artifact: Artifact, facts: Mapping[str, Any]
    ) -> State:
        library, layer = self._library, artifact.layer
        layer_id = artifact.config["layer"]
        assert layer is not None  # `_wanted` has looked
        with self._repository.fetched(layer) as archive, library.store.among_others():
            nonce = artifact.config["nonce"]
            library.layers.thaw(archive, layer_id, nonce, f"a state of {base.name}")
            made_at = float(artifact.config["made_at"])
            return library.states.enter(key, base.id, layer_id, facts, made_at=made_at)

    def _refuse(self, entry: ListedResult, error: Exception) -> None:
        """Warn of a damaged state, which is not looked at again."""
        if isinstance(error, RegistryError) and error.status is not None:
            self._repository.give_up(error)
            return
        self._refused.add(entry.digest)
        cause = error if isinstance(error, ImageError) else f"{type(error).__name__}: {error}"
        self._repository.tell(f"state {entry.digest[:19]} is damaged and not used: {cause}")
