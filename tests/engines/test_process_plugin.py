"""pytest with `containers_engine = process`: the header, fixtures, endpoints and xdist."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import inner

from pytest_containers.linux import landlock

pytestmark = pytest.mark.skipif(not landlock.version(), reason="the kernel has no Landlock")

CODE = """
import socket
import pytest
import pytest_containers as pc

SERVER = (
    "import http.server as h; "
    "h.ThreadingHTTPServer(('', 8000), h.SimpleHTTPRequestHandler).serve_forever()"
)

def seed(container):
    container.write_text("/srv/page", "seeded")

endpoint = pc.endpoint("web", 8000)
web = pc.container_fixture(
    "host:", ["python3", "-c", SERVER], ports=[8000], workdir="/srv", seed=seed, endpoint=endpoint,
)

def get(address):
    with socket.create_connection(address, 10) as client:
        client.sendall(b"GET /page HTTP/1.0\\r\\n\\r\\n")
        return b"".join(iter(lambda: client.recv(4096), b"")).rpartition(b"\\r\\n")[2]

@pytest.mark.parametrize("number", range(3))
def test_fresh(web, number):
    assert web.address(8000)[0].startswith("127.7.")
    assert get(web.address(8000)) == b"seeded"
    assert get((endpoint.host, endpoint.port)) == b"seeded"
    web.write_text("/srv/page", "changed")

def test_limits(containers):
    with pytest.raises(pc.UnsupportedError, match="mem_limit"):
        containers.run("host:", ["true"], mem_limit="10m")
"""


@pytest.mark.parametrize("workers", ["", "-n2"])
def test_fixtures(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workers: str
) -> None:
    inner.prepare(monkeypatch, tmp_path / "home")
    pytester.makepyfile(CODE)
    arguments = ["--containers-engine=process", *filter(None, [workers])]
    result = pytester.runpytest_subprocess(*arguments, *inner.plugins(*arguments))
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        ["containers: pytest-containers *, process engine: files confined, processes visible"]
    )
