"""A custom service: an image, a port, a command and a condition for readiness.

This one is an echo server in Python; a real service would use the image of its server.
"""

from __future__ import annotations

import pytest_containers as pc
from pytest_containers.services import Service

SERVER = """
import socketserver, sys
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(sys.argv[1].encode() + line)
socketserver.ThreadingTCPServer(("", 7777), Handler).serve_forever()
"""


class Echo(Service):
    """An echo server.

    Args:
        prefix: The text before every line of a response.
        **options: See `Service`.
    """

    reference = "host:"
    number = 7777
    programs = ("python3",)
    packages = "python3"
    scheme = "echo"
    clean = False  # its exit code after the stop signal is not 0

    def __init__(self, *, prefix: str = "", **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]  # the options of any service
        self.prefix = prefix

    def serve(self, image: pc.Image) -> pc.ContainerSpec:
        """Return the spec of the server, which is ready when it echoes."""
        command = ["python3", "-c", SERVER, self.prefix]
        return self.spec(command, pc.wait.tcp(self.number, b"ready?\n", b"ready?"))


echo = Echo.fixture(prefix="> ")


def test_echoes(echo: Echo) -> None:
    with echo.container.connect(echo.number) as sock:
        sock.sendall(b"hello\n")
        assert sock.recv(100) == b"> hello\n"


def test_tells_where_it_is(echo: Echo) -> None:
    assert echo.url() == f"echo://{echo.host}:{echo.port}"
