"""Names of images in the store: what each stands for."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytest_containers.images.reference import Reference, parse_reference
from pytest_containers.images.store import records
from pytest_containers.model.errors import ImageNotFoundError, hide_frames

if TYPE_CHECKING:
    from pytest_containers.images.store.store import Store

__tracebackhide__ = hide_frames


class Record(NamedTuple):
    """The record of a name: the image that it stands for.

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


_FIELDS = frozenset(Record._fields)
_REQUIRED = ("name", "config")


class Names:
    """The names of a store. Each is a small file that is replaced as a whole."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, reference: Reference) -> Record | None:
        """Return the record of a name, or None."""
        record = records.read(self._path(reference), *_REQUIRED)
        return None if record is None else _record_of(record)

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
        kept = record._asdict()
        del kept["used_at"]
        self._store.write_record(self._path(reference), kept, reference.familiar)
        return record

    def used(self, reference: Reference) -> None:
        """Note that a name is used now."""
        records.touch(self._path(reference))

    def remove(self, reference: Reference) -> None:
        """Forget a name.

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
        """Return the records of all names, in order."""
        return sorted(self._records(), key=lambda record: record.reference.familiar)

    def _records(self) -> Iterator[Record]:
        for record in records.read_all(self._store.home / "images", *_REQUIRED):
            yield _record_of(record)

    def _path(self, reference: Reference) -> Path:
        digest = hashlib.sha256(str(reference).encode()).hexdigest()
        return self._store.home / "images" / f"{digest}.json"


def _record_of(record: records.JsonRecord) -> Record:
    fields = {key: value for key, value in record.fields.items() if key in _FIELDS}
    return Record(**{**fields, "used_at": record.used_at})
