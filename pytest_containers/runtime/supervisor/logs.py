"""What a container writes: spliced from its pipes into a bounded file, with an index."""

from __future__ import annotations

import errno
import os
import struct
import time
from collections import deque

from pytest_containers.linux.files import punch_hole, splice
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.tasks import Future

_RECORD = struct.Struct("<dBQI")
_CHUNK_BYTES = 1 << 16
_MAX_RECORDS = 100_000
_MAX_PIPE_BYTES = 1 << 20  # fs.pipe-max-size: what a container can make of its pipe
# A program that never stops to write must not keep the supervisor from all others, nor take a
# processor for what is thrown away. It waits at its pipe, as with any slow reader.
_BURST_BYTES, _BYTES_PER_S, _PAUSE_S = 16 << 20, 64 << 20, 0.01
_SPLICE_NONBLOCK = 2


class Log:
    """The output of one container. Owns the read ends of its pipes and a memory file.

    Each read of a pipe is a record ``(time, stream, length)``, so the order between the streams
    is that of arrival. The oldest records go when there is more than `limit_bytes`. After the
    first 16 MB it reads 64 MB in a second.

    Args:
        loop: Runs it.
        limit_bytes: How much is kept.
    """

    def __init__(self, loop: Loop, limit_bytes: int) -> None:
        self._loop = loop
        self._limit = max(limit_bytes, 1)
        self._fd = os.memfd_create("log", os.MFD_CLOEXEC)
        self._records: deque[tuple[float, int, int, int]] = deque()  # time, stream, start, length
        self._end = 0
        self._start = 0
        self._punched = 0
        self._sources: dict[int, tuple[int, bool]] = {}
        self._change: Future[None] | None = None
        self._credit = float(_BURST_BYTES)
        self._credited_at = time.monotonic()
        self._paused = False

    @property
    def end(self) -> int:
        """How many bytes were ever written."""
        return self._end

    @property
    def open(self) -> bool:
        """True while a program could still write."""
        return bool(self._sources)

    def add(self, fd: int, stream: int, *, terminal: bool = False) -> None:
        """Take over the read end of a pipe (or a terminal) as stream 1 or 2."""
        os.set_blocking(fd, False)
        self._sources[fd] = stream, terminal
        if not self._paused:
            self._listen(fd)

    def _listen(self, fd: int) -> None:
        self._loop.add_reader(fd, lambda: self._read(fd))

    def next_change(self) -> Future[None]:
        """Return what is done at the next change; the end of the container counts as one."""
        if self._change is None:
            self._change = Future()
        return self._change

    def _read(self, fd: int) -> None:
        stream, terminal = self._sources[fd]
        try:
            # The file's own offset is its end: everything is appended. Terminals cannot splice.
            if terminal:
                count = os.write(self._fd, os.read(fd, _CHUNK_BYTES))
            else:
                count = splice(fd, self._fd, _CHUNK_BYTES, _SPLICE_NONBLOCK)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:  # the last holder of a terminal is gone
                raise
            count = 0
        if count:
            self._note(stream, count)
            self._spend(count)
        else:
            self._drop(fd)
        self.notify()

    def _spend(self, count: int) -> None:
        """Pause reading once more was read than may be."""
        self._credit -= count
        if self._credit > 0 or self._paused:
            return
        now = time.monotonic()
        self._credit += (now - self._credited_at) * _BYTES_PER_S
        self._credit = min(self._credit, _BURST_BYTES)
        self._credited_at = now
        if self._credit <= 0:
            self._paused = True
            for fd in self._sources:
                self._loop.remove_reader(fd)
            self._loop.call_later(_PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._paused = False
        for fd in self._sources:
            self._listen(fd)

    def _note(self, stream: int, count: int) -> None:
        self._records.append((time.time(), stream, self._end, count))
        self._end += count
        while self._end - self._start > self._limit or len(self._records) > _MAX_RECORDS:
            _, _, start, length = self._records.popleft()
            self._start = start + length
        if self._start - self._punched >= _CHUNK_BYTES * 4:
            punch_hole(self._fd, self._punched, self._start - self._punched)
            self._punched = self._start

    def append(self, data: bytes, stream: int) -> None:
        """Add a record of our own."""
        self._note(stream, os.write(self._fd, data))
        self.notify()

    def _drop(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        os.close(fd)
        del self._sources[fd]

    def notify(self) -> None:
        """Run on what waits for a change."""
        change, self._change = self._change, None
        if change is not None:
            change.set(None)

    def drain(self) -> None:
        """Read what the pipes hold at this moment, without waiting."""
        for fd in list(self._sources):
            limit = self._end + _MAX_PIPE_BYTES  # what the program has started may go on to write
            while fd in self._sources and self._end < limit:
                end = self._end
                self._read(fd)
                if self._end == end:
                    break

    def since(self, position: int) -> tuple[int, bytes]:
        """Return records and data from byte `position` on, for the wire.

        Returns:
            The position to ask for next, and per record: time (float64), stream (8 bits),
            position (64 bits), length (32 bits), then as many bytes of data. At most some MB.
        """
        records = []
        for record in reversed(self._records):
            if record[2] + record[3] <= position:
                break
            records.append(record)
        parts, size = [], 0
        for when, stream, start, length in reversed(records):
            data = os.pread(self._fd, length, start)
            parts.append(_RECORD.pack(when, stream, start, length) + data)
            position = start + length
            size += length
            if size > 1 << 20:
                break
        return position, b"".join(parts)

    def close(self) -> None:
        """Drop everything; what waits for a change goes on."""
        for fd in list(self._sources):
            self._drop(fd)
        os.close(self._fd)
        self._records.clear()
        self.notify()
