"""etcd."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pytest_containers.model import wait
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.certificates import CERTIFICATE, KEY
from pytest_containers.services.service import Service

if TYPE_CHECKING:
    from pytest_containers.services.options import ServiceFixture


class Etcd(Service):
    """An etcd cluster of one member; see `Service` for its options."""

    reference: ClassVar[str] = "gcr.io/etcd-development/etcd:v3.5"
    number: ClassVar[int] = 2379
    programs: ClassVar[tuple[str, ...]] = ("etcd",)
    packages: ClassVar[str] = "etcd-server"
    scheme: ClassVar[str] = "http"
    has_tls: ClassVar[bool] = True
    tls_scheme: ClassVar[str] = "https"
    port_options: ClassVar[tuple[str, ...]] = ("--listen-client-urls", "-listen-client-urls")
    port_variables: ClassVar[tuple[str, ...]] = ("ETCD_LISTEN_CLIENT_URLS",)
    fast: ClassVar[tuple[str, ...]] = (
        "--unsafe-no-fsync",
        "--heartbeat-interval=10",
        "--election-timeout=50",
    )

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[ServiceFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def idle(self, image: Image) -> ContainerSpec:
        """Return the server without TLS: the official image has no other program."""
        return self.without_tls().serve(image)

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the server."""
        scheme = self.tls_scheme if self.tls else self.scheme
        arguments = [
            "--data-dir=/var/lib/etcd",
            f"--listen-client-urls={scheme}://0.0.0.0:2379",
            f"--advertise-client-urls={scheme}://0.0.0.0:2379",
            "--logger=zap",
        ]
        arguments += [f"--cert-file={CERTIFICATE}", f"--key-file={KEY}"] if self.tls else []
        arguments += [] if self.durable else self.fast
        ready = wait.http("/health", port=self.number, tls=self.tls)
        env = {"ETCDCTL_API": "3", **self.env}
        return self.spec(["etcd", *arguments], ready, env=env)
