"""Which layers live runs use: a file for each use, locked for as long as the run lives."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_containers.model.errors import hide_frames

if TYPE_CHECKING:
    from pytest_containers.images.image import Layer
    from pytest_containers.images.store.store import Store

__tracebackhide__ = hide_frames

_MANY = 16


class LayerHold:
    """A hold on layers that are used from now on.

    The lock belongs to `fd`: pass that to each process that uses the layers, and they stay until
    the last of its duplicates is closed. Nothing has to be tidied up.

    Attributes:
        fd: The descriptor.
    """

    def __init__(self, store: Store, layers: Sequence[Layer]) -> None:
        self.fd: int = -1
        if store.read_only:  # nobody removes anything
            self.fd = os.open(store.home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            return
        folder = store.home / "holds"
        folder.mkdir(mode=0o700, exist_ok=True)
        if len(os.listdir(folder)) >= _MANY:
            Holds(store).layers()  # removes those of ended runs: who never prunes collects them
        data = json.dumps([layer.path.parent.name for layer in layers]).encode()
        while not self._enter(folder / os.urandom(8).hex(), data):
            self.close()

    def _enter(self, path: Path, data: bytes) -> bool:
        """Make the file; False if somebody took it for that of an ended run meanwhile."""
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_SH)
            os.write(self.fd, data)
            return path.exists()
        except BaseException:
            self.close()
            path.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Close this descriptor of the hold; idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> LayerHold:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Holds:
    """The holds of live runs, read anew each time."""

    def __init__(self, store: Store) -> None:
        self._folder: Path = store.home / "holds"

    def layers(self) -> set[str]:
        """Return the directories' names of all layers in use; remove the holds of ended runs."""
        in_use: set[str] = set()
        with suppress(FileNotFoundError):
            for name in os.listdir(self._folder):
                in_use |= self._of(self._folder / name)
        return in_use

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
