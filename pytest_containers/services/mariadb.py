"""MariaDB and MySQL."""

from __future__ import annotations

import posixpath
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pytest_containers.model import wait
from pytest_containers.model.engine import Container
from pytest_containers.model.errors import SpecError, hide_frames
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services import checks
from pytest_containers.services.certificates import AUTHORITY, CERTIFICATE, KEY
from pytest_containers.services.init_scripts import run_scripts
from pytest_containers.services.mounted import outside_volumes
from pytest_containers.services.sql import SqlService
from pytest_containers.services.steps import require_ids, run_step
from pytest_containers.state.facts import Inputs
from pytest_containers.state.warm import Stage

if TYPE_CHECKING:
    from pytest_containers.services.options import MariaDBFixture


__tracebackhide__ = hide_frames

_DATA, _OWN_DATA = "/var/lib/mysql", "/var/lib/own-mysql"
_SOCKET = "/run/mysqld/mysqld.sock"
_PID, _LOG = "/run/mysqld/own.pid", "/tmp/pytest-containers-server.log"
_CLIENT, _OPTIONS = "/root/.my.cnf", "/etc/pytest-containers.cnf"
_CONFIGURATION = ("/etc/mysql", "/etc/my.cnf", "/etc/my.cnf.d")
_HEEDED = (
    "USER", "PASSWORD", "DATABASE", "ROOT_PASSWORD", "ROOT_HOST", "ALLOW_EMPTY_PASSWORD",
    "ALLOW_EMPTY_ROOT_PASSWORD", "RANDOM_ROOT_PASSWORD", "INITDB_SKIP_TZINFO", "AUTO_UPGRADE",
    "DISABLE_UPGRADE_BACKUP",
)  # fmt: skip
# The programs of this machine take the user's id before they begin rather than on their own: where
# the process engine runs them, a server that does it afterwards cannot open its port.
_AS_USER = """
[ "$(id -u)" -ne 0 ] || set -- setpriv --reuid=mysql --regid=mysql --init-groups "$@"
exec "$@"
"""
# $0 is the log, $1 to … the server: it is started, and its end awaited if it does not answer.
_START = (
    'log=$0; "$@" > "$log" 2>&1 & pid=$!; '
    f"until [ -S {_SOCKET} ] && [ -s {_PID} ]; do kill -0 $pid || exit 1; sleep 0.05; done"
)
# Nobody waits for it there, so it stays as a zombie.
_STOP = (
    f"pid=$(cat {_PID}); kill $pid; "
    "while grep -q '^State:.[^Z]' /proc/$pid/status 2>/dev/null; do sleep 0.05; done"
)


