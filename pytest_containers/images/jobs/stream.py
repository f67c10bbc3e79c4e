"""The stream of an archive: read from a part of a file or a pipe, hashed, decompressed ahead."""

from __future__ import annotations

import hashlib
import os
import queue
import select
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress

from pytest_containers.model.threads import starting_threads

CHUNK_BYTES = 1 << 17
_PIECES_AHEAD = 6
_ARRIVED = struct.Struct("<Q")


class StreamPart:
    """A part of a file, or the data of a pipe; hashed as it is read if asked for.

    Args:
        fd: The file.
        size: -1 for a pipe.
        arrivals: Tells how much of a file that is being written is there.
        stopped: A pipe that is readable once the work is given up.
    """

    def __init__(
        self, fd: int, offset: int, size: int, arrivals: int = -1, *, stopped: int, hashed: bool
    ) -> None:
        self._fd = fd
        self._at = offset
        self._left = size
        self._piped = size < 0
        self._arrivals = arrivals
        self._stopped = stopped
        self._arrived = 0 if arrivals >= 0 else size
        self._hash = hashlib.sha256() if hashed else None

    def read(self, size: int) -> bytes:
        """Return some bytes, at most `size`; none at the end.

        Raises:
            EOFError: The file is too short, or the work was given up.
        """
        self._raise_if_stopped(self._fd if self._piped else -1)
        if self._piped:
            data = os.read(self._fd, size)
        elif not self._left:
            return b""
        else:
            if not self._arrived:
                self._wait()
            data = os.pread(self._fd, min(size, self._left, self._arrived), self._at)
            if not data:
                raise EOFError("the file ends too early")
            self._at += len(data)
            self._left -= len(data)
            self._arrived -= len(data)
        if self._hash is not None:
            self._hash.update(data)
        return data

    def _wait(self) -> None:
        """Wait for more data; the numbers in the pipe are positions in the file."""
        self._raise_if_stopped(self._arrivals)
        messages = os.read(self._arrivals, 1 << 12)
        if not messages:
            raise EOFError("it did not arrive whole")
        while len(messages) % _ARRIVED.size:
            messages += os.read(self._arrivals, 1)
        (there,) = _ARRIVED.unpack(messages[-_ARRIVED.size :])
        self._arrived = there - self._at
        if not self._arrived:
            self._wait()

    def _raise_if_stopped(self, pipe: int = -1) -> None:
        """Raise an error if the work was given up; wait until `pipe` is readable, if given."""
        poll = select.poll()
        poll.register(self._stopped, select.POLLIN)
        if pipe >= 0:
            poll.register(pipe, select.POLLIN)
        if self._stopped in dict(poll.poll(None if pipe >= 0 else 0)):
            raise EOFError("it was given up")

    def drain(self) -> None:
        """Read to the end."""
        while self.read(CHUNK_BYTES):
            pass

    def digest(self) -> str | None:
        """Return the digest of the data that was read."""
        return None if self._hash is None else f"sha256:{self._hash.hexdigest()}"


class Ahead:
    """Pieces of a stream, made and hashed by a thread that is some pieces ahead."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._hash = hashlib.sha256()
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_PIECES_AHEAD)
        self._closed = False
        self._thread = threading.Thread(target=self._fill, daemon=True)
        with starting_threads():
            self._thread.start()

    def _fill(self) -> None:
        last: bytes | BaseException = b""
        try:
            for piece in self._pieces:
                self._hash.update(piece)
                if not self._put(piece):
                    return
        except BaseException as error:  # noqa: BLE001 - raised where the pieces are taken
            last = error
        self._put(last)

    def _put(self, item: bytes | BaseException) -> bool:
        while not self._closed:
            with suppress(queue.Full):
                self._queue.put(item, timeout=0.1)
                return True
        return False

    def __iter__(self) -> Iterator[bytes]:
        while True:
            item = self._queue.get()
            if isinstance(item, BaseException):
                raise item
            if not item:
                return
            yield item

    def digest(self) -> str:
        """Return the digest of all pieces, once they were taken."""
        return f"sha256:{self._hash.hexdigest()}"

    def close(self) -> None:
        """Give up the pieces that were not taken."""
        self._closed = True
