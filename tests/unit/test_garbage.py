"""When a run collects its garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from pytest_containers.runtime.garbage import Cleaning
from pytest_containers.runtime.wire.loop import Loop


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """The generations that are collected during a test."""
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            seen.append(info["generation"])

    gc.disable()
    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)
    gc.enable()


@pytest.mark.long
def test_everything_after_so_many_containers(collections: list[int]) -> None:
    loop = Loop()
    cleaning = Cleaning(loop, every=3)
    for _ in range(7):
        cleaning.count()
    assert collections == []  # not at once
    loop.call_later(0.01, loop.stop)  # due after the others
    loop.run()
    assert collections == [2, 2]
