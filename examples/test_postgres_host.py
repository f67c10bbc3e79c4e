"""A PostgreSQL server for every test, from the Debian package on this machine.

Only ``apt install postgresql`` is needed; a server that runs on the machine is not used. Both tests
create the same table and write the same key without a conflict.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import pytest_containers as pc

psycopg = pytest.importorskip("psycopg", exc_type=ImportError)

# A server that is thrown away need not survive a power cut, and small WAL segments start faster.
START = """
initdb --pgdata="$PGDATA" --auth=trust --no-sync --wal-segsize=1 --encoding=UTF8 --locale=C.UTF-8
echo 'host all all all trust' >> "$PGDATA/pg_hba.conf"
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp \
    -c fsync=off -c synchronous_commit=off -c full_page_writes=off
"""


def bindir() -> str:
    """Where Debian keeps the programs of the newest PostgreSQL server that is installed."""
    found = list(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("needs a PostgreSQL server: apt install postgresql")
    return str(max(found, key=lambda path: int(path.parts[-3])).parent)


@pc.container_fixture
def postgres() -> pc.ContainerSpec:
    """A PostgreSQL server with an empty database."""
    return pc.ContainerSpec(
        "host:",
        ["sh", "-ec", START],
        user="postgres",
        env={"PATH": f"{bindir()}:/usr/bin:/bin", "PGDATA": "/tmp/data"},
        ports=[5432],
        ready=pc.wait.log("database system is ready to accept connections"),
    )


def dsn(server: pc.Container) -> str:
    host, port = server.address(5432)
    return f"host={host} port={port} user=postgres dbname=postgres"


def test_stores_a_first_account(postgres: pc.Container) -> None:
    with psycopg.connect(dsn(postgres)) as connection:
        connection.execute("create table account (id integer primary key, owner text)")
        connection.execute("insert into account values (1, 'first')")
        rows = connection.execute("select id, owner from account").fetchall()

    assert rows == [(1, "first")]


def test_stores_a_conflicting_account(postgres: pc.Container) -> None:
    with psycopg.connect(dsn(postgres)) as connection:
        connection.execute("create table account (id integer primary key, owner text)")
        connection.execute("insert into account values (1, 'second')")
        rows = connection.execute("select id, owner from account").fetchall()

    assert rows == [(1, "second")]
