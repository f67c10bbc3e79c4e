"""A Redis server that is up before the modules of the suite are imported."""

from __future__ import annotations

import pytest_containers as pc

cache = pc.session_service("redis", image="host:", endpoint="EARLY_REDIS_URL")
