"""A PostgreSQL server for every test, from an image: a Debian made by mmdebstrap.

The image and the fixture of the server, ``database``, are in ``conftest.py``. The image is unpacked
once; each test has its own writable layer on top of it, so that both tests can create the same
table and write the same key.
"""

from __future__ import annotations

import pytest

import pytest_containers as pc

psycopg = pytest.importorskip("psycopg", exc_type=ImportError)


def dsn(server: pc.Container) -> str:
    host, port = server.address(5432)
    return f"host={host} port={port} user=postgres dbname=postgres"


def test_stores_a_first_account(database: pc.Container) -> None:
    with psycopg.connect(dsn(database)) as connection:
        connection.execute("create table account (id integer primary key, owner text)")
        connection.execute("insert into account values (1, 'first')")
        rows = connection.execute("select id, owner from account").fetchall()

    assert rows == [(1, "first")]


def test_stores_a_conflicting_account(database: pc.Container) -> None:
    with psycopg.connect(dsn(database)) as connection:
        connection.execute("create table account (id integer primary key, owner text)")
        connection.execute("insert into account values (1, 'second')")
        rows = connection.execute("select id, owner from account").fetchall()

    assert rows == [(1, "second")]
