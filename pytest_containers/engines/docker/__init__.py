"""The docker engine: containers of any endpoint that speaks Docker's API.

It needs the extra ``pytest-containers[docker]``, which is imported when the first call is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_containers.engines.docker.engine import DockerEngine as DockerEngine

__all__ = ["DockerEngine"]


def __getattr__(name: str) -> object:
    """Import the engine on first use: the watcher and the choice of an engine do not need it."""
    if name != "DockerEngine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pytest_containers.engines.docker.engine import DockerEngine

    return DockerEngine
