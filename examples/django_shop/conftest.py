"""A migrated PostgreSQL of its own for every test of a Django project.

pytest-django imports the settings before it imports this file. So the address that they read is
fixed in ``pytest.ini`` (``containers_endpoint``); it leads to whichever server the test has.
Migrations run once; what they leave is kept until one of them, or what they use, changes.
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


shop_db = pc.services.Postgres.fixture(image="host:", seed=migrate, name="shop_db")


@pytest.fixture
def django_db_setup(request: pytest.FixtureRequest, django_db_blocker: Any) -> Iterator[None]:
    """In place of pytest-django's, which makes one database for all tests."""
    from django.db import connections

    with django_db_blocker.unblock():  # the seed uses it before any test does
        request.getfixturevalue("shop_db")
    yield
    connections.close_all()  # they led to a server that is gone now
