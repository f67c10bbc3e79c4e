"""The native engine, on the runtime of this project."""

from __future__ import annotations

from pytest_containers.engines.native.container import Container as Container
from pytest_containers.engines.native.core import Network as Network
from pytest_containers.engines.native.core import Volume as Volume
from pytest_containers.engines.native.engine import Engine as Engine

__all__ = ["Container", "Engine", "Network", "Volume"]
