"""The command line, `pytest-containers COMMAND`."""

from __future__ import annotations

from pytest_containers.cli.main import main

__all__ = ["main"]
