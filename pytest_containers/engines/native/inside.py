"""`images.Inside` by way of the run's launcher."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_containers.errors import ContainersError, ImageError
from pytest_containers.runtime.client import Client


class RunInside:
    """Runs functions as root of the run's user namespace.

    Args:
        client: Gives the connection; called when it is first needed.
    """

    def __init__(self, client: Callable[[], Client]) -> None:
        self._client = client

    @property
    def id_map_class(self) -> str:
        """See `images.Inside`."""
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
