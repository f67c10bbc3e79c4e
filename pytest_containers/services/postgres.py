"""PostgreSQL."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_containers import wait
from pytest_containers.errors import (
    SpecError,
    UnsupportedError,
    WaitTimeoutError,
    hide_frames,
)
from pytest_containers.images.image import Image
from pytest_containers.services.sql import SqlService
from pytest_containers.spec import ContainerSpec
from pytest_containers.state.warm import Stage

if TYPE_CHECKING:
    from pytest_containers.engines.native import Container

__tracebackhide__ = hide_frames

_LIB = Path("/usr/lib/postgresql")
_DATA, _SOCKET = "/var/lib/postgresql/data", "/var/run/postgresql"
# Packages keep versions side by side; $0 is the program.
_FIND = (
    "for d in /usr/bin /usr/lib/postgresql/*/bin; do [ -x $d/postgres ] && p=$d; done; "
    'exec "$p/$0" "$@"'
)
_BETWEEN = "\x1f\x1e\x1f"
_SAID, _PATIENCE_S = "database system is ready to accept connections", 1.0
_HBA = "local all all trust\nhost all all 127.0.0.1/32 trust\nhost all all all scram-sha-256\n"
# Only the method of passwords, at the end of lines.
_PLAINLY = r"s/^\(host.*\)\(scram-sha-256\|md5\)$/\1password/"


class Postgres(SqlService):
    """A PostgreSQL server.

    Args:
        user, password, database: Of its superuser, and the database that is made for it; as
            POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB of the official image.
        **options: See `Service`.
    """

    reference: ClassVar[str] = "postgres:17"
    number: ClassVar[int] = 5432
    programs: ClassVar[tuple[str, ...]] = ("postgres", "initdb", "psql")
    packages: ClassVar[str] = "postgresql"
    scheme: ClassVar[str] = "postgresql"
    port_options: ClassVar[tuple[str, ...]] = ("-p", "--port", "-c port")
    port_variables: ClassVar[tuple[str, ...]] = ("PGPORT",)
    # Nothing is synced; what is committed is in files nevertheless, for snapshots. And the first
    # write to a segment of 1 MB copies that and not 16.
    fast: ClassVar[tuple[str, ...]] = (
        "fsync=off", "full_page_writes=off", "wal_level=minimal",
        "max_wal_senders=0", "shared_buffers=32MB", "min_wal_size=2MB", "max_wal_size=1GB",
        "autovacuum=off", "bgwriter_lru_maxpages=0",
    )  # fmt: skip
    socket: ClassVar[str] = _SOCKET
    """The directory of its Unix socket, in the container."""

    def __init__(
        self, *, user: str = "test", password: str = "test", database: str = "test", **options: Any
    ) -> None:
        super().__init__(**options)
        self.user: str = self.env.get("POSTGRES_USER", user)
        self.password: str = self.env.get("POSTGRES_PASSWORD", password)
        self.database: str = self.env.get("POSTGRES_DB", database)

    # ------------------------------------------------------------------- start

    def source(self) -> str | Image:
        """See `Service.source`."""
        if not isinstance(self.image, str) or not self.image.startswith("host:"):
            return self.image
        found = _newest()
        if found is None:
            raise UnsupportedError(
                "Postgres of host: needs a PostgreSQL server on this machine: apt install "
                f"{self.packages}, or name an image",
                missing=["postgres"],
            )
        rest = self.image.partition(":")[2].lstrip("?")
        return "host:?" + "&".join([f"bin={found}/postgres", *([rest] if rest else [])])

    def serve(self, image: Image) -> ContainerSpec:
        """The server itself, without what an entrypoint does at a first start."""
        settings = ["listen_addresses=*", *(() if self.durable else self.fast)]
        words = [word for setting in settings for word in ("-c", setting)]
        own = () if self.is_packaged(image) else image.config.cmd[1:]
        return self.spec(
            [*self._program(image, "postgres"), "-D", _data(image), *words, *own], _Ready(),
            user="postgres", stop_signal="INT", env={**self.env, "PGDATA": _data(image)},
        )  # fmt: skip

    def prepare(self, image: Image) -> Sequence[Stage]:
        """initdb, the user and the database; by the image's entrypoint where it has one.

        An image that has a data directory, a snapshot mostly, keeps it; it must have the user and
        the database, and gets the password.
        """
        if self.is_packaged(image):
            spec = ContainerSpec(self.image, ["sleep", "infinity"], entrypoint=())
            act = self._initialise
        else:
            env = {
                "POSTGRES_USER": self.user, "POSTGRES_PASSWORD": self.password,
                "POSTGRES_DB": self.database, "POSTGRES_INITDB_ARGS": "--wal-segsize=1 --no-sync",
                **self.env,
            }  # fmt: skip
            # Asked over the network: entrypoints start a first server on the Unix socket only, and
            # that says that it is ready too.
            spec = ContainerSpec(
                self.image, env=env, ports=[self.number], ready=_Asked(), stop_signal="INT"
            )
            act = self._warm_up
        parts = {"the service": self.known_by()}
        entered = not self.is_packaged(image)
        return [Stage("initdb", spec, act, parts, traced=False, clean=entered)]

    def first_word(self) -> dict[str, Any]:
        """A first connection and statement: caches are filled, catalogues copied up."""
        login = b"user\0%s\0database\0%s\0\0" % (self.user.encode(), self.database.encode())
        start = struct.pack("!II", len(login) + 8, 196608) + login
        query = b"select 1\0"
        said = (
            start + b"Q" + struct.pack("!I", len(query) + 4) + query + b"X" + struct.pack("!I", 4)
        )
        return {"text": _SAID, "port": self.number, "data": base64.b64encode(said).decode()}

    def _initialise(self, container: Container) -> None:
        image = container.image
        data = _data(image)
        if container.exec(["test", "-e", f"{data}/PG_VERSION"]).returncode:
            self._make_data(container, data)
        else:
            # Of the server that the snapshot was taken from, if it was running.
            container.exec(["rm", "-f", f"{data}/postmaster.pid"], check=True)
        ctl = self._program(image, "pg_ctl")
        options = " ".join(self.serve(image).command or ()).partition(" -D ")[2].partition(" ")[2]
        container.exec(
            [*ctl, "-D", data, "-w", "-o", options, "-l", "/dev/null", "start"],
            user="postgres", check=True,
        )  # fmt: skip
        self._warm_up(container)
        container.exec([*ctl, "-D", data, "-w", "-m", "fast", "stop"], user="postgres", check=True)

    def _make_data(self, container: Container, data: str) -> None:
        image = container.image
        container.exec(["true"], user="postgres")  # says what is missing where there is one id only
        container.exec(
            ["install", "-d", "-o", "postgres", "-m", "0755", "/var/lib/postgresql", _SOCKET],
            check=True,
        )  # fmt: skip
        container.exec(
            [
                *self._program(image, "initdb"), f"--pgdata={data}", f"--username={self.user}",
                "--pwfile=/dev/stdin", "--auth=trust", "--no-sync", "--encoding=UTF8",
                "--locale=C.UTF-8", *(() if self.durable else ("--wal-segsize=1",)),
            ],
            user="postgres", input=f"{self.password}\n", text=True, check=True,
        )  # fmt: skip
        hba = f"{data}/pg_hba.conf"
        container.exec(
            ["sh", "-c", 'cat > "$0"', hba], user="postgres", input=_HBA, text=True, check=True
        )
        if self.database != "postgres":
            container.exec(
                [*self._program(image, "postgres"), "--single", "-D", data, "postgres"],
                user="postgres", input=f"CREATE DATABASE {quoted(self.database)}\n", text=True,
                check=True,
            )  # fmt: skip

    def _warm_up(self, container: Container) -> None:
        """Connect once: that leaves caches of the catalogue on the disk."""
        running = self.bound(container)
        if self.durable:
            running.sql("select 1")
            return
        # SCRAM costs the client 3 ms for each connection, 4096 rounds of a hash. A password that is
        # sent plainly, on a network of its own, is checked against one round.
        running.sql(f"ALTER USER {quoted(self.user)} PASSWORD '{_verifier(self.password)}'")
        hba = f"{_data(container.image)}/pg_hba.conf"
        container.exec(["sed", "-i", _PLAINLY, hba], user="postgres", check=True)

    def _program(self, image: Image, name: str) -> list[str]:
        if not self.is_packaged(image):
            return [name]
        if image.mounts:
            return [f"{_newest()}/{name}"]
        return ["sh", "-c", _FIND, name]

    # ------------------------------------------------------------------- running

    def sql(self, text: str | bytes, *, database: str | None = None) -> list[list[str]]:
        """Run SQL with psql, as its superuser; see `SqlService.sql`."""
        command = [
            *self._program(self.container.image, "psql"), "-h", _SOCKET, "-U", self.user,
            "-d", database or self.database, "-XqAt0", "-v", "ON_ERROR_STOP=1", "-F", _BETWEEN,
            "-f", "-",
        ]  # fmt: skip
        # Only as NUL does a separator end the last row of a result too, and no text contains it.
        rows = self._client(command, text, user="postgres").split("\0")
        return [row.split(_BETWEEN) for row in (rows if rows[-1] else rows[:-1])]

    def clone_database(self, name: str, template: str) -> None:
        """See `SqlService.clone_database`."""
        self.sql(f"CREATE DATABASE {quoted(name)} TEMPLATE {quoted(template)}", database="postgres")

    def drop_database(self, name: str) -> None:
        """See `SqlService.drop_database`."""
        self.sql(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)", database="postgres")

    def version_command(self) -> Sequence[str]:
        """See `Service.version_command`."""
        return [*self._program(self.container.image, "postgres"), "--version"]


def quoted(name: str) -> str:
    """An SQL identifier."""
    if "\0" in name or not name:
        raise SpecError(f"{name!r} cannot name a database")
    return '"' + name.replace('"', '""') + '"'


def _verifier(password: str) -> str:
    """What PostgreSQL keeps of a password (RFC 5803), with one round."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    client, server = (
        hmac.digest(salted, name, "sha256") for name in (b"Client Key", b"Server Key")
    )
    parts = (
        base64.b64encode(one).decode() for one in (salt, hashlib.sha256(client).digest(), server)
    )
    return "SCRAM-SHA-256$1:{}${}:{}".format(*parts)


