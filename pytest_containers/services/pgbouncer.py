"""PgBouncer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack

from pytest_containers.model import wait
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.base import directories, writing
from pytest_containers.services.service import Service
from pytest_containers.state.warm import Stage

if TYPE_CHECKING:
    from pytest_containers.services.options import PgBouncerFixture


_FOLDER = "/etc/pgbouncer"
_CONFIG, _USERS = f"{_FOLDER}/own.ini", f"{_FOLDER}/own_users"
_OWN = """
[databases]
* = host={host} port={server_port}
[pgbouncer]
listen_addr = *
listen_port = {number}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
admin_users = {user}
pool_mode = {pool_mode}
ignore_startup_parameters = extra_float_digits
server_login_retry = 1
"""
# SSLRequest (PostgreSQL, 55.2.11), which is declined.
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")


class PgBouncer(Service):
    """A PgBouncer pool of connections to a PostgreSQL server, which is another service of the test.

    It connects to the server when a client does, with the same name and password.

    Args:
        server: The server, ``"name"`` or ``"name:port"``; the name is that of its fixture.
        user, password, database: The values of the server.
        pool_mode: ``"session"``, ``"transaction"`` or ``"statement"``.
        **options: See `Service`.
    """

    reference: ClassVar[str] = "host:"
    number: ClassVar[int] = 6432
    programs: ClassVar[tuple[str, ...]] = ("pgbouncer",)
    packages: ClassVar[str] = "pgbouncer"
    scheme: ClassVar[str] = "postgresql"

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[PgBouncerFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def __init__(
        self,
        *,
        server: str = "postgres",
        user: str = "containers",
        password: str = "containers",
        database: str = "containers",
        pool_mode: Literal["session", "transaction", "statement"] = "transaction",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.server: str = server
        self.user: str = user
        self.password: str = password
        self.database: str = database
        self.pool_mode: str = pool_mode

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the pool, which refuses to be root."""
        ready = wait.tcp(self.number, _SSL_REQUEST, b"N")
        return self.spec(["pgbouncer", _CONFIG], ready, user="nobody", env=self.env)

    def prepare(self, image: Image) -> Sequence[Stage]:
        """Return the stage that writes the configuration."""
        host, _, port = self.server.partition(":")
        config = _OWN.format(
            host=host,
            server_port=port or "5432",
            number=self.number,
            users=_USERS,
            user=self.user,
            pool_mode=self.pool_mode,
        )
        login = " ".join(_quoted(value) for value in (self.user, self.password))
        script = f"{writing(_CONFIG, config)}; {writing(_USERS, login)}"
        return [directories(self.image, _FOLDER, script=script)]


def _quoted(value: str) -> str:
    """Quote a word of the file of users."""
    escaped = value.replace('"', '""')
    return f'"{escaped}"'
