"""The display of transfers, which writes past the capture of pytest."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO

import pytest

from pytest_containers.model.display import Bars, Lines
from pytest_containers.model.transfer import TransferDisplay

RECORDER = "containers timeline"
"""The plugin that records transfers and builds for a report (`timeline.recorder`), if any."""


def display_of(config: pytest.Config) -> TransferDisplay | None:
    """Return live bars on a terminal, lines in a log, None with ``-q``."""
    display = _shown_display(config)
    recorder = config.pluginmanager.get_plugin(RECORDER)
    return display if recorder is None else recorder.display(display)


def _shown_display(config: pytest.Config) -> TransferDisplay | None:
    if config.get_verbosity() < 0:
        return None
    through = output_of(config)
    is_worker = hasattr(config, "workerinput")
    with through() as stream:  # a captured stream is not a terminal
        on_terminal = not is_worker and stream.isatty()
    return Bars(through) if on_terminal else Lines(through)


def open_output(config: pytest.Config) -> int | None:
    """Open the output of pytest itself, for another thread; None with ``-q`` or without one."""
    if config.get_verbosity() < 0:
        return None
    with output_of(config)() as stream:
        try:
            return os.dup(stream.fileno())
        except (OSError, ValueError):  # not a file
            return None


def output_of(config: pytest.Config) -> Callable[[], AbstractContextManager[IO[str]]]:
    """Return a function that opens the output of pytest itself, without capture."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if hasattr(config, "workerinput"):  # a worker of xdist has no visible terminal
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
    """Return the terminal of pytest, or standard error (a worker has that of its controller)."""
    return sys.stderr if reporter is None else reporter._tw._file
