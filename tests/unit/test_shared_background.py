"""Pushes and fetches in the background."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import nullcontext

import pytest

from pytest_containers.images.shared.background import FetchAhead, Pushes, arriving
from pytest_containers.model.errors import ContainersError, ImageError, RegistryError

Take = Callable[[bytes], None]


def test_pushes_are_in_order_and_a_failure_is_told() -> None:
    told: list[str] = []
    done: list[int] = []
    pushes = Pushes(told.append)

    def fail() -> None:
        raise ContainersError("the registry is full")

    pushes.add(lambda: done.append(1), nullcontext)
    pushes.add(fail, nullcontext)
    pushes.add(lambda: done.append(2), nullcontext)
    pushes.finish(60)
    assert done == [1, 2]
    assert told == ["a result is not shared: the registry is full"]
    pushes.add(lambda: done.append(3), nullcontext)
    pushes.finish(60)
    assert done == [1, 2, 3]


def test_what_cannot_be_held_is_told() -> None:
    told: list[str] = []
    pushes = Pushes(told.append)

    def hold() -> nullcontext[None]:
        raise OSError(28, "No space left on device")

    pushes.add(lambda: told.append("pushed"), hold)
    pushes.finish(60)
    assert told == ["a result is not shared: [Errno 28] No space left on device"]


def test_what_is_given_up_is_told_once() -> None:
    told: list[str] = []
    done: list[int] = []
    pushes, event = Pushes(told.append), threading.Event()
    pushes.add(lambda: event.wait(60), nullcontext)
    pushes.add(lambda: done.append(1), nullcontext)
    pushes.finish(0.01)
    pushes.finish(60)
    event.set()
    assert told == [
        "2 of the results of this run were not pushed within 0.01 s, and are not shared"
    ]
    assert done == []


def test_an_answer_ahead() -> None:
    def fail() -> str:
        raise ImageError("it is damaged")

    assert FetchAhead(lambda: "state").answer() == "state"
    assert FetchAhead(fail).answer() is None


def test_data_arrives_while_it_is_fetched() -> None:
    got = threading.Event()

    def fetch(take: Take) -> None:
        take(b"first")
        assert got.wait(60)
        take(b"x" * (3 << 20))

    with arriving(fetch) as pipe:
        assert os.read(pipe, 5) == b"first"
        got.set()
        size = 0
        while data := os.read(pipe, 1 << 20):
            size += len(data)
    assert size == 3 << 20


def test_the_error_of_a_fetch_is_that_of_its_reader() -> None:
    def fetch(take: Take) -> None:
        take(b"first")
        raise RegistryError("the registry breaks off")

    def read() -> None:
        with arriving(fetch) as pipe:
            while os.read(pipe, 100):
                pass
            raise ImageError("the archive is truncated")

    with pytest.raises(RegistryError, match="breaks off"):
        read()


def test_a_reader_that_ends_early_ends_the_fetch() -> None:
    ended = threading.Event()

    def fetch(take: Take) -> None:
        try:
            while True:
                take(b"x" * 1000)
        finally:
            ended.set()

    def read() -> None:
        with arriving(fetch) as pipe:
            os.read(pipe, 1)
            raise ImageError("the archive is damaged")

    with pytest.raises(ImageError, match="damaged"):
        read()
    assert ended.wait(60)
