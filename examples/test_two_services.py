"""Two services of different images in one test: an API finds its database by name.

The API runs on the Python of this machine (``host:``), the database on a Debian image. All
containers of a test share a private network, and the host name of each is the name of its fixture:
``api.py`` connects to ``database``. Containers of other tests are not reachable.
"""

from __future__ import annotations

from pathlib import Path
from urllib.request import urlopen

import pytest

import pytest_containers as pc

pytest.importorskip("psycopg", exc_type=ImportError)  # used by api.py, inside its container


@pc.container_fixture
def api(database: pc.Container) -> pc.ContainerSpec:
    """The service under test, connected to its own database."""
    return pc.ContainerSpec(
        "host:",
        ["python3", "/srv/api.py"],
        mounts=[pc.Bind(Path(__file__).with_name("api.py"), "/srv/api.py", read_only=True)],
        ports=[8000],
        ready=pc.wait.http("/", port=8000),
    )


def visit(api: pc.Container) -> int:
    host, port = api.address(8000)
    with urlopen(f"http://{host}:{port}/visit", timeout=5) as response:
        return int(response.read())


def test_counts_visits(api: pc.Container) -> None:
    assert [visit(api), visit(api)] == [1, 2]


def test_counts_from_one_again(api: pc.Container) -> None:
    assert visit(api) == 1


def test_keeps_visits_in_the_database(api: pc.Container, database: pc.Container) -> None:
    visit(api)

    listing = database.exec(
        ["psql", "-h", "127.0.0.1", "-U", "postgres", "-Atc", "select count(*) from visit"],
        check=True,
        text=True,
    )
    assert listing.stdout == "1\n"
