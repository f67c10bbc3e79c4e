"""InfluxDB 1."""

from __future__ import annotations

import dataclasses
import http.client
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack
from urllib.parse import urlencode

from pytest_containers.model import wait
from pytest_containers.model.engine import Container
from pytest_containers.model.errors import ContainersError, hide_frames
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.service import Service
from pytest_containers.state.warm import Stage

if TYPE_CHECKING:
    from pytest_containers.services.options import InfluxDBFixture

__tracebackhide__ = hide_frames

_DATA = "/var/lib/own-influxdb"
_TIMEOUT_S = 30.0


class InfluxDB(Service):
    """An InfluxDB server of version 1, with one database.

    A seed can be an ``.lp`` script of points in the line protocol.

    Args:
        user, password: The administrator, as whom clients log in; an empty user requires no login.
            Also INFLUXDB_ADMIN_USER and INFLUXDB_ADMIN_PASSWORD of the official image.
        database: The database to make. Also INFLUXDB_DB of the official image.
        **options: See `Service`.
    """

    reference: ClassVar[str] = "influxdb:1.8"
    number: ClassVar[int] = 8086
    programs: ClassVar[tuple[str, ...]] = ("influxd",)
    packages: ClassVar[str] = "influxdb"
    scheme: ClassVar[str] = "http"
    scripts: ClassVar[tuple[str, ...]] = (".lp", ".sh")
    port_variables: ClassVar[tuple[str, ...]] = ("INFLUXDB_HTTP_BIND_ADDRESS",)

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[InfluxDBFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def __init__(
        self, *, user: str = "", password: str = "", database: str = "test", **options: Any
    ) -> None:
        super().__init__(**options)
        self.user: str = self.env.get("INFLUXDB_ADMIN_USER", user)
        self.password: str = self.env.get("INFLUXDB_ADMIN_PASSWORD", password)
        self.database: str = self.env.get("INFLUXDB_DB", database)

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the server."""
        env = {
            "INFLUXDB_META_DIR": f"{_DATA}/meta",
            "INFLUXDB_DATA_DIR": f"{_DATA}/data",
            "INFLUXDB_DATA_WAL_DIR": f"{_DATA}/wal",
            "INFLUXDB_HTTP_AUTH_ENABLED": "true" if self.user else "false",
            "INFLUXDB_REPORTING_DISABLED": "true",
            "INFLUXDB_MONITOR_STORE_ENABLED": "false",
            "HOME": "/root",
            **self.env,
        }
        ready = wait.http("/ping", port=self.number)
        command = ["influxd", "run"]
        if image.mounts:  # else it looks for its file by itself
            config = "/etc/influxdb/influxdb.conf"
            has_own = self.server_mounts().below("/etc/influxdb")
            command += ["-config", config if has_own else "/dev/null"]
        return self.spec(command, ready, env=env)

    def prepare(self, image: Image) -> Sequence[Stage]:
        """Return the stage of a first start, which makes the user and the database."""

        def act(container: Container) -> None:
            service = self.bound(container)
            if self.user:
                user, password = _name(self.user), _string(self.password)
                service.query(f"CREATE USER {user} WITH PASSWORD {password} WITH ALL PRIVILEGES")
            service.query(f"CREATE DATABASE {_name(self.database)}")

        parts = {"the service": self.known_by()}
        return [Stage("first start", self._first(image), act, parts, traced=False, clean=True)]

    def _first(self, image: Image) -> ContainerSpec:
        """Return the spec of a server that can be ended as soon as it is ready.

        It answers some instructions before it handles signals, which on a busy machine is long
        enough for a SIGTERM to end it at once, with exit code 2.
        """
        served = self.serve(image)
        ready = wait.all_of(wait.http("/ping", port=self.number), wait.log("Listening for signals"))
        env = {**served.env, "INFLUXDB_LOGGING_LEVEL": "info"}
        return dataclasses.replace(served, env=env, ready=ready)

    def url_at(self, host: str, port: int, driver: str | None = None) -> str:
        """Return the URL of the HTTP API, which takes database and login as parameters."""
        scheme = self.scheme if driver is None else f"{self.scheme}+{driver}"
        return f"{scheme}://{host}:{port}"

    def write(self, lines: str | bytes, *, precision: str = "ns") -> None:
        """Write points in the line protocol, one on each line: ``"room,floor=1 celsius=21.5"``.

        Args:
            precision: The unit of times: ``"ns"``, ``"u"``, ``"ms"``, ``"s"``, ``"m"`` or ``"h"``.

        Raises:
            ContainersError: The server refused a line; with its message.
        """
        body = lines.encode() if isinstance(lines, str) else lines
        self._request("/write", {"db": self.database, "precision": precision}, body)

    def query(self, text: str) -> list[dict[str, Any]]:
        """Run statements of InfluxQL and return their series, in order.

        Returns:
            The series, each a dictionary with ``name``, ``columns``, ``values`` and, for grouped
            results, ``tags``.

        Raises:
            ContainersError: A statement failed; with the message of the server.
        """
        form = urlencode({"q": text}).encode()
        answer = json.loads(self._request("/query", {"db": self.database}, form))
        series: list[dict[str, Any]] = []
        for result in answer.get("results", ()):
            if "error" in result:
                raise ContainersError(f"query in {self.name!r} failed: {result['error']}")
            series += result.get("series", ())
        return series

    def run_script(self, path: Path) -> None:
        """Run an ``.lp`` script, of points in the line protocol, or a ``.sh`` script."""
        if path.name.endswith(".lp"):
            self.write(path.read_bytes())
        else:
            super().run_script(path)

    def _request(self, path: str, parameters: dict[str, str], body: bytes) -> bytes:
        login = {"u": self.user, "p": self.password} if self.user else {}
        with self.container.connect(self.number, _TIMEOUT_S) as sock:
            sock.settimeout(_TIMEOUT_S)
            connection = http.client.HTTPConnection("localhost", self.number)
            connection.sock = sock
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", f"{path}?{urlencode(parameters | login)}", body, headers)
            response = connection.getresponse()
            data = response.read()
        if response.status >= 300:
            message = data.decode(errors="replace").strip()
            raise ContainersError(f"{path[1:]} in {self.name!r} failed: {message}")
        return data

    def version_command(self) -> list[str]:
        """Return the command that prints the version."""
        return ["influxd", "version"]


def _name(value: str) -> str:
    """Quote a name of InfluxQL."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _string(value: str) -> str:
    """Quote a string of InfluxQL."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
