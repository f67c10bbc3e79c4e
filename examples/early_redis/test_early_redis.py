"""A suite that looks for its server while it is collected, as many do."""

from __future__ import annotations

import os
from typing import Any

import pytest

redis = pytest.importorskip("redis")


def server_is_up() -> bool:
    """Return True if the server answers."""
    try:
        return bool(redis.Redis.from_url(os.environ["EARLY_REDIS_URL"]).ping())
    except redis.ConnectionError:
        return False


@pytest.mark.skipif(not server_is_up(), reason="needs a Redis server")
def test_answers() -> None:
    client = redis.Redis.from_url(os.environ["EARLY_REDIS_URL"])
    client.set("greeting", "hello")
    assert client.get("greeting") == b"hello"
    client.close()


def test_has_a_fixture(cache: Any) -> None:
    assert cache.command("PING") == "PONG"
