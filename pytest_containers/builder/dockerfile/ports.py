"""The ports of an EXPOSE."""

from __future__ import annotations

import re

from pytest_containers.model.errors import BuildError

_PORT = re.compile(r"(?:[^/]*:)?(\d+)(?:-(\d+))?(?:/(\w+))?\Z")


def ports_of(word: str) -> list[str]:
    """Return the ports of a word as images name them: ``80/tcp``.

    Raises:
        BuildError: It is no port and no range of ports.
    """
    match = _PORT.match(word)
    if match is None:
        raise BuildError(f"{word!r} is not a port: expected 80, 80/udp or 8000-8005/tcp")
    first, last = int(match[1]), int(match[2] or match[1])
    protocol = (match[3] or "tcp").lower()
    if protocol not in ("tcp", "udp", "sctp") or not 0 < first <= last < 65536:
        raise BuildError(f"{word!r} is not a port: expected 80, 80/udp or 8000-8005/tcp")
    return [f"{number}/{protocol}" for number in range(first, last + 1)]
