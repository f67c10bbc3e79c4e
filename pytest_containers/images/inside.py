"""What images needs from inside the run's user namespace; an engine provides it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pytest_containers.runtime.wire.operations.job import Job


class Inside(Protocol):
    """A way to run a function as root of the run's user namespace.

    Making one must be cheap: `id_map_class` is read whenever a layered image is looked up, while
    `call`, which may have to start something, is used only to unpack and to delete.
    """

    @property
    def id_map_class(self) -> str:
        """A name for the map of ids (``[A-Za-z0-9._-]+``): equal names, equal owners on disk."""

    def call(
        self, job: Job[Any, Any], args: Mapping[str, Any], fds: Sequence[int]
    ) -> dict[str, Any]:
        """Run a job with ``(args, fds)`` and return its result.

        It runs as root of the user namespace, in the host's mount namespace, in an interpreter
        without site-packages. The descriptors are duplicates of the caller's: same open file
        descriptions, so that a lock on one outlives a caller that dies.

        Raises:
            ImageError: The function failed; with its message.
        """
