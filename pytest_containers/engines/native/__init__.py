"""The engine on the project's own runtime."""

from __future__ import annotations

from pytest_containers.engines.native.container import Container as Container
from pytest_containers.engines.native.engine import Engine as Engine
from pytest_containers.engines.native.engine import Network as Network
from pytest_containers.engines.native.engine import Volume as Volume

__all__ = ["Container", "Engine", "Network", "Volume"]
