"""Init scripts as the official image runs them, here with the PostgreSQL of this machine.

They run once. Every test starts on their result, until one of them changes.
"""

from __future__ import annotations

from typing import Any

import pytest_containers as pc

db = pc.services.Postgres.fixture(
    image="host:",
    env={"POSTGRES_USER": "shop", "POSTGRES_PASSWORD": "secret"},
    mounts=["./postgres_init:/docker-entrypoint-initdb.d:ro"],
)


def test_has_what_the_scripts_left(db: Any) -> None:
    assert db.sql("select id from account where email = 'first@EXAMPLE.com'") == [["1"]]


def test_has_a_client(db: Any) -> None:
    result = db.exec(["psql", "-tAc", "select current_user"], text=True, check=True)
    assert result.stdout == "shop\n"
