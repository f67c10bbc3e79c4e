"""Mosquitto, an MQTT broker."""

from __future__ import annotations

from pytest_containers import wait
from pytest_containers.images.image import Image
from pytest_containers.services.base import Service
from pytest_containers.spec import ContainerSpec

_START = (
    "mkdir -p /mosquitto/data; "
    "printf 'listener 1883\\nallow_anonymous true\\nuser root\\npersistence %s\\n"
    "persistence_location /mosquitto/data/\\n' {persistence} > /mosquitto/own.conf; "
    'exec mosquitto -c /mosquitto/own.conf "$@"'
)
# CONNECT of MQTT 3.1.1, clean session, keep-alive 60 s, client "ready" (section 3.1).
_CONNECT = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05ready"


class Mosquitto(Service):
    """An MQTT broker that lets everybody in; see `Service` for its options."""

    reference = "eclipse-mosquitto:2"
    number = 1883
    programs = ("mosquitto",)
    packages = "mosquitto"
    scheme = "mqtt"

    def serve(self, image: Image) -> ContainerSpec:
        """The broker; retained messages are in a file when it has ended."""
        start = _START.format(persistence="true")
        return self.spec(
            ["sh", "-c", start, "mosquitto"], wait.tcp(self.number, _CONNECT, b"\x20\x02\x00\x00"),
            env=self.env,
        )  # fmt: skip

    def version_command(self) -> list[str]:
        """See `Service.version_command`."""
        return ["sh", "-c", "mosquitto -h | head -n 1"]
