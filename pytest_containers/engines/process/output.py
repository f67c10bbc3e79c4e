"""The output of a container: read from pipes as it comes, bounded."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from pytest_containers.engines.process.run import Run, read_part
from pytest_containers.model.errors import WaitTimeoutError
from pytest_containers.model.results import Logs

_MOST_LATE_PARTS = 64
_MOST_RECORDS = 100_000


class Output:
    """The log of a container. Thread-safe.

    Args:
        run: The run whose thread reads.
        limit_bytes: Older output is dropped beyond it.
    """

    def __init__(self, run: Run, limit_bytes: int) -> None:
        self._run = run
        self._limit_bytes = limit_bytes
        self._records: deque[tuple[float, int, bytes]] = deque()
        self._size_bytes = 0
        self._dropped = 0
        self._changed = threading.Condition()
        self._open: dict[int, int] = {}
        self._is_over = False

    def pipe(self, stream: int) -> int:
        """Return the writing end of a new pipe, whose output is of that stream."""
        reader, writer = os.pipe()
        self.read(reader, stream)
        return writer

    def read(self, fd: int, stream: int) -> None:
        """Read a descriptor until its end; it is owned from now on."""
        os.set_blocking(fd, False)
        self._open[fd] = stream

        def read() -> None:
            self._read(fd)

        self._run.listen(fd, read)

    def begin(self) -> None:
        """Begin again, for a program that is started anew."""
        self._is_over = False

    def _read(self, fd: int) -> bool:
        """Read a part; close the descriptor at its end. On the thread of the run."""
        with self._changed:
            part = self._take(fd)
            if part == b"":
                self._run.ignore(fd)
                self._open.pop(fd, None)
                os.close(fd)
        return bool(part)

    def _take(self, fd: int) -> bytes | None:
        """Return a part, which is noted; None if there is none yet, empty at the end."""
        part = read_part(fd)
        if part:
            self._records.append((time.time(), self._open[fd], part))
            self._size_bytes += len(part)
            while self._is_too_much():
                self._size_bytes -= len(self._records.popleft()[2])
                self._dropped += 1
            self._changed.notify_all()
        return part

    def _is_too_much(self) -> bool:
        count = len(self._records)
        return count > _MOST_RECORDS or (self._size_bytes > self._limit_bytes and count > 1)

    def finish(self) -> None:
        """Read what is left after the end of all programs; on the thread of the run."""
        for fd in list(self._open):
            for _ in range(_MOST_LATE_PARTS):
                if not self._read(fd):
                    break
            with self._changed:
                if fd in self._open:
                    self._run.ignore(fd)
                    del self._open[fd]
                    os.close(fd)
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def logs(self) -> Logs:
        """Return the output so far, with all that was written before this call."""
        with self._changed:
            for fd in list(self._open):
                for _ in range(_MOST_LATE_PARTS):
                    if not self._take(fd):
                        break
            return Logs(tuple(self._records))

    def follow(
        self, deadline: float | None, too_late: Callable[[], WaitTimeoutError]
    ) -> Iterator[tuple[float, int, bytes]]:
        """Iterate over the output until the end."""
        position = 0
        while True:
            with self._changed:
                while position >= self._dropped + len(self._records):
                    if self._is_over:
                        return
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        raise too_late()
                    self._changed.wait(left)
                position = max(position, self._dropped)
                part = list(self._records)[position - self._dropped :]
            position += len(part)
            yield from part
