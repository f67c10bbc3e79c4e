"""The implementation of `images.Inside` through the launcher of the run."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_containers.engines.native.jobs import call_job
from pytest_containers.model.errors import ImageError

if TYPE_CHECKING:
    from pytest_containers.runtime.wire.client import Client
    from pytest_containers.runtime.wire.operations.job import Job


class RunInside:
    """A caller of functions that run as root of the user namespace of the run.

    Args:
        client: Returns the connection; called on first use.
        identity: The `identity` of `Engine`; empty for the run of another process.
        home: The image store.
    """

    def __init__(self, client: Callable[[], Client], identity: str, home: str) -> None:
        self._client = client
        self._identity = identity
        self._home = home

    @functools.cached_property
    def id_map_class(self) -> str:
        """The class of id maps; see `images.Inside`. The run is asked only if it may differ."""
        if self._identity and sys.platform == "linux":
            from pytest_containers.runtime.identity import choose, is_certain

            identity = choose(self._identity, self._home)
            if is_certain(identity):
                return identity.id_map_class
        name: str = self._client().facts.id_map_class
        return name

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
        if client.facts.id_map_class != self.id_map_class:
            raise ImageError(
                f"the run has the ids {client.facts.id_map_class}, but its layers are named for "
                f"{self.id_map_class}: /etc/subuid or /etc/subgid has changed while it started; "
                "start again, or give this account a range of its own there"
            )
        return call_job(client, job, args, fds, kind=ImageError)
