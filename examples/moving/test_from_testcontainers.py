"""What a suite on testcontainers becomes: servers of its own for each test, without `with`."""

from __future__ import annotations

from typing import Any
from urllib.request import urlopen

import pytest_containers as pc

# RedisContainer("redis:7"), in a fixture of scope "session"
redis_server = pc.services.Redis.fixture(image="host:")

# DockerContainer("python:3").with_command(…).with_env(…).with_exposed_ports(8000), and
# wait_for_logs(container, "Serving HTTP")
web = pc.container_fixture(
    "host:",
    ["python3", "-u", "-m", "http.server", "8000", "--directory", "/srv"],
    env={"LANG": "C.UTF-8"},
    ports=[8000],
    ready=pc.wait.log("Serving HTTP"),
)


def test_a_server(redis_server: Any) -> None:
    assert redis_server.command("SET", "key", "value") == "OK"
    assert redis_server.url() == f"redis://{redis_server.host}:{redis_server.port}"


def test_the_next_server_is_empty(redis_server: Any) -> None:
    assert redis_server.command("DBSIZE") == "0"


def test_a_container(web: pc.Container) -> None:
    web.write_text("/srv/index.html", "hello")
    host, port = web.address(8000)
    with urlopen(f"http://{host}:{port}/", timeout=5) as response:
        assert response.read() == b"hello"
    assert web.exec(["ls", "/srv"], text=True).stdout == "index.html\n"
    assert "GET / HTTP" in web.logs().stderr
