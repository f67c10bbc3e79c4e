"""An HTTP server for every test, from the programs of this machine.

The image ``host:`` needs no download: it consists of ``/usr`` of this machine, read-only, and of
the Python that runs the tests. Files that a test writes are removed with its container.
"""

from __future__ import annotations

from urllib.request import urlopen

import pytest_containers as pc

site = pc.container_fixture(
    "host:",
    ["python3", "-m", "http.server", "8000", "--directory", "/srv"],
    ports=[8000],
    ready=pc.wait.http("/", port=8000),
)


def get(container: pc.Container, path: str) -> str:
    host, port = container.address(8000)
    with urlopen(f"http://{host}:{port}{path}", timeout=5) as response:
        body: bytes = response.read()
    return body.decode()


def test_serves_a_page_written_by_the_test(site: pc.Container) -> None:
    site.write_bytes("/srv/index.html", b"written by the first test")

    assert get(site, "/") == "written by the first test"


def test_starts_without_the_page_of_the_other_test(site: pc.Container) -> None:
    assert "index.html" not in get(site, "/")


def test_shows_the_requests_in_the_logs(site: pc.Container) -> None:
    get(site, "/?from=test")

    assert "GET /?from=test" in site.logs().stderr
