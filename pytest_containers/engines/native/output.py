"""What a container has written: the records that its supervisor keeps."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

from pytest_containers.errors import WaitTimeoutError, hide_frames
from pytest_containers.runtime.client import Client

__tracebackhide__ = hide_frames

_RECORD = struct.Struct("<dBQI")


def records(
    client: Client, container_id: str, name: str, *, wait: bool, timeout_s: float | None = None,
    deadline: float | None = None,
) -> Iterator[tuple[float, int, bytes]]:  # fmt: skip
    """``(time, stream, data)`` from the start; with `wait` also as they come, until its end.

    Raises:
        WaitTimeoutError: `deadline` (monotonic) passed, after `timeout_s`.
    """
    position, more = 0, True
    while more:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise timed_out("follow the output of", name, timeout_s)
        try:
            frame = client.call(
                "logs", container=container_id, position=position, wait=wait, within_s=left
            )
        except WaitTimeoutError:
            raise timed_out("follow the output of", name, timeout_s) from None
        position, more = frame.body["ok"]
        yield from parse(frame.blob)
        if not wait and not frame.blob:
            return


def timed_out(doing: str, name: str, timeout_s: float | None) -> WaitTimeoutError:
    """It did not end in time."""
    return WaitTimeoutError(
        f"{doing} container {name!r}: it did not end within {timeout_s} s", timeout_s=timeout_s
    )


def parse(blob: bytes) -> Iterator[tuple[float, int, bytes]]:
    """Records as they come over the channel."""
    at = 0
    while at < len(blob):
        when, stream, _, length = _RECORD.unpack_from(blob, at)
        at += _RECORD.size
        yield when, stream, blob[at : at + length]
        at += length