class MariaDB(SqlService):
    """A MariaDB server.

    Args:
        user, password, database: The values of MARIADB_USER, MARIADB_PASSWORD and MARIADB_DATABASE
            of the official image; the user owns the database.
        root_password: The password of root.
        **options: See `Service`.
    """

    reference: ClassVar[str] = "mariadb:11"
    number: ClassVar[int] = 3306
    programs: ClassVar[tuple[str, ...]] = ("mariadbd", "mariadb", "mariadb-install-db")
    packages: ClassVar[str] = "mariadb-server"
    scheme: ClassVar[str] = "mysql"
    port_options: ClassVar[tuple[str, ...]] = ("-P", "--port")
    port_variables: ClassVar[tuple[str, ...]] = ("MYSQL_TCP_PORT",)
    has_tls: ClassVar[bool] = True
    server_user: ClassVar[str] = "mysql"
    data_folders: ClassVar[tuple[str, ...]] = (_DATA,)
    refused_variables: ClassVar[Mapping[str, str]] = {
        "MARIADB_*_FILE": "pass the value itself, as password= or root_password=",
        "MYSQL_*_FILE": "pass the value itself, as password= or root_password=",
        "MARIADB_*PASSWORD_HASH": "a hash lets nobody in who has no password; pass password= or "
        "root_password=",
    }
    # Nothing is synced; small files, since the first write to one copies it whole. The kernel takes
    # 40 ms to end a process with native AIO, and containers may not use io_uring.
    fast: ClassVar[tuple[str, ...]] = (
        "--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=nosync",
        "--skip-innodb-doublewrite", "--skip-log-bin", "--sync-binlog=0",
        "--innodb-buffer-pool-size=32M", "--skip-innodb-buffer-pool-load-at-startup",
        "--skip-innodb-buffer-pool-dump-at-shutdown", "--key-buffer-size=1M",
        "--aria-pagecache-buffer-size=1M", "--performance-schema=OFF",
        "--innodb-temp-data-file-path=ibtmp1:1M:autoextend", "--innodb-use-native-aio=0",
        "--skip-name-resolve",
    )  # fmt: skip
    sizes: ClassVar[tuple[str, ...]] = ("--innodb-log-file-size=4M",)
    prefix: ClassVar[str] = "MARIADB"
    title: ClassVar[str] = "MariaDB"
    socket: ClassVar[str] = _SOCKET
    """The Unix socket in the container."""

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[MariaDBFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def __init__(
        self,
        *,
        user: str = "containers",
        password: str = "containers",
        database: str = "containers",
        root_password: str = "containers",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.user: str = self._configured("USER", user)
        self.password: str = self._configured("PASSWORD", password)
        self.database: str = self._configured("DATABASE", database)
        empty = self._configured("ALLOW_EMPTY_ROOT_PASSWORD", "") or self._configured(
            "ALLOW_EMPTY_PASSWORD", ""
        )
        self.root_password: str = self._configured("ROOT_PASSWORD", "" if empty else root_password)
        self._data_of_arguments: str = self._asked_data()

    def _configured(self, name: str, argument: str) -> str:
        return self.env.get(f"{self.prefix}_{name}", self.env.get(f"MYSQL_{name}", argument))

    def known_by(self) -> str:
        """Return the part of the cache key that covers the options and the code."""
        return f"{super().known_by()} {self._configurations()}"

    # ------------------------------------------------------------------- start

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the server, without the first-start work of an entrypoint."""
        arguments = [
            self._defaults(),
            "--user=mysql",
            f"--datadir={self._data(image)}",
            f"--socket={_SOCKET}",
            "--bind-address=*",
            "--port=3306",
            f"--pid-file={_PID}",
            *(self._tls_options() if self.tls else ()),
            *(() if self.durable else (*self.fast, *self.sizes)),
        ]
        words = [self.programs[0], *arguments]
        if image.mounts and shutil.which("setpriv"):
            words = ["sh", "-c", _AS_USER, "sh", *words]
        return self.spec(words, _MariaDBReady(), env=self.env)

    def _asked_data(self) -> str:
        """Return the directory of the data that the arguments ask for; "" if they ask for none.

        Raises:
            SpecError: It is not an absolute path.
        """
        words = "\0".join(["", *self.arguments, ""])
        folders: list[str] = re.findall(r"\0(?:--datadir[\0=]|-h\0?)([^\0]*)", words)
        if folders and not folders[-1].startswith("/"):
            raise SpecError(
                f"{type(self).__name__}: --datadir={folders[-1]} is not usable; it must be an "
                "absolute path in the container"
            )
        return folders[-1] if folders else ""

    def _data(self, image: Image) -> str:
        return self._data_of_arguments or outside_volumes(image, _DATA, _OWN_DATA)

    def _defaults(self) -> str:
        return f"--defaults-file={_OPTIONS}" if self._configurations() else "--no-defaults"

    @staticmethod
    def _tls_options() -> list[str]:
        return [f"--ssl-ca={AUTHORITY}", f"--ssl-cert={CERTIFICATE}", f"--ssl-key={KEY}"]

    def _configurations(self) -> list[str]:
        """Return the mounted files and directories of configuration."""
        mounts = self.server_mounts()
        return [target for folder in _CONFIGURATION for target in mounts.below(folder)]

    def prepare(self, image: Image) -> Sequence[Stage]:
        """Return the stage that makes the data directory, unless the image has one."""
        parts = {"the service": self.known_by(), "root": repr(self.root_password)}
        mounts = self.server_mounts()
        inputs = Inputs(mounts.scripts, self.folder)
        if self.is_packaged(image):
            prefixes = ("MARIADB_", "MYSQL_")
            heeded = {f"{prefix}{name}" for prefix in prefixes for name in _HEEDED}
            heeded |= {"MYSQL_PWD", "MYSQL_UNIX_PORT"}
            checks.check_packaged(type(self), self.env, prefixes, heeded)
            spec = self.idle(image)
            return [Stage("install", spec, self._install, parts, traced=False, inputs=inputs)]
        env = {
            f"{self.prefix}_{name}": value
            for name, value in (
                ("USER", self.user),
                ("PASSWORD", self.password),
                ("DATABASE", self.database),
                ("ROOT_PASSWORD", self.root_password),
            )
            if value
        }
        if not self.root_password:
            env[f"{self.prefix}_ALLOW_EMPTY_{'ROOT_' * (self.prefix == 'MARIADB')}PASSWORD"] = "1"
        command = [
            self.programs[0],
            f"--datadir={self._data(image)}",
            *(() if self.durable else (*self.fast, *self.sizes)),
        ]
        spec = ContainerSpec(
            self.image,
            [*command, *self.arguments],
            env={**env, **self.env},
            ports=[self.number],
            ready=_MariaDBReady(),
            mounts=mounts.stored,
        )
        return [
            Stage("install", spec, self._configure, parts, traced=False, inputs=inputs, clean=True)
        ]

    def _install(self, container: Container) -> None:
        require_ids(container, self.title)
        data = self._data(container.image)
        _make_directories(container, self.server_mounts().free([data, "/run/mysqld"]))
        self._configure(container)
        if _has_database(container, data, self.database):
            return
        run_step(container, "the installation of the database", self._install_command(data))
        server = self.serve(container.image)
        sql = "".join(f"{statement};\n" for statement in self._first_statements())
        bootstrap = [*(server.command or ()), "--bootstrap"]
        run_step(container, f"the first start of {self.title}", bootstrap, input=sql.encode())
        if self.server_mounts().scripts:
            self._run_scripts(container)

    def _run_scripts(self, container: Container) -> None:
        server = [*(self.serve(container.image).command or ()), "--skip-networking"]
        start = ["sh", "-c", _START, _LOG, *server]
        run_step(container, f"the first start of {self.title}", start, log=_LOG)
        run_scripts(self.bound(container), "mysql")
        run_step(container, f"the end of {self.title}", ["sh", "-ec", _STOP])
        container.exec(["rm", "-f", _LOG], check=True)

    def run_init_sql(self, title: str, sql: bytes) -> None:
        """Run the SQL of a script as root; see `init_scripts.run_scripts`."""
        client = [self.programs[1], "--no-defaults", f"--socket={_SOCKET}", "--user=root"]
        env = {"MYSQL_PWD": self.root_password}
        run_step(self.container, title, [*client, self.database], input=sql, env=env)

    def _configure(self, container: Container) -> None:
        """Write the options of clients, and of the server if configuration is mounted."""
        options = {"user": self.user, "password": self.password, "socket": _SOCKET}
        lines = [f"{name}={_option(value)}" for name, value in options.items()]
        container.exec(["mkdir", "-p", posixpath.dirname(_CLIENT)], check=True)
        container.write_text(_CLIENT, "\n".join(["[client]", *lines, ""]), mode=0o600)
        targets = self._configurations()
        if targets:
            # An including file needs each: the packages' own files are not those of the image.
            folders = {
                target for target in targets
                if container.exec(["test", "-d", target]).returncode == 0
            }  # fmt: skip
            words = [("!includedir" if t in folders else "!include", t) for t in targets]
            container.write_text(_OPTIONS, "".join(f"{word} {path}\n" for word, path in words))

    def client_env(self) -> dict[str, str]:
        """Return the variables that init scripts use."""
        return {
            f"{self.prefix}_USER": self.user,
            f"{self.prefix}_PASSWORD": self.password,
            f"{self.prefix}_DATABASE": self.database,
            f"{self.prefix}_ROOT_PASSWORD": self.root_password,
        }

    def _install_command(self, data: str) -> list[str]:
        return [
            "mariadb-install-db",
            self._defaults(),
            "--user=mysql",
            f"--datadir={data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
            *(() if self.durable else self.sizes),
        ]

    def _first_statements(self) -> list[str]:
        user, database = literal(self.user), identifier(self.database)
        root = literal(self.root_password)
        statements = [
            # The installation makes roots of other hosts too, without a password.
            "DELETE FROM mysql.global_priv WHERE User = 'root' AND Host <> 'localhost'",
            "FLUSH PRIVILEGES",
            f"CREATE DATABASE {database}",
            f"CREATE USER {user}@'%' IDENTIFIED BY {literal(self.password)}",
            f"GRANT ALL ON *.* TO {user}@'%' WITH GRANT OPTION",
            f"ALTER USER root@localhost IDENTIFIED BY {root}",
        ]
        host = self._configured("ROOT_HOST", "%")
        if host and host != "localhost":
            statements += [
                f"CREATE USER root@{literal(host)} IDENTIFIED BY {root}",
                f"GRANT ALL ON *.* TO root@{literal(host)} WITH GRANT OPTION",
            ]
        return statements

    # ----------------------------------------------------------------- running

    def sql(self, text: str | bytes, *, database: str | None = None) -> list[list[str]]:
        """Run SQL as `user` with the client of the server; see `SqlService.sql`."""
        command = [
            self.programs[1],
            "--no-defaults",
            f"--socket={_SOCKET}",
            f"--user={self.user}",
            "--batch",
            "--skip-column-names",
            "--default-character-set=utf8mb4",
            self.database if database is None else database,
        ]
        # Not splitlines(): the client escapes newlines, but not the other line ends of Unicode.
        lines = self._client(command, text, env={"MYSQL_PWD": self.password}).split("\n")
        return [
            ["" if field == "NULL" else _unescaped(field) for field in line.split("\t")]
            for line in lines[:-1]
        ]

    def clone_database(self, name: str, template: str) -> None:
        """Copy a database through a dump, since this server has no templates."""
        # As root: the user of an official image has rights to its own database only.
        self._as_root(f"CREATE DATABASE {identifier(name)}")
        dump, client = f"{self.programs[1]}-dump", self.programs[1]
        if client == "mysql":
            dump = "mysqldump"
        login = f"--no-defaults --socket={_SOCKET} --user=root"
        dump_command = f'{dump} {login} --routines --triggers --single-transaction "$1"'
        self.exec(
            ["sh", "-ec", f'{dump_command} | {client} {login} "$2"', "clone", template, name],
            env={"MYSQL_PWD": self.root_password},
            check=True,
        )
        if self.user != "root":
            pattern = identifier(name.replace("_", r"\_"))  # a bare _ stands for any character
            self._as_root(f"GRANT ALL ON {pattern}.* TO {literal(self.user)}@'%'")

    def _as_root(self, statement: str) -> None:
        command = [self.programs[1], "--no-defaults", f"--socket={_SOCKET}", "--user=root"]
        self._client(command, statement, env={"MYSQL_PWD": self.root_password})

    def drop_database(self, name: str) -> None:
        """Remove a database; see `SqlService.drop_database`."""
        self.sql(f"DROP DATABASE IF EXISTS {identifier(name)}", database="")


class MySQL(MariaDB):
    """A MySQL server, with the options of `MariaDB` and the variables MYSQL_USER and so on."""

    reference: ClassVar[str] = "mysql:8"
    programs: ClassVar[tuple[str, ...]] = ("mysqld", "mysql")
    packages: ClassVar[str] = "mysql-server"
    prefix: ClassVar[str] = "MYSQL"
    title: ClassVar[str] = "MySQL"
    fast: ClassVar[tuple[str, ...]] = (
        "--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=nosync",
        "--skip-innodb-doublewrite", "--skip-log-bin", "--innodb-buffer-pool-size=32M",
        "--innodb-buffer-pool-load-at-startup=OFF", "--innodb-buffer-pool-dump-at-shutdown=OFF",
        "--key-buffer-size=1M", "--performance-schema=OFF", "--skip-name-resolve",
        "--innodb-temp-data-file-path=ibtmp1:5M:autoextend", "--innodb-use-native-aio=0",
        "--mysqlx=OFF",
    )  # fmt: skip
    sizes: ClassVar[tuple[str, ...]] = ("--innodb-redo-log-capacity=8M",)

    def _install_command(self, data: str) -> list[str]:
        sizes = () if self.durable else self.sizes
        arguments = [
            self._defaults(),
            "--initialize-insecure",
            "--user=mysql",
            f"--datadir={data}",
        ]
        return ["mysqld", *arguments, *sizes]

    def _install(self, container: Container) -> None:
        require_ids(container, self.title)
        data = self._data(container.image)
        _make_directories(container, self.server_mounts().free([data, "/run/mysqld"]))
        self._configure(container)
        if _has_database(container, data, self.database):
            return
        run_step(container, "the installation of the database", self._install_command(data))
        sql = "".join(f"{statement};\n" for statement in self._first_statements()[2:])
        path = "/run/mysqld/first.sql"
        container.write_text(path, sql)
        server = shlex.join(self.serve(container.image).command or ())
        start = (
            f"{server} --skip-networking --init-file={path} & pid=$!; "
            f"until mysqladmin --no-defaults --socket={_SOCKET} --user={self.user} ping; "
            "do kill -0 $pid; sleep 0.1; done; kill $pid; wait $pid; rm " + path
        )
        env = {"MYSQL_PWD": self.password}
        run_step(container, "the first start of MySQL", ["sh", "-ec", start], env=env)
        if self.server_mounts().scripts:
            self._run_scripts(container)


def identifier(name: str) -> str:
    """Return a name as a quoted SQL identifier."""
    if "\0" in name or not name:
        raise SpecError(f"{name!r} cannot name a database")
    return "`" + name.replace("`", "``") + "`"


def literal(value: str) -> str:
    """Return a value as a quoted SQL string."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _option(value: str) -> str:
    """Return a value as it is quoted in a file of options."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _make_directories(container: Container, folders: Sequence[str]) -> None:
    install = ["install", "-d", "-o", "mysql", "-g", "mysql", *folders]
    container.exec(install, check=True)


def _has_database(container: Container, data: str, name: str) -> bool:
    """Return True if the database exists; a package ships system databases only."""
    # The encoding of names of databases as names of directories.
    folder = re.sub(r"[^A-Za-z0-9_]", lambda match: f"@{ord(match[0]):04x}", name)
    return container.exec(["test", "-d", f"{data}/{folder}"]).returncode == 0


def _unescaped(field: str) -> str:
    escapes = {"\\n": "\n", "\\t": "\t", "\\0": "\0", "\\\\": "\\"}
    if "\\" not in field:
        return field
    parts, index = [], 0
    while index < len(field):
        pair = field[index : index + 2]
        parts.append(escapes.get(pair, field[index]))
        index += 2 if pair in escapes else 1
    return "".join(parts)


class _MariaDBReady(wait.Talk):
    """A wait for the greeting, with version 10 of the protocol."""

    def __init__(self) -> None:
        super().__init__(b"", 3306)

    def answer(self, data: bytes) -> str | None:
        """Check the response; see `Talk.answer`."""
        return None if data[4:5] == b"\x0a" else f"the answer was {data[:60]!r}"
