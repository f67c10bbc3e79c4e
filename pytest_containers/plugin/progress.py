"""Images on their way, shown while pytest captures everything else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_containers.images.progress import Display


def display_of(config: pytest.Config) -> Display | None:
    """Live bars on a terminal, lines in a log, nothing with ``-q``."""
    from pytest_containers.images.display import Bars, Lines

    if config.get_verbosity() < 0:
        return None
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if hasattr(config, "workerinput"):  # its terminal is not seen by anybody
        reporter = None
    capture = config.pluginmanager.get_plugin("capturemanager")

    @contextmanager
    def through() -> Iterator[IO[str] | None]:
        """For a moment, what is written goes where pytest itself writes."""
        if capture is None:
            yield _stream(reporter)
            return
        with capture.global_and_fixture_disabled():
            yield _stream(reporter)

    with through() as stream:  # what is captured is no terminal
        on_terminal = reporter is not None and stream is not None and stream.isatty()
    return Bars(through) if on_terminal else Lines(through)


def _stream(reporter: pytest.TerminalReporter | None) -> IO[str]:
    """A worker of xdist has no terminal of its own, but the controller's standard error."""
    return sys.stderr if reporter is None else reporter._tw._file
