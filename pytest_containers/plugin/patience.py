"""Lines on the terminal while a container or a seed takes long: what the test run waits for."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_FIRST_S, _FACTOR = 2.0, 3.0
"""The time of the first line about a wait, and the factor from one line to the next."""
_PAUSE_S = 0.5


class _Wait:
    """A wait that goes on.

    Attributes:
        due_s: The time of its next line, in seconds after its begin.
    """

    def __init__(self, describe: Callable[[], str]) -> None:
        self.began = time.monotonic()
        self.due_s: float = _FIRST_S
        self.describe = describe


class Patience:
    """Tells of waits that take long: after 2 s, 6 s, 18 s and so on.

    A thread looks at the waits twice a second. It is started with the first wait, so that a wait
    itself costs microseconds.

    Args:
        fd: The terminal; owned from now on.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._waits: dict[_Wait, None] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def watch(self, describe: Callable[[], str]) -> Iterator[None]:
        """Tell of the body if it takes long.

        Args:
            describe: Returns what it waits for; called in another thread.
        """
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._look, name="pytest-containers patience", daemon=True
            )
            self._thread.start()
        wait = _Wait(describe)
        self._waits[wait] = None
        try:
            yield
        finally:
            self._waits.pop(wait, None)

    def write(self, lines: str) -> None:
        """Show whole lines below what pytest is writing."""
        # Other threads write too; the number must not become another file's meanwhile.
        with self._lock, suppress(OSError):  # the terminal is gone
            if self._fd >= 0:
                os.write(self._fd, lines.encode())

    def close(self) -> None:
        """End the thread, in the process that started it."""
        if self._pid != os.getpid():
            return
        with self._lock:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)

    def _look(self) -> None:
        while self._fd >= 0:
            time.sleep(_PAUSE_S)
            now = time.monotonic()
            for wait in list(self._waits):
                seconds = now - wait.began
                if seconds >= wait.due_s and wait in self._waits:
                    wait.due_s *= _FACTOR
                    self.write(f"\ncontainers: after {seconds:.0f} s: {wait.describe()}\n")
