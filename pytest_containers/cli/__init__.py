"""The command line: `pytest-containers doctor | setup | run | images | load | import | version`."""

from __future__ import annotations

from pytest_containers.cli.main import main

__all__ = ["main"]
