"""etcd."""

from __future__ import annotations

from pytest_containers import wait
from pytest_containers.images.image import Image
from pytest_containers.services.base import Service
from pytest_containers.spec import ContainerSpec


class Etcd(Service):
    """An etcd of one member; see `Service` for its options."""

    reference = "gcr.io/etcd-development/etcd:v3.5"
    number = 2379
    programs = ("etcd",)
    packages = "etcd-server"
    scheme = "http"
    fast = ("--unsafe-no-fsync", "--heartbeat-interval=10", "--election-timeout=50")

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
