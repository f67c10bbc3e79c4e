"""Each test changes the database as it likes: the next one has another."""

from __future__ import annotations

from typing import Any


def test_has_what_the_migrations_left(client: Any) -> None:
    assert client.get("/items").json() == ["apple"]


def test_adds_an_item(client: Any) -> None:
    assert client.post("/items/pear?price_cents=50").status_code == 201

    assert client.get("/items").json() == ["apple", "pear"]


def test_refuses_an_item_that_is_there(client: Any) -> None:
    assert client.post("/items/pear?price_cents=50").status_code == 201
    assert client.post("/items/pear?price_cents=60").status_code == 409


def test_sees_nothing_of_the_others(client: Any, postgres: Any) -> None:
    assert client.get("/items").json() == ["apple"]
    assert postgres.sql("select count(*) from item") == [["1"]]
