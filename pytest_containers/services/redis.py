"""Redis and its fork Valkey."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pytest_containers.model import wait
from pytest_containers.model.errors import ExecError, hide_frames
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.base import directories
from pytest_containers.services.certificates import AUTHORITY, CERTIFICATE, KEY
from pytest_containers.services.service import Service
from pytest_containers.state.warm import Stage

if TYPE_CHECKING:
    from pytest_containers.services.options import RedisFixture


__tracebackhide__ = hide_frames

_DATA = "/data"
# With types shown, strings are quoted, so only errors begin like this; also within those of EXEC.
_REFUSED = r"(?m)^ *(?:\d+[)~#%] +)*\(error\) (.*)|^(Invalid argument\(s\))$"


class Redis(Service):
    """A Redis server.

    Args:
        password: The password of clients; empty requires none.
        database: The number of the database that clients use.
        **options: See `Service`.
    """

    reference: ClassVar[str] = "redis:7"
    number: ClassVar[int] = 6379
    programs: ClassVar[tuple[str, ...]] = ("redis-server", "redis-cli")
    packages: ClassVar[str] = "redis-server"
    scheme: ClassVar[str] = "redis"
    scripts: ClassVar[tuple[str, ...]] = (".redis", ".sh")
    port_options: ClassVar[tuple[str, ...]] = ("--port",)
    # Nothing is written while it runs; `settle` writes the data of a seed.
    fast: ClassVar[tuple[str, ...]] = ("--save", "", "--appendonly", "no")
    client: ClassVar[str] = "redis-cli"
    has_tls: ClassVar[bool] = True
    tls_scheme: ClassVar[str] = "rediss"
    refused_variables: ClassVar[Mapping[str, str]] = {
        "REDIS_PASSWORD*": "the official image does not have it: pass password=",
        "REDIS_ARGS": "the official image does not have it: pass arguments=",
        "REDIS_PORT*": "every container has its own network, in which all ports are free",
    }

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[RedisFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def __init__(self, *, password: str = "", database: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.password: str = password
        self.database: str = str(database) if database else ""

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the server, which loads the file of a seed if there is one."""
        arguments = ["--bind", "* -::*", "--protected-mode", "no", "--dir", _DATA]
        if self.tls:
            arguments += ["--port", "0", "--tls-port", "6379", "--tls-auth-clients", "no"]
            arguments += ["--tls-ca-cert-file", AUTHORITY, "--tls-cert-file", CERTIFICATE]
            arguments += ["--tls-key-file", KEY]
        else:
            arguments += ["--port", "6379"]
        arguments += ["--requirepass", self.password] if self.password else []
        arguments += [] if self.durable else self.fast
        # Only the first argument can be a file of configuration; the options go before it here.
        file, rest = self.arguments[:1], self.arguments[1:]
        if file and file[0].startswith("-"):
            file, rest = (), self.arguments
        return dataclasses.replace(
            self.spec([self.programs[0]], _Responds(self.tls), env=self.env),
            command=[self.programs[0], *file, *arguments, *rest],
        )

    def client_env(self) -> dict[str, str]:
        """Return the variable with which ``redis-cli`` logs in."""
        return {"REDISCLI_AUTH": self.password} if self.password else {}

    def prepare(self, image: Image) -> Sequence[Stage]:
        """Return the stage that makes the directory of the file."""
        return [directories(self.image, _DATA)]

    def settle(self) -> None:
        """Write all data to the file."""
        self.command("SAVE")

    def command(self, *words: str, input: bytes | None = None) -> str:
        """Run a command with the client of the server: ``command("SET", "key", "value")``.

        Args:
            input: Without words: commands, one on each line, all of which are run. The result is
                the output of the client in its human-readable form.

        Raises:
            ExecError: A command failed.
        """
        if not words:
            return self._run_lines(input or b"", "commands")
        result = self.exec([*self._client(), "-e", *words], input=input, check=True)
        return str(result.stdout.decode()).removesuffix("\n")

    def run_script(self, path: Path) -> None:
        """Run a ``.redis`` script, with a command on each line, or a ``.sh`` script."""
        if path.name.endswith(".redis"):
            self._run_lines(path.read_bytes(), f"script {path.name}")
        else:
            super().run_script(path)

    def _run_lines(self, lines: bytes, title: str) -> str:
        """Run commands; the exit code of the client is 0 even if the server refuses one."""
        result = self.exec([*self._client(), "--no-raw"], input=lines, check=True)
        output = str(result.stdout.decode(errors="replace"))
        refused = [error or syntax for error, syntax in re.findall(_REFUSED, output)]
        refused += result.stderr.decode(errors="replace").split("\n")[:1] if result.stderr else []
        if refused:
            raise ExecError(
                f"{title} in {self.name!r} failed: {refused[0]}",
                returncode=result.returncode,
                stdout=result.stdout,
                stderr=result.stderr,
            )
        return output.removesuffix("\n")

    def _client(self) -> list[str]:
        login = ["-a", self.password, "--no-auth-warning"] if self.password else []
        login += ["--tls", "--cacert", AUTHORITY] if self.tls else []
        return [self.client, *login, *(["-n", self.database] if self.database else [])]


class Valkey(Redis):
    """A Valkey server, with the options of `Redis`."""

    reference: ClassVar[str] = "valkey/valkey:8"
    programs: ClassVar[tuple[str, ...]] = ("valkey-server", "valkey-cli")
    packages: ClassVar[str] = "valkey-server"
    scheme: ClassVar[str] = "redis"  # clients know no other
    client: ClassVar[str] = "valkey-cli"


class _Responds(wait.Talk):
    def __init__(self, tls: bool) -> None:
        super().__init__(b"PING\r\n", 6379, tls)

    def answer(self, data: bytes) -> str | None:
        """Accept a server that has loaded its data, even if it demands a password."""
        if data.startswith((b"+PONG", b"-NOAUTH")):
            return None
        return f"the answer was {data[:60]!r}"
