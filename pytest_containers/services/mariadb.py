"""MariaDB and MySQL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_containers import wait
from pytest_containers.errors import SpecError, hide_frames
from pytest_containers.images.image import Image
from pytest_containers.services.sql import SqlService
from pytest_containers.spec import ContainerSpec
from pytest_containers.state.warm import Stage, nothing

if TYPE_CHECKING:
    from pytest_containers.engines.native import Container

__tracebackhide__ = hide_frames

_DATA, _SOCKET = "/var/lib/mysql", "/run/mysqld/mysqld.sock"


class MariaDB(SqlService):
    """A MariaDB server.

    Args:
        user, password, database: As MARIADB_USER, MARIADB_PASSWORD and MARIADB_DATABASE of the
            official image: the user owns the database.
        root_password: Of root.
        **options: See `Service`.
    """

    reference: ClassVar[str] = "mariadb:11"
    number: ClassVar[int] = 3306
    programs: ClassVar[tuple[str, ...]] = ("mariadbd", "mariadb", "mariadb-install-db")
    packages: ClassVar[str] = "mariadb-server"
    scheme: ClassVar[str] = "mysql"
    port_options: ClassVar[tuple[str, ...]] = ("-P", "--port")
    port_variables: ClassVar[tuple[str, ...]] = ("MYSQL_TCP_PORT",)
    # Nothing is synced; small files, since the first write to one copies it whole.
    fast: ClassVar[tuple[str, ...]] = (
        "--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=nosync",
        "--skip-innodb-doublewrite", "--skip-log-bin", "--sync-binlog=0",
        "--innodb-buffer-pool-size=32M", "--skip-innodb-buffer-pool-load-at-startup",
        "--skip-innodb-buffer-pool-dump-at-shutdown", "--key-buffer-size=1M",
        "--aria-pagecache-buffer-size=1M", "--performance-schema=OFF",
        "--innodb-temp-data-file-path=ibtmp1:1M:autoextend", "--skip-name-resolve",
    )  # fmt: skip
    sizes: ClassVar[tuple[str, ...]] = ("--innodb-log-file-size=4M",)
    prefix: ClassVar[str] = "MARIADB"
    socket: ClassVar[str] = _SOCKET
    """Its Unix socket, in the container."""

    def __init__(
        self,
        *,
        user: str = "test",
        password: str = "test",
        database: str = "test",
        root_password: str = "test",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.user: str = self._given("USER", user)
        self.password: str = self._given("PASSWORD", password)
        self.database: str = self._given("DATABASE", database)
        self.root_password: str = self._given("ROOT_PASSWORD", root_password)

    def _given(self, name: str, argument: str) -> str:
        return self.env.get(f"{self.prefix}_{name}", self.env.get(f"MYSQL_{name}", argument))

    # ------------------------------------------------------------------- start

    def serve(self, image: Image) -> ContainerSpec:
        """The server itself, without what an entrypoint does at a first start."""
        words = [
            "--no-defaults", "--user=mysql", f"--datadir={_DATA}", f"--socket={_SOCKET}",
            "--bind-address=*", "--port=3306", "--pid-file=/run/mysqld/own.pid",
            *(() if self.durable else (*self.fast, *self.sizes)),
        ]  # fmt: skip
        return self.spec([self.programs[0], *words], _Ready(), env=self.env)

    def prepare(self, image: Image) -> Sequence[Stage]:
        """The data directory, users and the database; an image that has them keeps its own."""
        parts = {"the service": self.known_by(), "root": repr(self.root_password)}
        if self.is_packaged(image):
            spec = ContainerSpec(self.image, ["sleep", "infinity"], entrypoint=())
            return [Stage("install", spec, self._install, parts, traced=False)]
        env = {
            f"{self.prefix}_{name}": value
            for name, value in (
                ("USER", self.user), ("PASSWORD", self.password), ("DATABASE", self.database),
                ("ROOT_PASSWORD", self.root_password),
            )
        }  # fmt: skip
        command = [self.programs[0], *(() if self.durable else (*self.fast, *self.sizes))]
        spec = ContainerSpec(
            self.image, command, env={**env, **self.env}, ports=[self.number], ready=_Ready()
        )
        return [Stage("install", spec, nothing, parts, traced=False, clean=True)]

    def _install(self, container: Container) -> None:
        container.exec(["true"], user="mysql")  # says what is missing where there is one id only
        made = ["install", "-d", "-o", "mysql", "-g", "mysql", _DATA, "/run/mysqld"]
        container.exec(made, check=True)
        if _has_database(container, self.database):
            return
        container.exec(self._install_command(), check=True)
        served = self.serve(container.image)
        statements = "".join(f"{one};\n" for one in self._first_statements())
        first = [*(served.command or ()), "--bootstrap"]
        container.exec(first, input=statements, text=True, check=True)

    def _install_command(self) -> list[str]:
        return [
            "mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={_DATA}",
            "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve",
            *(() if self.durable else self.sizes),
        ]  # fmt: skip

    def _first_statements(self) -> list[str]:
        user, database = literal(self.user), identifier(self.database)
        return [
            "FLUSH PRIVILEGES",
            f"CREATE DATABASE {database}",
            f"CREATE USER {user}@'%' IDENTIFIED BY {literal(self.password)}",
            f"GRANT ALL ON *.* TO {user}@'%' WITH GRANT OPTION",
            f"ALTER USER root@localhost IDENTIFIED BY {literal(self.root_password)}",
        ]

    # ----------------------------------------------------------------- running

    def sql(self, text: str | bytes, *, database: str | None = None) -> list[list[str]]:
        """Run SQL as its user with the server's own client; see `SqlService.sql`."""
        command = [
            self.programs[1], "--no-defaults", f"--socket={_SOCKET}", f"--user={self.user}",
            "--batch", "--skip-column-names", "--default-character-set=utf8mb4",
            self.database if database is None else database,
        ]  # fmt: skip
        # Not splitlines(): the client escapes a newline and none of what Unicode takes for one.
        lines = self._client(command, text, env={"MYSQL_PWD": self.password}).split("\n")
        return [
            ["" if field == "NULL" else _unescaped(field) for field in line.split("\t")]
            for line in lines[:-1]
        ]

    def clone_database(self, name: str, template: str) -> None:
        """Through a dump: this server has no templates."""
        self.sql(f"CREATE DATABASE {identifier(name)}", database="")
        dump, client = f"{self.programs[1]}-dump", self.programs[1]
        if client == "mysql":
            dump = "mysqldump"
        login = f'--no-defaults --socket={_SOCKET} --user="$1"'
        dumped = f'{dump} {login} --routines --triggers --single-transaction "$2"'
        self.exec(
            ["sh", "-ec", f'{dumped} | {client} {login} "$3"', "clone", self.user, template, name],
            env={"MYSQL_PWD": self.password}, check=True,
        )  # fmt: skip

    def drop_database(self, name: str) -> None:
        """See `SqlService.drop_database`."""
        self.sql(f"DROP DATABASE IF EXISTS {identifier(name)}", database="")


