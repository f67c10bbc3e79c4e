"""Each test changes the database as it likes: the next one has another."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.django_db(transaction=True)


def test_has_what_the_migrations_left(client: Any) -> None:
    assert client.get("/orders/").json() == [["apple", 3]]


@pytest.mark.parametrize("count", [1, 2])
def test_adds_an_order(client: Any, count: int) -> None:
    answer = client.post("/orders/", {"item": "pear", "count": count})

    assert answer.json() == [["apple", 3], ["pear", count]]


def test_may_drop_everything(client: Any) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("drop table shop_order cascade")
    assert connection.introspection.table_names() == ["django_migrations"]
