"""Digests of files that were read before, known again by what the kernel says of them."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_containers.images.store import records
from pytest_containers.images.store.store import Store
from pytest_containers.model.errors import ImageError

Identity = tuple[int, int, int, int, int]
_SETTLED_NS = 2 * 10**9
"""A file whose change is younger may change again without a trace in its times."""


class FileDigests:
    """Digests of one directory's files, kept in the store between builds.

    A digest is believed while device, inode, size and both times are the same: nothing but the
    clock of the machine being set back can change contents without them.

    Args:
        store: Keeps them; None keeps nothing.
        root: The directory.
    """

    def __init__(self, store: Store | None, root: Path) -> None:
        self._store = store
        name = hashlib.sha256(str(root).encode(errors="surrogateescape")).hexdigest()
        self._path = None if store is None else store.home / "contexts" / f"{name}.json"
        self._known: dict[str, Any] | None = None
        self._changed = False

    def _load(self) -> dict[str, Any]:
        if self._known is None:
            record = None if self._path is None else records.read(self._path)
            self._known = {} if record is None else record.fields
        return self._known

    def get(self, path: str, identity: Identity) -> str | None:
        """Return the digest of the file at `path`; None if it is not recorded."""
        cached = self._load().get(path)
        if cached is None or tuple(cached[0]) != identity:
            return None
        return str(cached[1])

    def set(self, path: str, identity: Identity, digest: str) -> None:
        """Record the digest of a file that was read now."""
        if time.time_ns() - max(identity[3], identity[4]) > _SETTLED_NS:
            self._load()[path] = [identity, digest]
            self._changed = True

    def save(self) -> None:
        """Keep what was learned; what cannot be kept is read again next time."""
        if self._changed and self._store is not None and self._path is not None:
            with suppress(ImageError):
                self._store.write_record(self._path, self._load(), "digests of a context")
            self._changed = False
