"""A migrated PostgreSQL server for every test of a Django project.

pytest-django imports the settings before it imports this file. So ``pytest.ini`` reserves the
address that they read (``containers_endpoint``); it forwards to the server of the current test.
Migrations run once; the result is reused until one of them, or one of their inputs, changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import pytest_containers as pc

pytest.importorskip("pytest_django", exc_type=ImportError)


def migrate(server: Any) -> None:
    """Bring an empty database to the newest state."""
    from django.core.management import call_command
    from django.db import connections

    call_command("migrate", verbosity=0)
    connections.close_all()


shop_db = pc.services.Postgres.fixture(
    image="host:", seed=migrate, user="shop", password="secret", name="shop_db"
)


@pytest.fixture
def django_db_setup(request: pytest.FixtureRequest, django_db_blocker: Any) -> Iterator[None]:
    """Replace the fixture of pytest-django, which makes one database for all tests."""
    from django.db import connections

    with django_db_blocker.unblock():  # the seed uses the database before the first test
        request.getfixturevalue("shop_db")
    yield
    connections.close_all()  # their server is gone now
