"""The display of builds, which writes past the capture of pytest."""

from __future__ import annotations

import pytest

from pytest_containers.model.build import BuildDisplay
from pytest_containers.plugin.displays import output_of


class StepsDisplay(BuildDisplay):
    """A display of build steps: all with ``-v``, nothing with ``-q``, else output of programs."""

    def __init__(self, config: pytest.Config) -> None:
        self._verbosity = config.get_verbosity()
        self.brief: bool = self._verbosity < 1
        self._through = output_of(config)

    def write(self, lines: str) -> None:
        """Show whole lines, each with its line end."""
        if self._verbosity < 0:
            return
        with self._through() as stream:
            stream.write(lines)
            stream.flush()
