"""The application runs in a container, from the sources in this checkout, without a build.

``host:?project=1`` shows the checkout at its own path, read-only, beside the programs of this
machine and the Python environment that runs the tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

import pytest_containers as pc

pytest.importorskip("redis")  # guestbook.py imports it, in its container

book = pc.services.Redis.fixture(image="host:")


@pc.container_fixture
def guestbook(book: Any) -> pc.ContainerSpec:
    """The application, with a book of its own."""
    return pc.ContainerSpec(
        "host:?project=1",
        ["python3", "guestbook.py"],
        workdir=str(Path(__file__).parent),
        env={"BOOK_URL": book.internal_dsn},
        ports=[8000],
        ready=pc.wait.http("/"),
    )


def test_keeps_entries(guestbook: pc.Container, book: Any) -> None:
    url = f"http://{guestbook.host}:{guestbook.port(8000)}/"
    urlopen(url, data=b"it was nice", timeout=5).close()
    with urlopen(url, timeout=5) as response:
        assert response.read() == b"it was nice"
    assert book.command("LRANGE", "entries", "0", "-1") == "it was nice"


def test_begins_empty(guestbook: pc.Container) -> None:
    with urlopen(f"http://{guestbook.host}:{guestbook.port(8000)}/", timeout=5) as response:
        assert response.read() == b""
