"""What a store shares with other machines, as the settings say."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from pytest_containers.images.shared.background import Pushes
from pytest_containers.images.shared.repository import SharedRepository
from pytest_containers.images.shared.states import RegistryStates
from pytest_containers.images.shared.steps import SharedSteps

if TYPE_CHECKING:
    from pytest_containers.images.store.library import Library
    from pytest_containers.model.engine_options import RegistrySettings
    from pytest_containers.model.sharing import SharedPlace, Sharing


class SharedResults:
    """The results that a store shares.

    Args:
        library: The store.
        settings: How registries are reached.
        sharing: Where results are shared.

    Attributes:
        pushes: Pushes results while the tests go on.
    """

    def __init__(self, library: Library, settings: RegistrySettings, sharing: Sharing) -> None:
        self._library = library
        self._settings = settings
        self._sharing = sharing
        self.pushes: Pushes = Pushes(sharing.warn)

    @cached_property
    def states(self) -> RegistryStates | None:
        """Seeded states; None if they are not shared."""
        place = self._sharing.states
        if place is None:
            return None
        return RegistryStates(self._library, self._repository(place, "state"), self.pushes)

    @cached_property
    def steps(self) -> SharedSteps | None:
        """Steps of builds; None if they are not shared."""
        place = self._sharing.build_cache
        if place is None:
            return None
        return SharedSteps(self._library, self._repository(place, "step"), self.pushes)

    def _repository(self, place: SharedPlace, kind: str) -> SharedRepository:
        return SharedRepository(
            place,
            kind,
            self._settings,
            self._library.store,
            key_file=self._sharing.key_file,
            run=self._sharing.run,
            warn=self._sharing.warn,
        )
