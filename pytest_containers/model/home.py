"""The directory of the image store, and of what else is kept for a user between runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

HOME_VARIABLE = "PYTEST_CONTAINERS_HOME"


def default_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return ``$PYTEST_CONTAINERS_HOME``, else a path below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if chosen := environ.get(HOME_VARIABLE):
        return Path(chosen).absolute()
    base = environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path there is invalid and to be ignored.
    cache = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return cache / "pytest-containers"
