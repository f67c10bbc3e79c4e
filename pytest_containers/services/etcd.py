"""etcd."""

from __future__ import annotations

from typing import ClassVar

from pytest_containers import wait
from pytest_containers.images.image import Image
from pytest_containers.services.base import Service
from pytest_containers.spec import ContainerSpec


class Etcd(Service):
    """An etcd of one member; see `Service` for its options."""

    reference: ClassVar[str] = "gcr.io/etcd-development/etcd:v3.5"
    number: ClassVar[int] = 2379
    programs: ClassVar[tuple[str, ...]] = ("etcd",)
    packages: ClassVar[str] = "etcd-server"
    scheme: ClassVar[str] = "http"
    port_options: ClassVar[tuple[str, ...]] = ("--listen-client-urls", "-listen-client-urls")
    port_variables: ClassVar[tuple[str, ...]] = ("ETCD_LISTEN_CLIENT_URLS",)
    fast: ClassVar[tuple[str, ...]] = (
        "--unsafe-no-fsync",
        "--heartbeat-interval=10",
        "--election-timeout=50",
    )

    def serve(self, image: Image) -> ContainerSpec:
        """The server, on its own data."""
        words = [
            "--data-dir=/var/lib/etcd", "--listen-client-urls=http://0.0.0.0:2379",
            "--advertise-client-urls=http://0.0.0.0:2379", "--logger=zap",
        ]  # fmt: skip
        words += [] if self.durable else self.fast
        ready = wait.http("/health", port=self.number)
        env = {"ETCDCTL_API": "3", **self.env}
        return self.spec(["etcd", *words], ready, env=env)
