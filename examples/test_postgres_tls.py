"""PostgreSQL over TLS: the client checks the certificate and the name of the server."""

from __future__ import annotations

from typing import Any

import pytest

import pytest_containers as pc

psycopg = pytest.importorskip("psycopg", exc_type=ImportError)

db = pc.services.Postgres.fixture(image="host:", tls=True)


def test_is_encrypted(db: Any) -> None:
    with psycopg.connect(db.dsn) as connection:  # …?sslmode=verify-full&sslrootcert=…
        row = connection.execute(
            "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()"
        )
        assert row.fetchone() == (True, "TLSv1.3")


def test_refuses_another_authority(db: Any) -> None:
    with pytest.raises(psycopg.OperationalError, match="certificate"):
        psycopg.connect(db.dsn, sslrootcert="system")
