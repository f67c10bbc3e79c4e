"""A migrated PostgreSQL server for every test of an unchanged application.

The application reads DATABASE_URL when it is imported. `endpoint` sets this variable before, to an
address that forwards to the server of the current test. The migrations of Alembic run once; the
result is reused until one of them, or one of their inputs, changes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pytest_containers as pc

HERE = Path(__file__).parent
pytest.importorskip("fastapi", exc_type=ImportError)
sys.path.insert(0, str(HERE))


def migrate(postgres: Any) -> None:
    """Bring an empty database to the newest revision."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(HERE / "migrations"))
    command.upgrade(config, "head")


postgres = pc.services.Postgres.fixture(
    image="host:",
    seed=migrate,
    user="shop",
    password="secret",
    endpoint={"DATABASE_URL": "postgresql+psycopg://shop:secret@{host}:{port}/shop"},
)


@pytest.fixture
def client(postgres: Any) -> Iterator[Any]:
    """The application, connected to the database of the test."""
    from fastapi.testclient import TestClient
    from shop_api import app, engine

    with TestClient(app) as client:
        yield client
    engine.dispose()  # the server of its connections is gone now
