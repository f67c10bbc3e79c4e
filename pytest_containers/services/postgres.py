"""PostgreSQL."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import os
import shlex
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack
from urllib.parse import quote

from pytest_containers.model import wait
from pytest_containers.model.arguments import check
from pytest_containers.model.command import command_words
from pytest_containers.model.engine import Container
from pytest_containers.model.errors import (
    SpecError,
    UnsupportedError,
    WaitTimeoutError,
    hide_frames,
)
from pytest_containers.model.image import Image
from pytest_containers.model.reports import Warmup
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services import checks
from pytest_containers.services.certificates import CERTIFICATE, KEY
from pytest_containers.services.extensions import PRELOADED, create_extensions
from pytest_containers.services.init_scripts import run_scripts
from pytest_containers.services.mounted import outside_volumes
from pytest_containers.services.sql import SqlService
from pytest_containers.services.steps import maker_of, run_step
from pytest_containers.state.facts import Inputs
from pytest_containers.state.warm import Stage

if TYPE_CHECKING:
    from pytest_containers.services.options import PostgresFixture


__tracebackhide__ = hide_frames

_LIB = Path("/usr/lib/postgresql")
_DATA, _SOCKET = "/var/lib/postgresql/data", "/var/run/postgresql"
_OWN_DATA = "/var/lib/own-postgresql/data"
"""Instead of a volume of the image that each container would begin with a copy of."""
# Packages install versions side by side; $0 is the program.
_FIND = (
    "for d in /usr/bin /usr/lib/postgresql/*/bin; do [ -x $d/postgres ] && p=$d; done; "
    'exec "$p/$0" "$@"'
)
_SEPARATOR = "\x1f\x1e\x1f"
_READY_LINE, _LOG_TIMEOUT_S = "database system is ready to accept connections", 1.0
_SCRAM = "scram-sha-256"
_LOG = "/tmp/pytest-containers-server.log"
# For the server of the first start: what tells why it failed, and lets `sql` in.
_FIRST_START = ("listen_addresses=", "logging_collector=off")
_VARIABLES = frozenset(
    f"POSTGRES_{name}" for name in ("USER", "PASSWORD", "DB", "INITDB_ARGS", "HOST_AUTH_METHOD")
)
# Replaces the password method at the end of a line.
_PLAIN_PASSWORDS = r"s/^\(host.*\)\(scram-sha-256\|md5\)$/\1password/"


class Postgres(SqlService):
    """A PostgreSQL server.

    Args:
        user, password, database: The superuser, its password and its database: the values of
            POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB of the official image. An empty
            database is that of the user's name, as there.
        extensions: Extensions to create in the database: ``["citext", "vector"]``.
        **options: See `Service`.
    """

    reference: ClassVar[str] = "postgres:17"
    number: ClassVar[int] = 5432
    programs: ClassVar[tuple[str, ...]] = ("postgres", "initdb", "psql")
    packages: ClassVar[str] = "postgresql"
    scheme: ClassVar[str] = "postgresql"
    port_options: ClassVar[tuple[str, ...]] = ("-p", "--port", "-c port")
    port_variables: ClassVar[tuple[str, ...]] = ("PGPORT",)
    has_tls: ClassVar[bool] = True
    server_user: ClassVar[str] = "postgres"
    data_folders: ClassVar[tuple[str, ...]] = (_DATA, "/var/lib/postgresql")
    refused_variables: ClassVar[Mapping[str, str]] = {
        "POSTGRES_*_FILE": "pass the value itself, as user=, password= or database=",
    }
    # Nothing is synced, but commits are written to files, for snapshots. WAL segments of 1 MB
    # instead of 16 make the first write to one cheaper: the overlay copies the whole file.
    fast: ClassVar[tuple[str, ...]] = (
        "fsync=off", "full_page_writes=off", "wal_level=minimal",
        "max_wal_senders=0", "shared_buffers=32MB", "min_wal_size=2MB", "max_wal_size=1GB",
        "autovacuum=off", "bgwriter_lru_maxpages=0",
    )  # fmt: skip
    socket: ClassVar[str] = _SOCKET
    """The directory of the Unix socket in the container."""

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[PostgresFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def __init__(
        self,
        *,
        user: str = "containers",
        password: str = "containers",
        database: str = "",
        extensions: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check(type(self).__name__, extensions=extensions)
        self.user: str = self.env.get("POSTGRES_USER") or user
        self.password: str = self.env.get("POSTGRES_PASSWORD", password)
        self.database: str = self.env.get("POSTGRES_DB") or database or self.user
        self.extensions: tuple[str, ...] = tuple(extensions)

    # ------------------------------------------------------------------- start

    def source(self) -> str | Image:
        """Return the image, or its reference; see `Service.source`."""
        if not isinstance(self.image, str) or not self.image.startswith("host:"):
            return self.image
        bin_directory = _newest_bin()
        if bin_directory is None:
            raise UnsupportedError(
                "Postgres of host: needs a PostgreSQL server on this machine: apt install "
                f"{self.packages}, or name an image",
                missing=["postgres"],
            )
        query = self.image.partition(":")[2].lstrip("?")
        return "host:?" + "&".join([f"bin={bin_directory}/postgres", *([query] if query else [])])

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the server, without the first-start work of an entrypoint."""
        options = _settings(*self._settings(), *(() if self.durable else self.fast))
        image_options = () if self.is_packaged(image) else image.config.cmd[1:]
        data = self._data(image)
        return self.spec(
            [*self._program(image, "postgres"), "-D", data, *options, *image_options],
            _PostgresReady(),
            user="postgres",
            stop_signal="INT",
            env=self._env(image),
        )

    def _settings(self) -> list[str]:
        # A mounted configuration may have other values for the first three.
        settings = ["listen_addresses=*", "port=5432", f"unix_socket_directories={_SOCKET}"]
        if self.tls:
            settings += ["ssl=on", f"ssl_cert_file={CERTIFICATE}", f"ssl_key_file={KEY}"]
        preloaded = [name for name in self.extensions if name in PRELOADED]
        return settings + ([f"shared_preload_libraries={','.join(preloaded)}"] if preloaded else [])

    def _data(self, image: Image) -> str:
        given = self.env.get("PGDATA")
        data = image.config.env.get("PGDATA") or _DATA
        return given or outside_volumes(image, data, _OWN_DATA)

    def _env(self, image: Image) -> dict[str, str]:
        env = {**self.env, "PGDATA": self._data(image)}
        if image.mounts:  # psql and others are wrappers in /usr/bin
            path = image.config.env.get("PATH", "/usr/bin:/bin")
            env.setdefault("PATH", f"{_newest_bin()}:{path}")
        return env

    def client_env(self) -> dict[str, str]:
        """Return the variables of libpq, and those that init scripts use."""
        return {
            "PGHOST": _SOCKET,
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": self.database,
            "POSTGRES_USER": self.user,
            "POSTGRES_PASSWORD": self.password,
            "POSTGRES_DB": self.database,
        }

    def url_query(self, driver: str | None) -> str:
        """Return the options of libpq for TLS; other drivers have other names for them."""
        if not self.tls or (driver is not None and not driver.startswith("psycopg")):
            return ""
        return f"sslmode=verify-full&sslrootcert={quote(self.sslrootcert, safe='')}"

    def known_by(self) -> str:
        """Return the part of the cache key that covers the options and the code."""
        return f"{super().known_by()} {self.extensions}"

    def prepare(self, image: Image) -> Sequence[Stage]:
        """Return the stage of initdb, the user and the database, run by the entrypoint if any.

        An image with a data directory (usually a snapshot) keeps it: it must have the user and the
        database, and the password is set.
        """
        mounts = self.server_mounts()
        if self.is_packaged(image):
            checks.check_packaged(type(self), self.env, ("POSTGRES_",), _VARIABLES)
            spec = dataclasses.replace(
                self.idle(image), env={**self.client_env(), **self._env(image)}
            )
            act = self._initialise
        else:
            given = self.env.get("POSTGRES_INITDB_ARGS", "")
            env = {
                **self.client_env(),
                **self.env,
                "PGDATA": self._data(image),
                "POSTGRES_INITDB_ARGS": f"--wal-segsize=1 --no-sync {given}".rstrip(),
            }
            # The entrypoint connects to the socket of a first server, as any first start does;
            # libpq's variables would lead its programs elsewhere.
            for name in ("PGHOST", "PGUSER", "PGPASSWORD", "PGDATABASE"):
                if name not in self.env:
                    del env[name]
            # Checked over the network: the entrypoint first starts a server on the Unix socket
            # only, which logs that it is ready too.
            first = _settings(f"hba_file={self._data(image)}/pg_hba.conf", "logging_collector=off")
            spec = ContainerSpec(
                self.image,
                [*(image.config.cmd or ("postgres",)), *self._install_options(), *first],
                env=env,
                ports=[self.number],
                ready=_PostgresResponse(),
                stop_signal="INT",
                mounts=mounts.stored,
            )
            act = self._warm_up
        parts = {"the service": self.known_by()}
        has_entrypoint = not self.is_packaged(image)
        return [
            Stage(
                "initdb",
                spec,
                act,
                parts,
                traced=False,
                inputs=Inputs(mounts.scripts, self.folder),
                clean=has_entrypoint,
            )
        ]

    def _install_options(self) -> list[str]:
        return [*_settings(*self._settings()), *self.arguments]

    def warmup(self) -> Warmup:
        """Return a first connection and statement, which fill caches and copy up catalogues."""
        login = b"user\0%s\0database\0%s\0\0" % (self.user.encode(), self.database.encode())
        start = struct.pack("!II", len(login) + 8, 196608) + login
        query = b"select 1\0"
        request = (
            start + b"Q" + struct.pack("!I", len(query) + 4) + query + b"X" + struct.pack("!I", 4)
        )
        return Warmup(_READY_LINE, self.number, base64.b64encode(request).decode())

    def _initialise(self, container: Container) -> None:
        data = self._data(container.image)
        first = container.exec(["test", "-e", f"{data}/PG_VERSION"]).returncode != 0
        if first:
            self._make_data(container, data)
        else:
            # A snapshot of a running server has its pid files, whose number another process has.
            files = f"rm -f {data}/postmaster.pid {_SOCKET}/.s.PGSQL.*.lock"
            container.exec(["sh", "-c", files], check=True)
        ctl = [*self._program(container.image, "pg_ctl"), "-D", data, "-w"]
        options = [
            *_settings(*(() if self.durable else self.fast)),
            *self._install_options(),
            *_settings(f"hba_file={data}/pg_hba.conf", *_FIRST_START),
        ]
        start = [*ctl, "-o", shlex.join(options), "-l", _LOG, "start"]
        run_step(container, "the first start of PostgreSQL", start, user="postgres", log=_LOG)
        self._warm_up(container, scripts=first)
        stop = [*ctl, "-m", "fast", "stop"]
        run_step(container, "the end of PostgreSQL", stop, user="postgres", log=_LOG)
        container.exec(["rm", "-f", _LOG], check=True)

    def _make_data(self, container: Container, data: str) -> None:
        image = container.image
        maker = maker_of(container, "postgres")
        folders = self.server_mounts().free(["/var/lib/postgresql", _SOCKET])
        for mode, paths in (("0755", folders), ("0700", [data])):
            install = ["install", "-d", "-o", "postgres", "-m", mode, *paths]
            container.exec(install, user=maker, check=True)
        command = [
            *self._program(image, "initdb"),
            f"--pgdata={data}",
            f"--username={self.user}",
            "--pwfile=/dev/stdin",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            *(() if self.durable else ("--wal-segsize=1",)),
            *self._initdb_arguments(),
        ]
        run_step(container, "initdb", command, user="postgres", input=f"{self.password}\n".encode())
        method = self.env.get("POSTGRES_HOST_AUTH_METHOD") or _SCRAM
        line = f"\nhost all all all {method}\n".encode()
        append = ["sh", "-c", 'cat >> "$0"', f"{data}/pg_hba.conf"]
        container.exec(append, user="postgres", input=line, check=True)
        if self.database != "postgres":
            single = [*self._program(image, "postgres"), "--single", "-D", data, "postgres"]
            statement = f"CREATE DATABASE {quoted(self.database)}\n".encode()
            run_step(container, "CREATE DATABASE", single, user="postgres", input=statement)

    def _warm_up(self, container: Container, *, scripts: bool = False) -> None:
        """Connect once, which writes caches of the catalogue to disk."""
        running = self.bound(container)
        # SCRAM costs the client 3 ms for each connection: 4096 rounds of a hash. A plain password,
        # sent over a private network, is checked with one round.
        if self.durable or self._chooses_authentication():
            running.sql("select 1")
        else:
            running.sql(f"ALTER USER {quoted(self.user)} PASSWORD '{_verifier(self.password)}'")
            hba = f"{self._data(container.image)}/pg_hba.conf"
            container.exec(["sed", "-i", _PLAIN_PASSWORDS, hba], user="postgres", check=True)
        if scripts:
            run_scripts(running, "postgres")
        create_extensions(running, self.extensions)

    def _chooses_authentication(self) -> bool:
        return "POSTGRES_HOST_AUTH_METHOD" in self.env or any(
            argument.startswith(("-A", "--auth")) for argument in self._initdb_arguments()
        )

    def _initdb_arguments(self) -> list[str]:
        arguments = self.env.get("POSTGRES_INITDB_ARGS", "")
        return command_words(arguments, "POSTGRES_INITDB_ARGS")

    def run_init_sql(self, title: str, sql: bytes) -> None:
        """Run the SQL of a script; see `init_scripts.run_scripts`."""
        psql = [*self._program(self.container.image, "psql"), "-v", "ON_ERROR_STOP=1", "-X"]
        command = [*psql, "--no-password", "-f", "-"]
        run_step(self.container, title, command, user="postgres", input=sql)

    def _program(self, image: Image, name: str) -> list[str]:
        if not self.is_packaged(image):
            return [name]
        if image.mounts:
            return [f"{_newest_bin()}/{name}"]
        return ["sh", "-c", _FIND, name]

    # ------------------------------------------------------------------- running

    def sql(self, text: str | bytes, *, database: str | None = None) -> list[list[str]]:
        """Run SQL with psql, as the superuser; see `SqlService.sql`."""
        command = [
            *self._program(self.container.image, "psql"),
            "-h",
            _SOCKET,
            "-U",
            self.user,
            "-d",
            database or self.database,
            "-XqAt0",
            "-v",
            "ON_ERROR_STOP=1",
            "-F",
            _SEPARATOR,
            "-f",
            "-",
        ]
        # With NUL as the separator, the last row ends with it as well, and no value contains it.
        rows = self._client(command, text, user="postgres").split("\0")
        return [row.split(_SEPARATOR) for row in (rows if rows[-1] else rows[:-1])]

    def clone_database(self, name: str, template: str) -> None:
        """Copy a database; see `SqlService.clone_database`."""
        self.sql(f"CREATE DATABASE {quoted(name)} TEMPLATE {quoted(template)}", database="postgres")

    def drop_database(self, name: str) -> None:
        """Remove a database; see `SqlService.drop_database`."""
        self.sql(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)", database="postgres")

    def version_command(self) -> Sequence[str]:
        """Return the command that prints the version."""
        return [*self._program(self.container.image, "postgres"), "--version"]


