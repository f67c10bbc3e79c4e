"""The output of a container for the report: its newest lines, bounded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

OUTPUT_BYTES = 64 << 10
OUTPUT_LINES = 1000
_TERMINAL_CODE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")


def output_of(records: Sequence[tuple[float, int, bytes]]) -> dict[str, Any]:
    """Return the newest output of a container, as simple values.

    Args:
        records: ``(time, stream, data)`` in order of arrival, as in `Logs.records`.

    Returns:
        ``lines``: ``[time, stream, text]`` of each line; ``cut``: True if older output is left out.
    """
    left_out = sum(len(data) for _, _, data in records) - OUTPUT_BYTES
    cut = left_out > 0
    begun: dict[int, tuple[float, bytearray]] = {}
    lines: list[tuple[float, int, bytes]] = []
    for time, stream, data in records:
        if left_out > 0:
            data, left_out = data[left_out:], left_out - len(data)
            if not data:
                continue
        *whole, rest = data.split(b"\n")
        for part in whole:
            since, line = begun.pop(stream, (time, bytearray()))
            lines.append((since, stream, bytes(line + part)))
        if rest:
            begun.setdefault(stream, (time, bytearray()))[1].extend(rest)
    lines += [(since, stream, bytes(line)) for stream, (since, line) in begun.items()]
    lines.sort(key=lambda line: line[0])
    return {
        "lines": [[time, stream, _plain(line)] for time, stream, line in lines[-OUTPUT_LINES:]],
        "cut": cut or len(lines) > OUTPUT_LINES,
    }


def _plain(line: bytes) -> str:
    """Return a line as text without the colours and movements of a terminal."""
    return _TERMINAL_CODE.sub("", line.decode(errors="replace")).rstrip("\r")


def size_of(output: dict[str, Any] | None) -> int:
    """Return about how many characters an output takes in the page."""
    return 0 if output is None else sum(len(text) + 24 for _, _, text in output["lines"])
