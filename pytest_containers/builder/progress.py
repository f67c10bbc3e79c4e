"""A build on the terminal, as BuildKit's plain progress shows it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

from pytest_containers.model.build import BuildDisplay
from pytest_containers.model.harmless import MOST_LINE_CHARACTERS, harmless

_KEPT_LINES = 30
_LEAST_SECRET_BYTES = 4  # shorter ones are parts of other words


class Progress:
    """The steps of one build, numbered as they begin."""

    def __init__(self, display: BuildDisplay) -> None:
        self._display = display
        self.brief: bool = display.brief
        self._lock = threading.Lock()
        self._count = 0

    def step(self, title: str) -> Shown:
        """Begin a step."""
        with self._lock:
            self._count += 1
            shown = Shown(self, self._count, title)
        if not self.brief:
            shown.announce()
        return shown

    def warn(self, sentence: str) -> None:
        """Show a warning about the Dockerfile or its build arguments."""
        with self._lock:
            self._display.write(f"warning: {harmless(sentence)}\n")

    def line(self, number: int, content: str) -> None:
        """Show a line of a step."""
        with self._lock:
            self._display.write(f"#{number} {harmless(content)}\n")


class Shown:
    """A step on the display.

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
        """The last lines of its output."""
        return list(self._tail)

    def _seconds(self) -> float:
        return time.monotonic() - self._begin

    def hide(self, secrets: Sequence[bytes]) -> None:
        """Show asterisks instead of these, wherever one stands on a line."""
        lines = (line.strip() for secret in secrets for line in secret.splitlines())
        self._hidden = [line for line in lines if len(line) >= _LEAST_SECRET_BYTES]

    def write(self, data: bytes) -> None:
        """Show output of its program."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._show(line)
        if len(self._rest) > MOST_LINE_CHARACTERS:
            # It may never end. What may be the beginning of a secret waits for more.
            self._rest = self._without_secrets(self._rest)
            kept = max((len(secret) for secret in self._hidden), default=1) - 1
            end = len(self._rest) - kept
            line, self._rest = self._rest[:end], self._rest[end:]
            self._show(line)

    def _without_secrets(self, data: bytes) -> bytes:
        for secret in self._hidden:
            data = data.replace(secret, b"***")
        return data

    def _show(self, line: bytes) -> None:
        line = self._without_secrets(line)
        # What a progress bar has overwritten is not shown.
        visible = line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
        self._tail.append(visible)
        self.announce()
        self._progress.line(self._number, f"{self._seconds():.3f} {visible}")

    def say(self, line: str) -> None:
        """Show a line that is not its program's."""
        self.announce()
        self._progress.line(self._number, line)

    def flush(self) -> None:
        """Show what has no line end yet."""
        if self._rest:
            rest, self._rest = self._rest, b""
            self._show(rest)

    def cached(self) -> None:
        """Show that it was done before."""
        if not self._progress.brief:
            self.say("CACHED")

    def done(self) -> None:
        """Show that it is done."""
        self.flush()
        if self._announced:
            self.say(f"DONE {self._seconds():.1f}s")

    def failed(self, why: str) -> None:
        """Show that it failed."""
        self.flush()
        self.say(f"ERROR: {why}")
