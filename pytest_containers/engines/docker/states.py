"""The states of seeds in a daemon.

A state is an image of the daemon whose labels hold its key and facts, so that all who use the
daemon find it.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_containers.engines.docker import labels
from pytest_containers.engines.docker.container import DockerContainer
from pytest_containers.engines.docker.images import DockerImage
from pytest_containers.engines.docker.volumes import with_volumes
from pytest_containers.model.errors import ContainersError, SpecError, hide_frames
from pytest_containers.model.states import Freeze, own_state

if TYPE_CHECKING:
    from pytest_containers.engines.docker.core import DockerCore

__tracebackhide__ = hide_frames

_STATES = "pytest-containers/state"


@dataclass(frozen=True, slots=True)
class DockerState:
    """The record of a state; see `model.states.State`.

    Attributes:
        image_id: The id of its image.
    """

    key: str
    base: str
    made_at: float
    used_at: float
    image_id: str
    facts: Mapping[str, Any] = field(default_factory=dict)


class DockerStates:
    """The implementation of `model.states.StateStore` with images of a daemon.

    Args:
        core: The run.
    """

    def __init__(self, core: DockerCore) -> None:
        self._core = core

    @property
    def shared(self) -> None:
        """The states of other machines: none, since they are images of the daemon here."""
        return

    @property
    def home(self) -> Path:
        """The directory for locks and for what is noted of states."""
        return self._core.home / "docker-states"

    def _file(self, name: str) -> Path:
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.home / name

    def lock(self, key: str) -> AbstractContextManager[object]:
        """Lock a key; see `StateStore.lock`."""
        from filelock import FileLock

        return FileLock(self._file(f"{key[:32]}.lock"), thread_local=False)

    def candidates(self, key: str) -> list[DockerState]:
        """Return the states of a key; see `StateStore.candidates`."""
        return self._listed(f"{labels.STATE}={key}")

    def all(self) -> list[DockerState]:
        """Return all states; see `StateStore.all`."""
        return self._listed(labels.STATE)

    def _listed(self, label: str) -> list[DockerState]:
        found = self._core.api.call(
            "states of seeds", lambda client: client.images(filters={"label": label})
        )
        states = [state for each in found if (state := self._state_of(each)) is not None]
        return sorted(states, key=lambda state: state.used_at, reverse=True)

    def _state_of(self, facts: Mapping[str, Any]) -> DockerState | None:
        own = facts.get("Labels") or {}
        try:
            made_at = float(own[labels.MADE_AT])
            record = json.loads(base64.b64decode(own[labels.FACTS]))
            key, base = own[labels.STATE], own[labels.BASE]
        except (LookupError, ValueError):
            return None
        used_at = made_at
        with contextlib.suppress(OSError):
            used_at = self._used_file(facts["Id"]).stat().st_mtime
        return DockerState(key, base, made_at, used_at, facts["Id"], record)

    def _used_file(self, image_id: str) -> Path:
        return self._file(f"{image_id[7:39]}.used")

    def keep(
        self, key: str, base: DockerImage, freeze: Freeze, facts: Mapping[str, Any]
    ) -> DockerState:
        """Store a state; see `StateStore.keep`.

        Args:
            freeze: The method of the container whose files are stored.
        """
        container = getattr(freeze, "__self__", None)
        if not isinstance(container, DockerContainer):
            raise SpecError("a state of engine 'docker' is made of one of its containers")
        made_at = time.time()
        own = {
            labels.STATE: key,
            labels.BASE: base.id,
            labels.MADE_AT: str(made_at),
            labels.FACTS: base64.b64encode(json.dumps(facts).encode()).decode(),
        }
        number = hashlib.sha256(os.urandom(16)).hexdigest()[:12]
        name = f"{_STATES}:{key[:32]}-{number}"
        image = with_volumes(container, name, own)
        return DockerState(key, base.id, made_at, made_at, image.id, facts)

    def image(self, base: DockerImage, state: DockerState) -> DockerImage | None:
        """Return the image of a state; see `StateStore.image`."""
        image_id = own_state(state, DockerState, "docker").image_id
        found = self._core.finder.inspect(image_id, base.name, base.id)
        return None if found is None else dataclasses.replace(found, config=base.config)

    def used(self, state: DockerState) -> None:
        """Record a use; see `StateStore.used`."""
        self._used_file(own_state(state, DockerState, "docker").image_id).touch()

    def drop(self, states: Sequence[DockerState]) -> None:
        """Remove states; see `StateStore.drop`. Those that containers use stay."""
        for state in [own_state(each, DockerState, "docker") for each in states]:
            with contextlib.suppress(ContainersError):
                self._core.api.call(
                    "removal of a state",
                    lambda client, state=state: client.remove_image(state.image_id, force=True),  # type: ignore[misc]
                )
            with contextlib.suppress(OSError):
                self._used_file(state.image_id).unlink()

    def note_failure(self, key: str, run: str, failure: Mapping[str, Any]) -> None:
        """Record a failure; see `StateStore.note_failure`."""
        path = self._failure_file(key, run)
        path.with_suffix(".new").write_text(json.dumps(dict(failure)))
        path.with_suffix(".new").replace(path)

    def failure_of(self, key: str, run: str) -> Mapping[str, Any] | None:
        """Return a recorded failure; see `StateStore.failure_of`."""
        try:
            found: Mapping[str, Any] = json.loads(self._failure_file(key, run).read_text())
        except (OSError, ValueError):
            return None
        return found

    def _failure_file(self, key: str, run: str) -> Path:
        digest = hashlib.sha256(f"{key}\0{run}".encode()).hexdigest()
        return self._file(f"{digest[:32]}.failed")
