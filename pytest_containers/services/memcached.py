"""Memcached."""

from __future__ import annotations

from typing import ClassVar

from pytest_containers import wait
from pytest_containers.images.image import Image
from pytest_containers.services.base import Service
from pytest_containers.spec import ContainerSpec


class Memcached(Service):
    """A Memcached server; see `Service` for its options. It has no files, so no state is kept."""

    reference: ClassVar[str] = "memcached:1.6"
    number: ClassVar[int] = 11211
    programs: ClassVar[tuple[str, ...]] = ("memcached",)
    packages: ClassVar[str] = "memcached"
    scheme: ClassVar[str] = "memcached"
    port_options: ClassVar[tuple[str, ...]] = ("-p", "--port")
    clean: ClassVar[bool] = False

    def serve(self, image: Image) -> ContainerSpec:
        """The server."""
        ready = wait.tcp(self.number, b"version\r\n", b"VERSION")
        return self.spec(
            ["memcached", "-u", "root", "-l", "0.0.0.0,::"], ready, user="0", env=self.env
        )
