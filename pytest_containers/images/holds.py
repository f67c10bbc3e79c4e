"""Which layers live runs use: a file for each use, locked for as long as the run lives."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pytest_containers.errors import hide_frames
from pytest_containers.images.image import Layer
from pytest_containers.images.store import Store

__tracebackhide__ = hide_frames


class Hold:
    """Layers that are used from now on.

    The lock belongs to `fd`: hand that to whatever process uses them, and nobody removes the layers
    until the last of its duplicates is closed. Nothing has to be tidied up.

    Attributes:
        fd: The descriptor.
    """

    def __init__(self, store: Store, layers: Sequence[Layer]) -> None:
        folder = store.home / "holds"
        folder.mkdir(mode=0o700, exist_ok=True)
        while True:
            path = folder / os.urandom(8).hex()
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self.fd: int = os.open(path, flags, 0o600)
            fcntl.flock(self.fd, fcntl.LOCK_SH)
            os.write(self.fd, json.dumps([layer.path.parent.name for layer in layers]).encode())
            if path.exists():  # else somebody took it for a dead one between the lines above
                return
            os.close(self.fd)

    def close(self) -> None:
        """Give up this descriptor of it; idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Holds:
    """What live runs hold, looked at anew each time."""

    def __init__(self, store: Store) -> None:
        self._folder: Path = store.home / "holds"

    def layers(self) -> set[str]:
        """The directories' names of all layers in use; what the dead have left is removed."""
        found: set[str] = set()
        with suppress(FileNotFoundError):
            for name in os.listdir(self._folder):
                found |= self._of(self._folder / name)
        return found

    def _of(self, path: Path) -> set[str]:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return set()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with suppress(ValueError):
                return set(json.loads(os.pread(fd, 1 << 20, 0)))
            return set()
        else:
            path.unlink(missing_ok=True)
            return set()
        finally:
            os.close(fd)