def _newest() -> Path | None:
    """Where this machine has the newest server: packages keep versions side by side."""
    found = [path.parent for path in _LIB.glob("*/bin/postgres")]
    return max(
        found, key=lambda path: [int(part) for part in path.parts[-2].split(".")], default=None
    )


def _data(image: Image) -> str:
    return image.config.env.get("PGDATA", _DATA)


class _Asked(wait.Talk):
    """The server asks who we are, rather than say that it starts up (protocol.html, 53.2.1)."""

    def __init__(self) -> None:
        start = struct.pack("!I", 196608) + b"user\0readiness\0\0"
        super().__init__(struct.pack("!I", len(start) + 4) + start, 5432)

    def answer(self, data: bytes) -> str | None:
        """See `Talk.answer`."""
        if data[:1] == b"R":
            return None
        # An error whose SQLSTATE is not "cannot connect now" comes from a server that works.
        if data[:1] == b"E" and b"C57P03" not in data:
            return None
        return "it starts up"


class _Ready:
    """It says so in its log; where that goes elsewhere or speaks another language, it is asked.

    To ask costs the server a process, 2 ms in which it could have become ready.
    """

    def until(self, container: Any, deadline: wait.Deadline) -> None:
        """See `Wait.until`."""
        try:
            wait.log(_SAID).until(container, wait.Deadline(min(_PATIENCE_S, deadline.left_s)))
        except WaitTimeoutError:
            _Asked().until(container, deadline)
