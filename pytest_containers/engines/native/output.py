"""The output of a container, as records from the supervisor."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_containers.model.errors import WaitTimeoutError, hide_frames
from pytest_containers.runtime.wire.operations.containers import ReadLogs

if TYPE_CHECKING:
    from pytest_containers.runtime.wire.client import Client

__tracebackhide__ = hide_frames

_RECORD = struct.Struct("<dBQI")


def records(
    client: Client,
    container_id: str,
    name: str,
    *,
    wait: bool,
    timeout_s: float | None = None,
    deadline: float | None = None,
) -> Iterator[tuple[float, int, bytes]]:
    """Iterate over ``(time, stream, data)`` from the start; with `wait`, until the end.

    Raises:
        WaitTimeoutError: `deadline` (monotonic) passed, after `timeout_s`.
    """
    position, is_open = 0, True
    while is_open:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise timed_out("follow the output of", name, timeout_s)
        try:
            part = client.call(
                ReadLogs(container=container_id, position=position, wait=wait), within_s=left
            )
        except WaitTimeoutError:
            raise timed_out("follow the output of", name, timeout_s) from None
        position, is_open = part.position, part.more
        yield from parse(part.records)
        if not wait and not part.records:
            return


def timed_out(doing: str, name: str, timeout_s: float | None) -> WaitTimeoutError:
    """Return the error for a container that did not end in time."""
    return WaitTimeoutError(
        f"{doing} container {name!r}: it did not end within {timeout_s} s", timeout_s=timeout_s
    )


def parse(blob: bytes) -> Iterator[tuple[float, int, bytes]]:
    """Parse records in the encoding of the wire."""
    offset = 0
    while offset < len(blob):
        time_s, stream, _, length = _RECORD.unpack_from(blob, offset)
        offset += _RECORD.size
        yield time_s, stream, blob[offset : offset + length]
        offset += length
