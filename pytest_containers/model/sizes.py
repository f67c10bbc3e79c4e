"""Sizes in human-readable form, as Docker reads and prints them."""

from __future__ import annotations

import re

_UNITS = "kmgtp"
_SHOWN_UNITS = ("B", "kB", "MB", "GB", "TB")
_SIZE = r"([0-9]{1,25}(?:\.[0-9]{1,25})?) ?(?:([kmgtp])i?)?b?"
_MAX_BYTES = (1 << 63) - 1
"""Sizes go to the kernel as ``loff_t``."""


def parse_size(size: int | str) -> int:
    """Return a size in bytes.

    Units are powers of 1024 in any case: ``"64m"``, ``"64MB"`` and ``"64MiB"`` are equal, as for
    Docker's ``--memory`` and ``--shm-size``. A number without a unit is a number of bytes.

    Args:
        size: ``"64m"``, ``"1.5g"``, ``"1 GiB"``, ``"4096"``, or a number of bytes.

    Raises:
        ValueError: It is not a size; the message names the expected format.
    """
    if type(size) is int and 0 <= size <= _MAX_BYTES:
        return size
    if isinstance(size, int) and not isinstance(size, bool):
        size = str(size)
    match = re.fullmatch(_SIZE, size, re.IGNORECASE | re.ASCII) if isinstance(size, str) else None
    if match is None:
        raise ValueError(
            f"{size!r:.200} is not a size; expected a number of bytes such as 64m or 1GiB"
        )
    number, unit = match.groups()
    scale = 1 << 10 * (1 + _UNITS.index(unit.lower())) if unit else 1
    # No float: it would round a large number of bytes.
    whole, _, fraction = number.partition(".")
    size_bytes: int = int(whole) * scale + int(fraction or "0") * scale // 10 ** len(fraction)
    if size_bytes > _MAX_BYTES:
        raise ValueError(f"{size!r:.200} is too large; the largest size is 2^63 - 1 bytes")
    return size_bytes


def format_size(size_bytes: float) -> str:
    """Return a size in a human-readable form, with powers of 1000: ``169.2 MB``."""
    for unit in _SHOWN_UNITS:
        if abs(size_bytes) < 1000 or unit == _SHOWN_UNITS[-1]:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    raise AssertionError("the last unit has no upper limit")