def quoted(name: str) -> str:
    """Return a name as a quoted SQL identifier."""
    if "\0" in name or not name:
        raise SpecError(f"{name!r} cannot name a database")
    return '"' + name.replace('"', '""') + '"'


def _verifier(password: str) -> str:
    """Return the SCRAM verifier of a password (RFC 5803), with one round."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    client, server = (
        hmac.digest(salted, name, "sha256") for name in (b"Client Key", b"Server Key")
    )
    parts = (
        base64.b64encode(value).decode()
        for value in (salt, hashlib.sha256(client).digest(), server)
    )
    return "SCRAM-SHA-256$1:{}${}:{}".format(*parts)


def _newest_bin() -> Path | None:
    """Return the directory of the newest server of this machine, or None."""
    directories = [path.parent for path in _LIB.glob("*/bin/postgres")]
    return max(
        directories,
        key=lambda path: [int(part) for part in path.parts[-2].split(".")],
        default=None,
    )


def _settings(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("-c", setting)]


class _PostgresResponse(wait.Talk):
    """A wait for an authentication request, instead of "is starting up" (protocol.html 53.2.1)."""

    def __init__(self) -> None:
        start = struct.pack("!I", 196608) + b"user\0readiness\0\0"
        super().__init__(struct.pack("!I", len(start) + 4) + start, 5432)

    def answer(self, data: bytes) -> str | None:
        """Check the response; see `Talk.answer`."""
        if data[:1] == b"R":
            return None
        # Any SQLSTATE but "cannot connect now" comes from a server that is ready.
        if data[:1] == b"E" and b"C57P03" not in data:
            return None
        return "the server is starting up"


class _PostgresReady:
    """A wait for the line in the log; after a second without it, for a response.

    The log may go elsewhere or be in another language. A connection, however, costs the starting
    server 2 ms for a process.
    """

    def until(self, container: Any, deadline: wait.Deadline) -> None:
        """Wait for the log line, and then for a response."""
        try:
            limit_s = min(_LOG_TIMEOUT_S, deadline.left_s)
            wait.log(_READY_LINE).until(container, wait.Deadline(limit_s))
        except WaitTimeoutError:
            _PostgresResponse().until(container, deadline)
