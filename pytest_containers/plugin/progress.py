"""Images on their way, shown while pytest captures everything else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, TYPE_CHECKING

import pytest

from pytest_containers.build.progress import Display

if TYPE_CHECKING:
    from pytest_containers.images import progress as images


def display_of(config: pytest.Config) -> images.Display | None:
    """Live bars on a terminal, lines in a log, nothing with ``-q``."""
    from pytest_containers.images.display import Bars, Lines

    if config.get_verbosity() < 0:
        return None
    through = _through(config)
    is_worker = hasattr(config, "workerinput")
    with through() as stream:  # what is captured is no terminal
        on_terminal = not is_worker and stream.isatty()
    return Bars(through) if on_terminal else Lines(through)


class Steps(Display):
    """The steps of a build: with ``-v`` all, else what programs write, with ``-q`` nothing."""

    def __init__(self, config: pytest.Config) -> None:
        self._verbosity = config.get_verbosity()
        self.brief: bool = self._verbosity < 1
        self._through = _through(config)

    def write(self, text: str) -> None:
        """Show lines."""
        if self._verbosity < 0:
            return
        with self._through() as stream:
            stream.write(text)
            stream.flush()


def _through(config: pytest.Config) -> Callable[[], AbstractContextManager[IO[str]]]:
    """For a moment, what is written goes where pytest itself writes."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if hasattr(config, "workerinput"):  # its terminal is not seen by anybody
        reporter = None
    capture = config.pluginmanager.get_plugin("capturemanager")

    @contextmanager
    def through() -> Iterator[IO[str]]:
        if capture is None:
            yield _stream(reporter)
            return
        with capture.global_and_fixture_disabled():
            yield _stream(reporter)

    return through


def _stream(reporter: pytest.TerminalReporter | None) -> IO[str]:
    """A worker of xdist has no terminal of its own, but the controller's standard error."""
    return sys.stderr if reporter is None else reporter._tw._file
