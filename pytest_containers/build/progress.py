"""A build on the terminal, as BuildKit's plain progress shows it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import IO

_KEPT_LINES = 30
_LEAST_SECRET_BYTES = 4  # shorter ones are parts of other words


class Display:
    """Shows steps; this one shows nothing.

    Attributes:
        brief: Whether only programs are worth showing, not what was done before or at once.
    """

    brief: bool = False

    def write(self, text: str) -> None:
        """Show lines."""


class Plain(Display):
    """Writes lines to a file as they come."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, text: str) -> None:
        """Show lines."""
        self._file.write(text)
        self._file.flush()


class Progress:
    """The steps of one build, numbered as they begin."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self.brief: bool = display.brief
        self._lock = threading.Lock()
        self._count = 0

    def step(self, title: str) -> Shown:
        """A step begins."""
        with self._lock:
            self._count += 1
            shown = Shown(self, self._count, title)
        if not self.brief:
            shown.announce()
        return shown

    def warn(self, text: str) -> None:
        """A sentence about the Dockerfile or what was given with it."""
        with self._lock:
            self._display.write(f"warning: {text}\n")

    def line(self, number: int, text: str) -> None:
        """One line of a step."""
        with self._lock:
            self._display.write(f"#{number} {text}\n")


class Shown:
    """One step on the display.

    Attributes:
        tail: The last lines of its output.
    """

    def __init__(self, progress: Progress, number: int, title: str) -> None:
        self._progress = progress
        self._number = number
        self._title = title
        self._announced = False
        self._begin = time.monotonic()
        self._rest = b""
        self._tail: deque[str] = deque(maxlen=_KEPT_LINES)
        self._hidden: list[bytes] = []

    def announce(self) -> None:
        """Show that it began; once."""
        if not self._announced:
            self._announced = True
            self._progress.line(self._number, self._title)

    @property
    def tail(self) -> list[str]:
        """The last lines of what it wrote."""
        return list(self._tail)

    def _seconds(self) -> float:
        return time.monotonic() - self._begin

    def hide(self, secrets: Sequence[bytes]) -> None:
        """Show asterisks instead of these, wherever one stands on a line."""
        lines = (line.strip() for secret in secrets for line in secret.splitlines())
        self._hidden = [line for line in lines if len(line) >= _LEAST_SECRET_BYTES]

    def write(self, data: bytes) -> None:
        """Output of its program."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._show(line)

    def _show(self, line: bytes) -> None:
        for secret in self._hidden:
            line = line.replace(secret, b"***")
        # What a progress bar has overwritten is not shown.
        text = line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
        self._tail.append(text)
        self.announce()
        self._progress.line(self._number, f"{self._seconds():.3f} {text}")

    def say(self, text: str) -> None:
        """A line of our own."""
        self.announce()
        self._progress.line(self._number, text)

    def flush(self) -> None:
        """Show what has no line end yet."""
        if self._rest:
            rest, self._rest = self._rest, b""
            self._show(rest)

    def cached(self) -> None:
        """It was done before."""
        if not self._progress.brief:
            self.say("CACHED")

    def done(self) -> None:
        """It is done."""
        self.flush()
        if self._announced:
            self.say(f"DONE {self._seconds():.1f}s")

    def failed(self, why: str) -> None:
        """It failed."""
        self.flush()
        self.say(f"ERROR: {why}")
