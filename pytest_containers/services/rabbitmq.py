"""RabbitMQ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_containers import wait
from pytest_containers.images.image import Image
from pytest_containers.services.base import Service
from pytest_containers.spec import ContainerSpec
from pytest_containers.state.warm import Stage, nothing

if TYPE_CHECKING:
    from pytest_containers.engines.native import Container

_NODE = "rabbit@localhost"
_HOME, _PACKAGED = "/var/lib/rabbitmq", "/usr/lib/rabbitmq/bin"


class RabbitMQ(Service):
    """A RabbitMQ node.

    Args:
        user, password: As RABBITMQ_DEFAULT_USER and RABBITMQ_DEFAULT_PASS of the official image.
        vhost: The virtual host that is made for it.
        **options: See `Service`.
    """

    reference: ClassVar[str] = "rabbitmq:4"
    number: ClassVar[int] = 5672
    programs: ClassVar[tuple[str, ...]] = ("rabbitmq-server", "rabbitmqctl")
    packages: ClassVar[str] = "rabbitmq-server"
    scheme: ClassVar[str] = "amqp"
    port_variables: ClassVar[tuple[str, ...]] = ("RABBITMQ_NODE_PORT",)

    def __init__(
        self, *, user: str = "test", password: str = "test", vhost: str = "/", **options: Any
    ) -> None:
        super().__init__(**options)
        self.user: str = self.env.get("RABBITMQ_DEFAULT_USER", user)
        self.password: str = self.env.get("RABBITMQ_DEFAULT_PASS", password)
        self.database: str = self.env.get("RABBITMQ_DEFAULT_VHOST", vhost)

    def _env(self) -> dict[str, str]:
        config = (
            f"-rabbit default_user <<{_erlang(self.user)}>> "
            f"-rabbit default_pass <<{_erlang(self.password)}>> "
            f"-rabbit default_vhost <<{_erlang(self.database)}>> "
            "-rabbit loopback_users []"
        )
        return {
            # A node's files carry its name, and every container has another host name.
            "RABBITMQ_NODENAME": _NODE, "HOME": _HOME, "RABBITMQ_LOGS": "-",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": config,
            "RABBITMQ_PID_FILE": "/tmp/rabbitmq.pid",
            "LANG": "C.UTF-8",
            **self.env,
        }  # fmt: skip

    def serve(self, image: Image) -> ContainerSpec:
        """The node, on its own files."""
        # The packages' own wrapper hides the output and the signals.
        program = f"{_PACKAGED}/rabbitmq-server" if self.is_packaged(image) else "rabbitmq-server"
        return self.spec([program], _Ready(), env=self._env(), user="rabbitmq", workdir=_HOME)

    def prepare(self, image: Image) -> Sequence[Stage]:
        """A first start: the node's database, users and feature flags."""
        stages = []
        if self.is_packaged(image):
            # The package's installation made them, but on this machine, not in the container.
            spec = ContainerSpec(self.image, ["sleep", "infinity"], entrypoint=())
            stages.append(Stage("directories", spec, _make_directories, {}, traced=False))
        parts = {"the service": self.known_by()}
        stages.append(
            Stage("first start", self.serve(image), nothing, parts, traced=False, clean=True)
        )
        return stages

    def ctl(self, *words: str) -> str:
        """Run ``rabbitmqctl``.

        Raises:
            ExecError: It failed.
        """
        result = self.exec(
            ["rabbitmqctl", "-q", "-n", _NODE, *words], env=self._env(), check=True, text=True
        )
        return str(result.stdout)

    def version_command(self) -> list[str]:
        """See `Service.version_command`."""
        return ["rabbitmqctl", "-n", _NODE, "version"]


def _make_directories(container: Container) -> None:
    container.exec(["true"], user="rabbitmq")  # says what is missing where there is one id only
    owner = ["-o", "rabbitmq", "-g", "rabbitmq"]
    folders = [_HOME, "/var/log/rabbitmq", "/etc/rabbitmq"]
    container.exec(["install", "-d", *owner, *folders], check=True)


def _erlang(text: str) -> str:
    return ",".join(str(byte) for byte in text.encode())


class _Ready(wait.Talk):
    """It answers the protocol header with Connection.Start (AMQP 0-9-1, 2.2.4)."""

    def __init__(self) -> None:
        super().__init__(b"AMQP\x00\x00\x09\x01", 5672)

    def answer(self, data: bytes) -> str | None:
        """See `Talk.answer`."""
        return None if data[:1] == b"\x01" else f"the answer was {data[:60]!r}"
