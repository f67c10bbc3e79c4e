"""The output of a container, as records from the daemon."""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_containers.engines.docker.connection import Demultiplexer
from pytest_containers.model.errors import WaitTimeoutError, hide_frames

if TYPE_CHECKING:
    from pytest_containers.engines.docker.api import DockerApi

__tracebackhide__ = hide_frames

_MAX_LINE_BYTES = 1 << 20
Record = tuple[float, int, bytes]


def records(
    api: DockerApi,
    container_id: str,
    name: str,
    *,
    tty: bool,
    follow: bool,
    timeout_s: float | None = None,
) -> Iterator[Record]:
    """Iterate over ``(time, stream, data)`` from the start; with `follow`, until the end.

    Raises:
        WaitTimeoutError: `timeout_s` seconds passed.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    query = f"stdout=1&stderr=1&timestamps=1&follow={int(follow)}"
    exchange = api.exchange(
        f"output of container {name!r}", "GET", f"/containers/{container_id}/logs?{query}"
    )
    raw = tty and "multiplexed" not in exchange.reply.headers.get("content-type", "")
    with exchange:
        frames, parts, text, is_cut = Demultiplexer(), exchange.parts(), b"", False
        while True:
            if deadline is not None:
                exchange.sock.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                part = next(parts, b"")
            except TimeoutError:
                raise timed_out("follow the output of", name, timeout_s) from None
            except OSError as error:
                raise api.gone(error) from error
            if not part:
                if text:
                    yield (time.time(), 1, text) if is_cut else _stamped(1, text)
                return
            if not raw:
                for stream, data in frames.feed(part):
                    yield _stamped(stream, data)
                continue
            *lines, text = (text + part).split(b"\n")
            for line in lines:
                yield (time.time(), 1, line + b"\n") if is_cut else _stamped(1, line + b"\n")
                is_cut = False
            if len(text) > _MAX_LINE_BYTES:  # a terminal may get a line without end
                yield (time.time(), 1, text) if is_cut else _stamped(1, text)
                is_cut, text = True, b""


def _stamped(stream: int, data: bytes) -> Record:
    """Take the time off the beginning of a line."""
    stamp, _, line = data.partition(b" ")
    return _seconds(stamp), stream, line


def _seconds(stamp: bytes) -> float:
    """Return the time of RFC 3339 with nanoseconds: ``2026-01-02T03:04:05.678901234Z``."""
    try:
        whole, _, rest = stamp.decode().rstrip("Z").partition(".")
        return calendar.timegm(time.strptime(whole[:19], "%Y-%m-%dT%H:%M:%S")) + float(
            f"0.{rest[:9]}" if rest[:9].isdecimal() else 0
        )
    except ValueError:
        return time.time()


def timed_out(doing: str, name: str, timeout_s: float | None) -> WaitTimeoutError:
    """Return the error for a container that did not end in time."""
    return WaitTimeoutError(
        f"{doing} container {name!r}: it did not end within {timeout_s} s", timeout_s=timeout_s
    )
