"""Memcached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pytest_containers.model import wait
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.certificates import CERTIFICATE, KEY
from pytest_containers.services.service import Service

if TYPE_CHECKING:
    from pytest_containers.services.options import ServiceFixture


class Memcached(Service):
    """A Memcached server; see `Service` for its options. Its data is in memory and never stored."""

    reference: ClassVar[str] = "memcached:1.6"
    number: ClassVar[int] = 11211
    programs: ClassVar[tuple[str, ...]] = ("memcached",)
    packages: ClassVar[str] = "memcached"
    scheme: ClassVar[str] = "memcached"
    port_options: ClassVar[tuple[str, ...]] = ("-p", "--port")
    has_tls: ClassVar[bool] = True
    tls_scheme: ClassVar[str] = "memcacheds"
    clean: ClassVar[bool] = False

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[ServiceFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the server."""
        ready = wait.tcp(self.number, b"version\r\n", b"VERSION", tls=self.tls)
        command = ["memcached", "-u", "root", "-l", "0.0.0.0,::"]
        if self.tls:
            command += ["-Z", "-o", f"ssl_chain_cert={CERTIFICATE},ssl_key={KEY}"]
        return self.spec(command, ready, user="0", env=self.env)
