"""JSON records of a store: small files that are replaced as a whole.

A record's modification time is when it was last used. A record that cannot be parsed was left by a
crash of the machine (there is no fsync per file) and counts as absent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple


class JsonRecord(NamedTuple):
    """A record as it was read.

    Attributes:
        path: Its file.
        fields: Its content.
        used_at: Seconds since the epoch of its last use.
    """

    path: Path
    fields: dict[str, Any]
    used_at: float


def read(path: Path, *required: str) -> JsonRecord | None:
    """Read the record at `path`.

    Args:
        path: Its file.
        required: Names of fields that must be there and be text.

    Returns:
        None if there is no such record, or it is not whole.
    """
    try:
        with path.open("rb") as file:
            fields = json.load(file)
            used_at = os.fstat(file.fileno()).st_mtime
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    if not isinstance(fields, dict):
        return None
    if not all(isinstance(fields.get(name), str) for name in required):
        return None
    return JsonRecord(path, fields, used_at)


def read_all(folder: Path, *required: str) -> Iterator[JsonRecord]:
    """Read the records of a folder, which need not exist, in no order."""
    for path in folder.glob("*.json"):
        record = read(path, *required)
        if record is not None:
            yield record


def encode(fields: Mapping[str, Any]) -> bytes:
    """Return the content of a record's file."""
    return json.dumps(fields, separators=(",", ":")).encode()


def touch(path: Path) -> None:
    """Note that the record is used now; without effect where the store cannot be written."""
    with suppress(OSError):
        os.utime(path)
