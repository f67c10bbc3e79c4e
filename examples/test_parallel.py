"""Three ways to share a server, or not to, all of which work with ``-n auto`` of pytest-xdist."""

from __future__ import annotations

from typing import Any

import pytest

import pytest_containers as pc


def load(db: Any) -> None:
    """Make the table, once for all workers and all later runs."""
    db.sql("create table job (name text)")


# A server for each test, which starts in 50 ms: nothing is shared, nothing has to be named apart.
own = pc.services.Postgres.fixture(image="host:", seed=load)

# One server in all workers, and a database on it for each test.
database = pc.services.Postgres.fixture(image="host:", seed=load, isolation="database")

# One server for all tests in all workers: they must name what they write apart.
shared = pc.services.Redis.fixture(image="host:", isolation="none")


@pytest.mark.parametrize("number", range(2))
def test_own_server(own: Any, number: int) -> None:
    own.sql(f"insert into job values ('{number}')")
    assert own.sql("select count(*) from job") == [["1"]]


@pytest.mark.parametrize("number", range(2))
def test_own_database(database: Any, number: int) -> None:
    database.sql(f"insert into job values ('{number}')")
    assert database.sql("select count(*) from job") == [["1"]]


@pytest.mark.parametrize("number", range(2))
def test_shared_server(shared: Any, number: int) -> None:
    key = f"job:{number}"
    assert shared.command("INCR", key) == "1"
