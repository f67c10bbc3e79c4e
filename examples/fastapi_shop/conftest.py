"""A migrated PostgreSQL of its own for every test of an application that knows nothing of it.

The application reads DATABASE_URL when it is imported. `endpoint` sets that variable now, to an
address that leads to whichever server the current test has. Alembic's migrations run once; what
they leave is kept until a migration, or what they use, changes.
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
    endpoint={"DATABASE_URL": "postgresql+psycopg://test:test@{host}:{port}/test"},
)


@pytest.fixture
def client(postgres: Any) -> Iterator[Any]:
    """The application, on a database of the test's own."""
    from fastapi.testclient import TestClient
    from shop_api import app, engine

    with TestClient(app) as client:
        yield client
    engine.dispose()  # its connections led to a server that is gone now
