"""What the Compose file and the fixtures of a suite on pytest-docker become.

::

    services:
      cache:
        image: redis:7
      web:
        image: example/web
        environment: {CACHE: cache}
        ports: ["8000"]
        depends_on: [cache]
"""

from __future__ import annotations

from typing import Any
from urllib.request import urlopen

import pytest_containers as pc

cache = pc.services.Redis.fixture(image="host:")

# Answers with the number of requests, which Redis counts.
PROGRAM = """
import http.server, os, socket
class Hits(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with socket.create_connection((os.environ["CACHE"], 6379)) as redis:
            redis.sendall(b"INCR hits\\r\\n")
            number = redis.recv(100).strip(b":\\r\\n")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(number)
http.server.HTTPServer(("", 8000), Hits).serve_forever()
"""


@pc.container_fixture
def web(cache: Any) -> pc.ContainerSpec:
    """The application; its argument makes the cache start first (``depends_on``)."""
    return pc.ContainerSpec(
        "host:", ["python3", "-c", PROGRAM], env={"CACHE": cache.name}, ports=[8000]
    )


def test_counts(web: pc.Container) -> None:
    # docker_ip, docker_services.port_for("web", 8000)
    url = f"http://{web.host}:{web.port(8000)}/"
    answers = []
    for _ in range(2):
        with urlopen(url, timeout=5) as response:
            answers.append(response.read())
    assert answers == [b"1", b"2"]
