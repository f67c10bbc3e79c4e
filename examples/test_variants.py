"""One fixture with several servers, and a fixture with what is made from it: a client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import pytest_containers as pc

redis = pytest.importorskip("redis")

# A list of images, such as ["redis:6", "redis:7", "host:"], works as well.
cache = pc.services.Redis.fixture(
    image="host:", params=[{}, {"password": "secret"}], ids=["open", "with a password"]
)


@pytest.fixture
def client(cache: Any) -> Iterator[Any]:
    """Return a client of the test's own server, and close it before the server ends."""
    with redis.Redis.from_url(cache.url()) as client:
        yield client


def test_counts(client: Any) -> None:
    assert [client.incr("hits"), client.incr("hits")] == [1, 2]


@pytest.mark.parametrize("cache", [{"database": 3}], indirect=True, ids=["database 3"])
def test_with_a_server_of_its_own_choice(client: Any) -> None:
    assert client.client_info()["db"] == 3
