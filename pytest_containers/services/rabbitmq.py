"""RabbitMQ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pytest_containers.model import wait
from pytest_containers.model.engine import Container
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.certificates import AUTHORITY, CERTIFICATE, KEY
from pytest_containers.services.service import Service
from pytest_containers.services.steps import maker_of, run_step
from pytest_containers.state.warm import Stage, nothing

if TYPE_CHECKING:
    from pytest_containers.services.options import RabbitMQFixture


_NODE = "rabbit@localhost"
_ERLANG_ARGUMENTS = "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"
_HOME, _PACKAGED = "/var/lib/rabbitmq", "/usr/lib/rabbitmq/bin"
# As it has them itself: an engine without mounts leads words elsewhere, and no file.
_PLACES = {
    "RABBITMQ_CONF_ENV_FILE": "/etc/rabbitmq/rabbitmq-env.conf",
    "RABBITMQ_ENABLED_PLUGINS_FILE": "/etc/rabbitmq/enabled_plugins",
    "RABBITMQ_CONFIG_FILES": "/etc/rabbitmq/conf.d",
    "RABBITMQ_ADVANCED_CONFIG_FILE": "/etc/rabbitmq/advanced.config",
    "RABBITMQ_CONFIG_FILE": "/etc/rabbitmq/rabbitmq",
    "RABBITMQ_MNESIA_BASE": f"{_HOME}/mnesia",
    "RABBITMQ_LOG_BASE": "/var/log/rabbitmq",
}


class RabbitMQ(Service):
    """A RabbitMQ node.

    Args:
        user, password: The values of RABBITMQ_DEFAULT_USER and RABBITMQ_DEFAULT_PASS of the
            official image.
        vhost: The virtual host to make.
        **options: See `Service`.
    """

    reference: ClassVar[str] = "rabbitmq:4"
    number: ClassVar[int] = 5672
    programs: ClassVar[tuple[str, ...]] = ("rabbitmq-server", "rabbitmqctl")
    packages: ClassVar[str] = "rabbitmq-server"
    scheme: ClassVar[str] = "amqp"
    port_variables: ClassVar[tuple[str, ...]] = ("RABBITMQ_NODE_PORT",)
    has_tls: ClassVar[bool] = True
    tls_number: ClassVar[int] = 5671
    tls_scheme: ClassVar[str] = "amqps"
    server_user: ClassVar[str] = "rabbitmq"
    refused_variables: ClassVar[Mapping[str, str]] = {
        "RABBITMQ_DEFAULT_*_FILE": "pass the value itself, as user= or password=",
        "RABBITMQ_SSL_*": "pass tls=True, or mount a file in /etc/rabbitmq/conf.d",
        "RABBITMQ_MANAGEMENT_SSL_*": "mount a file in /etc/rabbitmq/conf.d",
        "RABBITMQ_VM_MEMORY_HIGH_WATERMARK": "mount a file in /etc/rabbitmq/conf.d",
    }

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[RabbitMQFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def __init__(
        self,
        *,
        user: str = "containers",
        password: str = "containers",
        vhost: str = "/",
        **options: Any,
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
        if self.tls:
            names = (("cacertfile", AUTHORITY), ("certfile", CERTIFICATE), ("keyfile", KEY))
            # A string of Erlang is a list of numbers, which no shell takes apart.
            files = ",".join(f"{{{name},[{_erlang(path)}]}}" for name, path in names)
            config += f" -rabbit tcp_listeners [] -rabbit ssl_listeners [{self.number}]"
            config += f" -rabbit ssl_options [{files}]"
        config = f"{config} {self.env.get(_ERLANG_ARGUMENTS, '')}".rstrip()
        return {
            # The files of a node contain its name, and every container has another host name.
            "RABBITMQ_NODENAME": _NODE,
            "HOME": _HOME,
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": "/tmp/rabbitmq.pid",
            **_PLACES,
            "LANG": "C.UTF-8",
            **self.env,
            _ERLANG_ARGUMENTS: config,
        }

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the node."""
        # The wrapper of the Debian package hides output and signals.
        program = f"{_PACKAGED}/rabbitmq-server" if self.is_packaged(image) else "rabbitmq-server"
        return self.spec(
            [program],
            _RabbitMQReady(self.number, self.tls),
            env=self._env(),
            user="rabbitmq",
            workdir=_HOME,
        )

    def prepare(self, image: Image) -> Sequence[Stage]:
        """Return the stage of a first start, which makes the database, users and feature flags."""
        stages = []
        if self.is_packaged(image):
            # The package has made its directories on this machine, not in the container.
            stages.append(
                Stage("directories", self.idle(image), self._make_directories, {}, traced=False)
            )
        parts = {"the service": self.known_by()}
        stages.append(
            Stage("first start", self.serve(image), nothing, parts, traced=False, clean=True)
        )
        return stages

    def _make_directories(self, container: Container) -> None:
        maker = maker_of(container, "rabbitmq")
        owner = ["-o", "rabbitmq", "-g", "rabbitmq"]
        folders = self.server_mounts().free([_HOME, "/var/log/rabbitmq", "/etc/rabbitmq"])
        if folders:
            run_step(container, "directories", ["install", "-d", *owner, *folders], user=maker)

    def ctl(self, *words: str) -> str:
        """Run ``rabbitmqctl`` and return its output.

        Raises:
            ExecError: The command failed.
        """
        result = self.exec(
            ["rabbitmqctl", "-q", "-n", self._node(), *words],
            env=self._env(),
            check=True,
            text=True,
        )
        return str(result.stdout)

    def version_command(self) -> list[str]:
        """Return the command that prints the version."""
        return ["rabbitmqctl", "-n", self._node(), "version"]

    def _node(self) -> str:
        return self.env.get("RABBITMQ_NODENAME", _NODE)


def _erlang(value: str) -> str:
    return ",".join(str(byte) for byte in value.encode())


class _RabbitMQReady(wait.Talk):
    """A wait for Connection.Start in response to the protocol header (AMQP 0-9-1, 2.2.4)."""

    def __init__(self, number: int, tls: bool) -> None:
        super().__init__(b"AMQP\x00\x00\x09\x01", number, tls)

    def answer(self, data: bytes) -> str | None:
        """Check the response; see `Talk.answer`."""
        return None if data[:1] == b"\x01" else f"the answer was {data[:60]!r}"
