"""Mosquitto, an MQTT broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pytest_containers import wait
from pytest_containers.images.image import Image
from pytest_containers.services.base import Service, directories
from pytest_containers.spec import ContainerSpec
from pytest_containers.state.warm import Stage

_CONFIG = (
    "listener 1883\nallow_anonymous true\nuser root\npersistence true\n"
    "persistence_location /mosquitto/data/\n"
)
_WRITE = f"printf '{_CONFIG}' > /mosquitto/own.conf".replace("\n", "\\n")
# CONNECT of MQTT 3.1.1, clean session, keep-alive 60 s, client "ready" (section 3.1).
_CONNECT = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05ready"


class Mosquitto(Service):
    """An MQTT broker that lets everybody in; see `Service` for its options."""

    reference: ClassVar[str] = "eclipse-mosquitto:2"
    number: ClassVar[int] = 1883
    programs: ClassVar[tuple[str, ...]] = ("mosquitto",)
    packages: ClassVar[str] = "mosquitto"
    scheme: ClassVar[str] = "mqtt"
    port_options: ClassVar[tuple[str, ...]] = ("-p", "--port")

    def serve(self, image: Image) -> ContainerSpec:
        """The broker; retained messages are in a file when it has ended."""
        ready = wait.tcp(self.number, _CONNECT, b"\x20\x02\x00\x00")
        return self.spec(["mosquitto", "-c", "/mosquitto/own.conf"], ready, env=self.env)

    def prepare(self, image: Image) -> Sequence[Stage]:
        """Its configuration."""
        return [directories(self.image, "/mosquitto/data", script=_WRITE)]

    def version_command(self) -> list[str]:
        """See `Service.version_command`."""
        return ["sh", "-c", "mosquitto -h | head -n 1"]
