"""``--containers-keep``: which containers stay after the test run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_containers.model import settings
from pytest_containers.model.engine import Container, Engine
from pytest_containers.model.errors import NotRunningError, RunLostError, hide_frames
from pytest_containers.model.settings import Settings
from pytest_containers.plugin.journal import ContainerLife

if TYPE_CHECKING:
    from pytest_containers.model.kept import KeepLimits

__tracebackhide__ = hide_frames


class Keeper:
    """Keeps the containers that the settings name, when their scope ends.

    Args:
        chosen: The settings of the test run.
        engine: Returns the engine.
        debugger: True with ``--pdb``: containers that do not become ready stay until their test
            ends, so that the debugger finds them.
    """

    def __init__(self, chosen: Settings, engine: Callable[[], Engine], *, debugger: bool) -> None:
        self._mode: str = chosen.get(settings.KEEP)
        self._settings = chosen
        self._engine = engine
        self._failed: dict[str, str] = {}
        self.holds_failed_starts: bool = debugger or self._mode != "off"

    def _limits(self) -> KeepLimits:
        from pytest_containers.model.kept import KeepLimits

        chosen = self._settings
        return KeepLimits(chosen.get(settings.KEEP_LIMIT), chosen.get(settings.KEEP_TIME))

    def note_failure(self, container: Container, test: str) -> None:
        """Note that a test which uses a container has failed."""
        if self._mode != "off" and container.id:
            self._failed.setdefault(container.id, test)

    def keep(self, container: Container, life: ContainerLife) -> bool:
        """Keep a container that is to be kept; return False if it is to be removed.

        Raises:
            ContainersError: The user's list of kept containers is not usable.
        """
        test = self._failed.pop(container.id, None)
        if self._mode == "off" or (self._mode == "failed" and test is None):
            return False
        engine = self._engine()
        engine.require("keep")
        try:
            engine.keep(container, test=test or life.test, limits=self._limits())
        except (NotRunningError, RunLostError):  # it was removed, or all is gone
            return False
        life.kept = True
        life.removed_at = time.time()
        return True

    def keep_failed(self, container: Container, life: ContainerLife) -> bool:
        """Keep a container whose start or seed has failed, as `keep` does."""
        self.note_failure(container, life.test)
        return self.keep(container, life)

    def show(self, container: Container, test: str) -> None:
        """Show a container to ``pytest-containers ps`` while a debugger has its test."""
        self._engine().keep(container, test=test, limits=self._limits(), stay=False)
