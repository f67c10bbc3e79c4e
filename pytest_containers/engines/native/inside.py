"""`images.Inside` by way of the run's launcher."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_containers.errors import ContainersError, ImageError
from pytest_containers.runtime.client import Client


class RunInside:
    """Runs functions as root of the run's user namespace.

    Args:
        client: Gives the connection; called when it is first needed.
        identity: How a run of this process chooses its own (`Engine`); empty if it is not asked,
            since the run is another's.
    """

    def __init__(self, client: Callable[[], Client], identity: str) -> None:
        self._client = client
        self._identity = identity

    @functools.cached_property
    def id_map_class(self) -> str:
        """See `images.Inside`. A run would choose the same and is not started to be asked."""
        if self._identity and sys.platform == "linux":
            from pytest_containers.runtime.launcher.identity import choose

            return choose(self._identity).id_map_class
        name: str = self._client().facts["id_map_class"]
        return name

    def call(self, function: str, args: Mapping[str, Any], fds: Sequence[int]) -> dict[str, Any]:
        """See `images.Inside`."""
        search_path = [path for path in sys.path if path]
        try:
            frame = self._client().call(
                "job", function=function, args=dict(args), search_path=search_path, fds=fds
            )
        except ImageError:
            raise
        except ContainersError as error:
            raise ImageError(error.message, **error.data) from error
        result: dict[str, Any] = frame.body["ok"]
        return result
