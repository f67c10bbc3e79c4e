"""NATS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pytest_containers.model import wait
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.certificates import CERTIFICATE, KEY
from pytest_containers.services.service import Service

if TYPE_CHECKING:
    from pytest_containers.services.options import NatsFixture


class Nats(Service):
    """A NATS server.

    Args:
        jetstream: Enable JetStream, with files in the container.
        user, password: The credentials of clients; empty requires none.
        **options: See `Service`.
    """

    reference: ClassVar[str] = "nats:2"
    number: ClassVar[int] = 4222
    programs: ClassVar[tuple[str, ...]] = ("nats-server",)
    packages: ClassVar[str] = "nats-server"
    scheme: ClassVar[str] = "nats"
    port_options: ClassVar[tuple[str, ...]] = ("-p", "-port", "--port")
    has_tls: ClassVar[bool] = True
    tls_scheme: ClassVar[str] = "tls"
    clean: ClassVar[bool] = False  # its exit code after the stop signal is 1

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[NatsFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def __init__(
        self, *, jetstream: bool = True, user: str = "", password: str = "", **options: Any
    ) -> None:
        super().__init__(**options)
        self.jetstream: bool = jetstream
        self.user: str = user
        self.password: str = password

    def idle(self, image: Image) -> ContainerSpec:
        """Return the server without TLS: the official image has no other program."""
        return self.without_tls().serve(image)

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the server."""
        arguments = ["-a", "0.0.0.0", "-p", str(self.number)]
        arguments += ["-js", "-sd", "/var/lib/nats"] if self.jetstream else []
        arguments += ["--user", self.user, "--pass", self.password] if self.user else []
        arguments += ["--tls", "--tlscert", CERTIFICATE, "--tlskey", KEY] if self.tls else []
        return self.spec(
            ["nats-server", *arguments], wait.tcp(self.number, b"", b"INFO {"), env=self.env
        )
