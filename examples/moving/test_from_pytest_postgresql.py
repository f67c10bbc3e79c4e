"""What a suite on pytest-postgresql becomes: tests keep the fixture `postgresql`, a connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import pytest_containers as pc

psycopg = pytest.importorskip("psycopg", exc_type=ImportError)


def load(db: Any) -> None:
    """Make the tables, once; factories.postgresql_proc(load=[…])."""
    with psycopg.connect(db.dsn) as connection:
        connection.execute("create table account (id integer primary key, owner text)")


postgresql_proc = pc.services.Postgres.fixture(image="host:", seed=load)


@pytest.fixture
def postgresql(postgresql_proc: Any) -> Iterator[Any]:
    """Return a connection to a database of the test's own; factories.postgresql(…)."""
    with psycopg.connect(postgresql_proc.dsn) as connection:
        yield connection


def test_stores(postgresql: Any) -> None:
    postgresql.execute("insert into account values (1, 'first')")
    postgresql.commit()
    assert postgresql.execute("select owner from account").fetchall() == [("first",)]


def test_is_empty_again(postgresql: Any) -> None:
    assert postgresql.execute("select count(*) from account").fetchone() == (0,)
