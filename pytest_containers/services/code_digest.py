"""The digest of the code of a service, which is part of the keys of its states."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

_codes: dict[str, str] = {}


def code_digest(kind: type) -> str:
    """Return a digest of the source files of a service and its base classes."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name not in _codes:
        _codes[name] = _digest_of(kind)
    return _codes[name]


def _digest_of(kind: type) -> str:
    hasher = hashlib.sha256(kind.__qualname__.encode())
    for base in kind.__mro__[:-1]:
        path = getattr(sys.modules.get(base.__module__), "__file__", None)
        if path is not None:
            hasher.update(Path(path).read_bytes())
    return hasher.hexdigest()
