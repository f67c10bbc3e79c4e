"""Mosquitto, an MQTT broker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pytest_containers.model import wait
from pytest_containers.model.arguments import check
from pytest_containers.model.engine import Container
from pytest_containers.model.errors import SpecError, hide_frames
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.base import writing
from pytest_containers.services.certificates import AUTHORITY, CERTIFICATE, KEY
from pytest_containers.services.service import Service
from pytest_containers.services.steps import run_step
from pytest_containers.state.warm import Stage

if TYPE_CHECKING:
    from pytest_containers.services.options import MosquittoFixture

__tracebackhide__ = hide_frames

_OFFICIAL, _DATA = "/mosquitto/config", "/mosquitto/data"
# CONNECT of MQTT 3.1.1, clean session, keep-alive 60 s, client "ready" (section 3.1).
_CONNECT = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05ready"


class Mosquitto(Service):
    """An MQTT broker.

    A file that is mounted at ``/mosquitto/config/mosquitto.conf``, as for the official image, is
    its configuration, which then has a listener on port 1883.

    Args:
        user, password: The credentials of clients; empty lets everybody in.
        users: More users, with their passwords.
        **options: See `Service`.
    """

    reference: ClassVar[str] = "eclipse-mosquitto:2"
    number: ClassVar[int] = 1883
    programs: ClassVar[tuple[str, ...]] = ("mosquitto", "mosquitto_passwd")
    packages: ClassVar[str] = "mosquitto"
    scheme: ClassVar[str] = "mqtt"
    port_options: ClassVar[tuple[str, ...]] = ("-p", "--port")
    has_tls: ClassVar[bool] = True
    tls_number: ClassVar[int] = 8883
    tls_scheme: ClassVar[str] = "mqtts"

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[MosquittoFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def __init__(
        self,
        *,
        user: str = "",
        password: str = "",
        users: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check(type(self).__name__, users=users or {})
        self.user: str = user
        self.password: str = password
        self.users: dict[str, str] = {**({user: password} if user else {}), **(users or {})}
        for name, secret in self.users.items():
            if not name or not secret or ":" in name or "\n" in f"{name}{secret}":
                raise SpecError(
                    f"Mosquitto: user {name!r} cannot be written to a file of passwords; it needs "
                    "a password, no ':' in its name and no line ends"
                )

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the broker, which writes retained messages to a file at its end."""
        # It answers those without a password as well, if only that they may not enter.
        ready = wait.tcp(self.number, _CONNECT, b"\x20\x02\x00", tls=self.tls)
        own = not self.server_mounts().below(_OFFICIAL)
        config = f"{self._folders(image)[0]}/own.conf" if own else f"{_OFFICIAL}/mosquitto.conf"
        return self.spec(["mosquitto", "-c", config], ready, env=self.env)

    def prepare(self, image: Image) -> Sequence[Stage]:
        """Return the stage that writes the configuration."""
        parts = {"the configuration": self._config(image), "the users": repr(self.users)}
        return [Stage("configuration", self.idle(image), self._configure, parts, traced=False)]

    def _folders(self, image: Image) -> tuple[str, str]:
        """Return the directories of the configuration and of the data."""
        packaged = self.is_packaged(image)
        return ("/etc/mosquitto", "/var/lib/mosquitto") if packaged else ("/mosquitto", _DATA)

    def _config(self, image: Image) -> str:
        config, data = self._folders(image)
        lines = [f"listener {self.number}", "user root", "persistence true"]
        lines += [f"persistence_location {data}/"]
        lines += [f"allow_anonymous {'false' if self.users else 'true'}"]
        lines += [f"password_file {config}/passwords"] if self.users else []
        if self.tls:
            lines += [f"cafile {AUTHORITY}", f"certfile {CERTIFICATE}", f"keyfile {KEY}"]
        return "\n".join([*lines, ""])

    def _configure(self, container: Container) -> None:
        config, data = self._folders(container.image)
        own = writing(f"{config}/own.conf", self._config(container.image))
        run_step(container, "configuration", ["sh", "-ec", f"mkdir -p {config} {data}; {own}"])
        if self.users:
            lines = "".join(f"{name}:{secret}\n" for name, secret in self.users.items())
            passwords = f"{config}/passwords"
            container.write_text(passwords, lines, mode=0o600)
            run_step(container, "mosquitto_passwd", ["mosquitto_passwd", "-U", passwords])

    def version_command(self) -> list[str]:
        """Return the command that prints the version."""
        return ["sh", "-c", "mosquitto -h | head -n 1"]