class MySQL(MariaDB):
    """A MySQL server; as `MariaDB`, with MYSQL_USER and so on."""

    reference: ClassVar[str] = "mysql:8"
    programs: ClassVar[tuple[str, ...]] = ("mysqld", "mysql")
    packages: ClassVar[str] = "mysql-server"
    prefix: ClassVar[str] = "MYSQL"
    fast: ClassVar[tuple[str, ...]] = (
        "--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=nosync",
        "--skip-innodb-doublewrite", "--skip-log-bin", "--innodb-buffer-pool-size=32M",
        "--innodb-buffer-pool-load-at-startup=OFF", "--innodb-buffer-pool-dump-at-shutdown=OFF",
        "--key-buffer-size=1M", "--performance-schema=OFF", "--skip-name-resolve",
        "--innodb-temp-data-file-path=ibtmp1:5M:autoextend", "--mysqlx=OFF",
    )  # fmt: skip
    sizes: ClassVar[tuple[str, ...]] = ("--innodb-redo-log-capacity=8M",)

    def _install_command(self) -> list[str]:
        sizes = () if self.durable else self.sizes
        words = ["--no-defaults", "--initialize-insecure", "--user=mysql", f"--datadir={_DATA}"]
        return ["mysqld", *words, *sizes]

    def _install(self, container: Container) -> None:
        container.exec(["true"], user="mysql")  # says what is missing where there is one id only
        made = ["install", "-d", "-o", "mysql", "-g", "mysql", _DATA, "/run/mysqld"]
        container.exec(made, check=True)
        if _has_database(container, self.database):
            return
        container.exec(self._install_command(), check=True)
        statements = "".join(f"{one};\n" for one in self._first_statements()[1:])
        path = "/run/mysqld/first.sql"
        container.write_text(path, statements)
        served = " ".join(self.serve(container.image).command or ())
        start = (
            f"{served} --skip-networking --init-file={path} & pid=$!; "
            f"until mysqladmin --no-defaults --socket={_SOCKET} --user={self.user} ping; "
            "do kill -0 $pid; sleep 0.1; done; kill $pid; wait $pid; rm " + path
        )
        env = {"MYSQL_PWD": self.password}
        container.exec(["sh", "-ec", start], env=env, check=True)


def identifier(name: str) -> str:
    """An SQL identifier."""
    if "\0" in name or not name:
        raise SpecError(f"{name!r} cannot name a database")
    return "`" + name.replace("`", "``") + "`"


def literal(text: str) -> str:
    """An SQL string."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _has_database(container: Container, name: str) -> bool:
    """Whether it was made before: a package's own data directory has system databases only."""
    # As the server names directories.
    folder = re.sub(r"[^A-Za-z0-9_]", lambda found: f"@{ord(found[0]):04x}", name)
    return container.exec(["test", "-d", f"{_DATA}/{folder}"]).returncode == 0


def _unescaped(field: str) -> str:
    known = {"\\n": "\n", "\\t": "\t", "\\0": "\0", "\\\\": "\\"}
    if "\\" not in field:
        return field
    parts, at = [], 0
    while at < len(field):
        pair = field[at : at + 2]
        parts.append(known.get(pair, field[at]))
        at += 2 if pair in known else 1
    return "".join(parts)


class _Ready(wait.Talk):
    """It greets with version 10 of its protocol, or says that it does not let us in."""

    def __init__(self) -> None:
        super().__init__(b"", 3306)

    def answer(self, data: bytes) -> str | None:
        """See `Talk.answer`."""
        return None if data[4:5] == b"\x0a" else f"the answer was {data[:60]!r}"
