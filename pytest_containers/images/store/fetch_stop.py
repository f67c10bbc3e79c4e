"""An order to give up the fetch of layers, which may wait for a registry, a lock or a job."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_LOOK_S = 0.1


class Stopped(Exception):
    """The end of a fetch that was given up."""


class FetchStop:
    """An order to end a fetch, such as by Ctrl-C. Thread-safe.

    The thread that waits for the layers gives it, once. Code that may wait for long waits by the
    methods of this class.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._writers: set[int] = set()

    def is_set(self) -> bool:
        """Return True if the order was given."""
        return self._event.is_set()

    def set(self) -> None:
        """Give the order."""
        self._event.set()
        with self._lock:
            for writer in self._writers:
                _tell(writer)

    @contextmanager
    def pipe(self) -> Iterator[int]:
        """Provide the end of a pipe for a job, which is readable once the job should end.

        That is also so when the body ends, which for a job that still runs means an exception.

        Raises:
            Stopped: The order was given before.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        with self._lock:
            self._writers.add(writer)
        try:
            if self.is_set():
                raise Stopped
            yield reader
        finally:
            with self._lock:
                self._writers.discard(writer)
                _tell(writer)
                os.close(writer)
            os.close(reader)

    @contextmanager
    def holding(self, lock: Any, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold a lock of the store.

        Args:
            lock: A `Store.lock`.
            waiting: Called now and then while another process holds it.

        Raises:
            Stopped: The order was given while another process held it.
        """
        from filelock import Timeout

        while True:
            try:
                held = lock.acquire(timeout=_LOOK_S)
                break
            except Timeout:
                if self.is_set():
                    raise Stopped from None
                waiting()
        with held:
            yield


def _tell(writer: int) -> None:
    # A byte, since a forked child may keep the pipe open. Its reader may be gone.
    try:
        os.write(writer, b"x")
    except (BlockingIOError, BrokenPipeError):
        return
