"""The manager of a pytest process, which makes the parts of the plugin on demand."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pytest_containers.model.errors import hide_frames
from pytest_containers.plugin.marks import definitions_of
from pytest_containers.plugin.workspace import Workspace
from pytest_containers.services.names import SCOPE_FIXTURES

if TYPE_CHECKING:
    from pytest_containers.plugin.lookahead import Lookahead
    from pytest_containers.plugin.provider import Provider
    from pytest_containers.plugin.scopes import Containers
    from pytest_containers.state.warm import Outcome

__tracebackhide__ = hide_frames

_log = logging.getLogger(__name__)


class Manager(Workspace):
    """The workspace of a process, with the provider and the look-ahead."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__(config)
        self._provider: Provider | None = None
        self._lookahead: Lookahead | None = None

    @property
    def provider(self) -> Provider:
        """The provider, which starts the containers of fixtures."""
        if self._provider is None:
            from pytest_containers.plugin.provider import Provider

            self._provider = Provider(self)
        return self._provider

    @property
    def lookahead(self) -> Lookahead:
        """The look-ahead, which starts the containers of the next test."""
        if self._lookahead is None:
            from pytest_containers.plugin.lookahead import Lookahead

            self._lookahead = Lookahead(self, lambda: self.provider)
        return self._lookahead

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes of all states, in order."""
        return [] if self._provider is None else list(self._provider.outcomes.values())

    def renew(self, item: pytest.Item | None) -> None:
        """Replace a run that is lost.

        Args:
            item: The next test; fixtures of wider scopes that it could use are made anew.
        """
        if item is not None:
            self._end_fixtures(item)
        if self._provider is not None:
            self._provider.forget_run()
        self._lookahead = None
        self.drop_run()

    def _end_fixtures(self, item: pytest.Item) -> None:
        """End the live fixtures that have containers, and all that use them."""
        # There is no public way to it. Their teardown meets servers that are gone.
        pairs = [
            (request._fixturedef, request)  # type: ignore[attr-defined]
            for live in reversed(self.live)
            for request in reversed(list(live.fixtures))
        ]
        for name in SCOPE_FIXTURES.values():
            pairs += [(each, item._request) for each in definitions_of(item, name)]  # type: ignore[attr-defined]
        for fixturedef, owner in pairs:
            try:
                fixturedef.finish(owner)
            except Exception as error:  # noqa: BLE001 - from the user's own fixtures
                _log.warning("a fixture could not end after its containers were lost: %s", error)

    @contextmanager
    def containers(self, scope: str) -> Iterator[Containers]:
        """Keep the containers of a scope while the body runs."""
        from pytest_containers.plugin.scopes import Containers

        live = Containers(self, scope, lambda: self.lookahead, lambda: self.provider)
        self.live.append(live)
        try:
            yield live
        finally:
            self.live.remove(live)
            live.close()
