"""The implementation of `images.Inside` through the launcher of the run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pytest_containers.engines.native.jobs import call_job
from pytest_containers.model.errors import ImageError

if TYPE_CHECKING:
    from pytest_containers.runtime.wire.client import Client
    from pytest_containers.runtime.wire.operations.job import Job
    from pytest_containers.runtime.wire.operations.run import RunFacts


class RunInside:
    """A caller of functions that run as root of the user namespace of the run.

    Args:
        client: Returns the connection; called on first use.
        known_facts: Returns the facts of the run if they are known without a wait.
        identity: The `identity` of `Engine`; empty for the run of another process.
        home: The image store.
    """

    def __init__(
        self,
        client: Callable[[], Client],
        known_facts: Callable[[], RunFacts | None],
        identity: str,
        home: str,
    ) -> None:
        self._client = client
        self._known_facts = known_facts
        self._identity = identity
        self._home = home
        self._expected: str = ""

    @property
    def id_map_class(self) -> str:
        """The class of id maps; see `images.Inside`. The run is asked only if it may differ."""
        facts = self._known_facts()
        if facts is not None:
            return facts.id_map_class
        if not self._expected and self._identity and sys.platform == "linux":
            from pytest_containers.runtime.identity import choose, is_certain

            with suppress(OSError):  # of few descriptors; the run knows
                identity = choose(self._identity, self._home)
                if is_certain(identity):
                    self._expected = identity.id_map_class
        return self._expected or self._client().facts.id_map_class

    def call(
        self, job: Job[Any, Any], args: Mapping[str, Any], fds: Sequence[int]
    ) -> dict[str, Any]:
        """Run a job; see `images.Inside`.

        Raises:
            ImageError: The run has other ids than its layers are named for, since accounts of this
                machine have changed while it started: root without a range of its own takes one
                that is free.
        """
        client = self._client()
        own = client.facts.id_map_class
        if self._expected not in ("", own):
            raise ImageError(
                f"the run has the ids {own}, but its layers were named for {self._expected}: "
                "/etc/subuid or /etc/subgid has changed while it started; start again, or give "
                "this account a range of its own there"
            )
        return call_job(client, job, args, fds, kind=ImageError)
