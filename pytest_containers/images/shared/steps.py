"""Steps of builds that machines share: the layer that each left, by the key of the step."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_containers.images import manifest as manifests
from pytest_containers.images.commit import packed
from pytest_containers.images.reference import check_digest
from pytest_containers.images.shared.background import Pushes
from pytest_containers.images.shared.documents import FORMAT, Artifact
from pytest_containers.images.shared.repository import SharedRepository
from pytest_containers.images.shared.turns import Turns
from pytest_containers.images.store.build_steps import Steps
from pytest_containers.images.store.holds import LayerHold
from pytest_containers.images.store.layers import Want
from pytest_containers.model.errors import ImageError, RegistryError, hide_frames
from pytest_containers.model.transfer import Part

if TYPE_CHECKING:
    from pytest_containers.images.image import Layer
    from pytest_containers.images.store.library import Library

__tracebackhide__ = hide_frames


class SharedStep(NamedTuple):
    """A step that another machine has done: its layer, unless it changed nothing."""

    layer: Layer | None
    made_at: float


class SharedSteps:
    """The shared steps of builds. A layer is what its digest says, or it is not used.

    Args:
        library: The image store.
        repository: Where steps are shared.
        pushes: Pushes them.
    """

    def __init__(self, library: Library, repository: SharedRepository, pushes: Pushes) -> None:
        self._pushes = pushes
        self._library = library
        self._repository = repository
        self._turns = Turns(repository)
        self._steps = Steps(library.store, library.layers)
        self._refused: set[str] = set()

    def obtain(self, key: str) -> SharedStep | None:
        """Return a step that was done elsewhere, now or while this machine waits for it.

        None means that the caller does it, and calls `offer` or `give_up` afterwards.
        """
        return self._turns.take(self._tag(key), lambda: self._look(key))

    def offer(self, key: str, layer: Layer | None) -> None:
        """Push a step that was done here, unless others have meanwhile; returns at once."""
        if not self._repository.writable:
            return
        layers = [] if layer is None else [layer]
        self._pushes.add(
            lambda: self._push(key, layer), lambda: LayerHold(self._library.store, layers)
        )

    def _push(self, key: str, layer: Layer | None) -> None:
        tag, repository = self._tag(key), self._repository
        diff_id = "" if layer is None else layer.diff_id
        config = {"format": FORMAT, "key": key, "diff_id": diff_id}
        notes = {
            "org.pytest-containers.key": key,
            "org.pytest-containers.architecture": manifests.architecture(),
        }
        pieces = None if layer is None else packed(self._library, layer)
        repository.publish(tag, config, pieces, notes, wanted=lambda: not repository.find(tag))
        self._turns.end(tag)

    def give_up(self, key: str) -> None:
        """Let others do a step that could not be done here."""
        self._turns.end(self._tag(key))

    def _tag(self, key: str) -> str:
        owners = "single" if self._library.layers.single else "all"
        return self._repository.tag(f"{FORMAT} {key} {manifests.architecture()} {owners}")

    def _look(self, key: str) -> SharedStep | None:
        for entry in self._repository.find(self._tag(key)):
            if entry.digest in self._refused or not self._repository.usable:
                continue
            try:
                return self._bring_in(key, self._repository.artifact(entry))
            except (
                ImageError, LookupError, TypeError, ValueError, AttributeError, RecursionError,
            ) as error:  # fmt: skip
                if isinstance(error, RegistryError) and error.status is not None:
                    self._repository.give_up(error)
                    return None
                self._refused.add(entry.digest)
                self._repository.tell(f"step {entry.digest[:19]} is damaged and not used: {error}")
        return None

    def _bring_in(self, key: str, artifact: Artifact) -> SharedStep:
        config, layer = artifact.config, artifact.layer
        if config["key"] != key or config["format"] != FORMAT:
            raise ImageError("it is a step of another key or format")
        if not config["diff_id"]:
            with self._library.store.among_others():
                return SharedStep(None, self._steps.enter(key, "").made_at)
        if layer is None:
            raise ImageError("it has no layer")
        diff_id = check_digest(config["diff_id"])
        want = Want(
            diff_id,
            f"layer {layer.digest[7:19]} of a step of a build",
            Part("layer", layer.size_bytes),
            lambda part, stop: self._repository.fetched(layer),
        )
        with self._library.store.among_others():
            unpacked = self._library.layers.ensure([want])[0]
            return SharedStep(unpacked, self._steps.enter(key, diff_id).made_at)
