"""Names of images in the store: what each stands for."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pytest_containers.errors import ImageNotFoundError, hide_frames
from pytest_containers.images.reference import Reference, parse_reference
from pytest_containers.images.store import Store, storing

__tracebackhide__ = hide_frames


@dataclass(frozen=True, slots=True)
class Record:
    """What a name stands for.

    Attributes:
        name: Completed: ``docker.io/library/redis:7``.
        config: Digest of the image's config: the image's id.
        digest: Of its manifest; empty where its source had none.
        resolved: What the tag stood for at the registry: of an index, or of the manifest.
        origin: The registry and repository it came from, where its layers may be had again.
        recorded_at: Seconds since the epoch.
        used_at: The same, of the last use.
    """

    name: str
    config: str
    digest: str = ""
    resolved: str = ""
    origin: str = ""
    recorded_at: float = 0.0
    used_at: float = 0.0

    @property
    def reference(self) -> Reference:
        """The name, taken apart."""
        return parse_reference(self.name)


_FIELDS = frozenset(Record.__dataclass_fields__)


class Names:
    """The names of a store. Each is a small file that is replaced as a whole."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, reference: Reference) -> Record | None:
        """What is known of a name, or None."""
        return self._read(self._path(reference))

    def set(
        self,
        reference: Reference,
        *,
        config: str,
        digest: str,
        resolved: str = "",
        origin: str = "",
    ) -> Record:
        """Let a name stand for an image, whatever it stood for before."""
        now = time.time()
        record = Record(str(reference), config, digest, resolved or digest, origin, now, now)
        kept = asdict(record)
        del kept["used_at"]
        with storing(reference.familiar, self._store.home):
            self._store.write_atomically(self._path(reference), json.dumps(kept).encode())
        return record

    def used(self, reference: Reference) -> None:
        """It is used now."""
        with suppress(OSError):
            os.utime(self._path(reference))

    def remove(self, reference: Reference) -> None:
        """Forget it.

        Raises:
            ImageNotFoundError: There is no such name.
        """
        try:
            self._path(reference).unlink()
        except FileNotFoundError:
            raise ImageNotFoundError(
                f"image {reference.familiar!r} is not in the store", reference=reference.familiar
            ) from None

    def all(self) -> list[Record]:
        """Every name, in order."""
        return sorted(self._records(), key=lambda record: record.reference.familiar)

    def _records(self) -> Iterator[Record]:
        for path in (self._store.home / "images").glob("*.json"):
            record = self._read(path)
            if record is not None:
                yield record

    def _read(self, path: Path) -> Record | None:
        found = self._store.read_json(path)
        if found is None or not isinstance(found.get("name"), str) or "config" not in found:
            return None
        with suppress(FileNotFoundError):
            known = {key: value for key, value in found.items() if key in _FIELDS}
            return Record(**{**known, "used_at": path.stat().st_mtime})
        return None

    def _path(self, reference: Reference) -> Path:
        digest = hashlib.sha256(str(reference).encode()).hexdigest()
        return self._store.home / "images" / f"{digest}.json"
