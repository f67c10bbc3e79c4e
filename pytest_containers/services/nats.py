"""NATS."""

from __future__ import annotations

from typing import Any, ClassVar

from pytest_containers import wait
from pytest_containers.images.image import Image
from pytest_containers.services.base import Service
from pytest_containers.spec import ContainerSpec


class Nats(Service):
    """A NATS server.

    Args:
        jetstream: Whether it keeps streams, in files of the container.
        user, password: What clients have to say; empty is nothing.
        **options: See `Service`.
    """

    reference: ClassVar[str] = "nats:2"
    number: ClassVar[int] = 4222
    programs: ClassVar[tuple[str, ...]] = ("nats-server",)
    packages: ClassVar[str] = "nats-server"
    scheme: ClassVar[str] = "nats"
    port_options: ClassVar[tuple[str, ...]] = ("-p", "-port", "--port")
    clean: ClassVar[bool] = False  # it ends with 1 when it is told to

    def __init__(
        self, *, jetstream: bool = True, user: str = "", password: str = "", **options: Any
    ) -> None:
        super().__init__(**options)
        self.jetstream: bool = jetstream
        self.user: str = user
        self.password: str = password

    def serve(self, image: Image) -> ContainerSpec:
        """The server."""
        words = ["-a", "0.0.0.0", "-p", str(self.number)]
        words += ["-js", "-sd", "/var/lib/nats"] if self.jetstream else []
        words += ["--user", self.user, "--pass", self.password] if self.user else []
        return self.spec(
            ["nats-server", *words], wait.tcp(self.number, b"", b"INFO {"), env=self.env
        )
