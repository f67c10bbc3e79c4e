"""Redis, and Valkey, which came from it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pytest_containers import wait
from pytest_containers.errors import ExecError, hide_frames
from pytest_containers.images.image import Image
from pytest_containers.services.base import Service, directories
from pytest_containers.spec import ContainerSpec
from pytest_containers.state.warm import Stage

__tracebackhide__ = hide_frames

_DATA = "/data"
# With types shown, texts are quoted, so that nothing else begins like this; also within an EXEC's.
_REFUSED = re.compile(r"^ *(?:\d+[)~#%] +)*\(error\) (.*)|^(Invalid argument\(s\))$", re.MULTILINE)


class Redis(Service):
    """A Redis server.

    Args:
        password: What clients have to say first; empty is nothing.
        **options: See `Service`.
    """

    reference: ClassVar[str] = "redis:7"
    number: ClassVar[int] = 6379
    programs: ClassVar[tuple[str, ...]] = ("redis-server", "redis-cli")
    packages: ClassVar[str] = "redis-server"
    scheme: ClassVar[str] = "redis"
    scripts: ClassVar[tuple[str, ...]] = (".redis", ".sh")
    port_options: ClassVar[tuple[str, ...]] = ("--port",)
    # Nothing is written while it runs; `settle` writes what a seed has made.
    fast: ClassVar[tuple[str, ...]] = ("--save", "", "--appendonly", "no")
    client: ClassVar[str] = "redis-cli"

    def __init__(self, *, password: str = "", database: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.password: str = password
        self.database: str = str(database) if database else ""

    def serve(self, image: Image) -> ContainerSpec:
        """The server, which loads the file that a seed has left, if there is one."""
        words = ["--bind", "* -::*", "--protected-mode", "no", "--dir", _DATA, "--port", "6379"]
        words += ["--requirepass", self.password] if self.password else []
        words += [] if self.durable else self.fast
        # A server with a password answers too: it is asked for.
        ready = wait.all_of(_answers)
        return self.spec([self.programs[0], *words], ready, env=self.env)

    def prepare(self, image: Image) -> Sequence[Stage]:
        """The directory for its file."""
        return [directories(self.image, _DATA)]

    def settle(self) -> None:
        """Write all to a file."""
        self.command("SAVE")

    def command(self, *words: str, input: bytes | None = None) -> str:
        """Run a command with the server's own client, ``command("SET", "key", "value")``.

        Args:
            input: Without words, commands, each on a line; all are run, and if one fails, that is
                raised. The answer is as the client shows it to people then.

        Raises:
            ExecError: It failed.
        """
        if not words:
            return self._run_lines(input or b"", "commands")
        result = self.exec([*self._client(), "-e", *words], input=input, check=True)
        return str(result.stdout.decode()).removesuffix("\n")

    def run_script(self, path: Path) -> None:
        """``.redis``: a command on each line; ``.sh`` for the shell of the container."""
        if path.name.endswith(".redis"):
            self._run_lines(path.read_bytes(), f"script {path.name}")
        else:
            super().run_script(path)

    def _run_lines(self, lines: bytes, title: str) -> str:
        """Run commands; the client itself ends with 0 whatever the server says to them."""
        result = self.exec([*self._client(), "--no-raw"], input=lines, check=True)
        said = str(result.stdout.decode(errors="replace"))
        refused = [one or other for one, other in _REFUSED.findall(said)]
        refused += result.stderr.decode(errors="replace").split("\n")[:1] if result.stderr else []
        if refused:
            raise ExecError(
                f"{title} in {self.name!r} failed: {refused[0]}",
                returncode=result.returncode, stdout=result.stdout, stderr=result.stderr,
            )  # fmt: skip
        return said.removesuffix("\n")

    def _client(self) -> list[str]:
        login = ["-a", self.password, "--no-auth-warning"] if self.password else []
        return [self.client, *login, *(["-n", self.database] if self.database else [])]


class Valkey(Redis):
    """A Valkey server; as `Redis`."""

    reference: ClassVar[str] = "valkey/valkey:8"
    programs: ClassVar[tuple[str, ...]] = ("valkey-server", "valkey-cli")
    packages: ClassVar[str] = "valkey-server"
    scheme: ClassVar[str] = "redis"  # what clients know it as
    client: ClassVar[str] = "valkey-cli"


class _Answers(wait.Talk):
    def answer(self, data: bytes) -> str | None:
        """Loaded, whoever may use it."""
        if data.startswith((b"+PONG", b"-NOAUTH")):
            return None
        return f"the answer was {data[:60]!r}"


_answers = _Answers(b"PING\r\n", 6379)
