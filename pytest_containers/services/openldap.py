"""OpenLDAP."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pytest_containers.model import wait
from pytest_containers.model.errors import ExecError, hide_frames
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.base import directories, writing
from pytest_containers.services.service import Service
from pytest_containers.state.warm import Stage

if TYPE_CHECKING:
    from pytest_containers.services.options import OpenLDAPFixture

__tracebackhide__ = hide_frames

_CONFIG, _BASE = "/etc/ldap/own.conf", "/etc/ldap/own-base.ldif"
_DATA = "/var/lib/own-ldap"
_OWN = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
include /etc/ldap/schema/inetorgperson.schema
pidfile /run/slapd.pid
argsfile /run/slapd.args
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
directory {data}
maxsize 1073741824
suffix {base}
rootdn {user}
rootpw {password}
index objectClass eq
"""
# BindRequest, version 3, anonymous; and the BindResponse to it (RFC 4511, 4.2).
_BIND = b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00"
_BOUND = b"\x02\x01\x01\x61"


class OpenLDAP(Service):
    """An OpenLDAP server with one directory; everybody may read, its administrator may write.

    A seed can be an ``.ldif`` script, of entries to add or of changes.

    Args:
        base: The suffix of the directory, whose entry is made: ``"dc=example,dc=org"``.
        password: The password of the administrator, ``cn=admin,`` and the base.
        **options: See `Service`.

    Attributes:
        user: The name of the administrator, which a client binds as.
    """

    reference: ClassVar[str] = "host:"
    number: ClassVar[int] = 389
    programs: ClassVar[tuple[str, ...]] = ("slapd", "slapadd", "ldapmodify", "ldapsearch")
    packages: ClassVar[str] = "slapd ldap-utils"
    configuration: ClassVar[tuple[str, ...]] = ("ldap/schema",)
    scheme: ClassVar[str] = "ldap"
    scripts: ClassVar[tuple[str, ...]] = (".ldif", ".sh")
    port_options: ClassVar[tuple[str, ...]] = ("-h",)
    fast: ClassVar[tuple[str, ...]] = ("dbnosync",)

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[OpenLDAPFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def __init__(
        self, *, base: str = "dc=example,dc=org", password: str = "test", **options: Any
    ) -> None:
        super().__init__(**options)
        self.base: str = base
        self.user: str = f"cn=admin,{base}"
        self.password: str = password

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the server, in the foreground, with a log of its operations."""
        command = ["slapd", "-d", "stats", "-h", f"ldap://:{self.number}", "-f", _CONFIG]
        # It takes memory for each descriptor that it might have.
        fields = {"ulimits": {"nofile": 4096}, "env": self.env}
        return self.spec(command, wait.tcp(self.number, _BIND, _BOUND), **fields)

    def prepare(self, image: Image) -> Sequence[Stage]:
        """Return the stage that writes the configuration and the entry of the base."""
        values = {"base": self.base, "user": self.user, "password": self.password}
        quoted = {name: _quoted(value) for name, value in values.items()}
        config = _OWN.format(data=_DATA, **quoted)
        config += "" if self.durable else "\n".join([*self.fast, ""])
        script = f"umask 077; {writing(_CONFIG, config)}; {writing(_BASE, self._base_entry())}; "
        # The image may be a snapshot, which has the entry.
        script += f"[ -e {_DATA}/data.mdb ] || slapadd -f {_CONFIG} -l {_BASE}"
        return [directories(self.image, _DATA, "/etc/ldap", script=script)]

    def _base_entry(self) -> str:
        kind, _, value = self.base.partition(",")[0].partition("=")
        classes = {
            "dc": f"objectClass: dcObject\nobjectClass: organization\no: {value}\n",
            "o": "objectClass: organization\n",
            "c": "objectClass: country\n",
        }
        known = classes.get(kind.strip().lower(), "objectClass: organizationalUnit\n")
        return f"dn: {self.base}\n{known}{kind}: {value}\n"

    def url_at(self, host: str, port: int, driver: str | None = None) -> str:
        """Return the URL of the server, without name and password: a client binds with these."""
        scheme = self.scheme if driver is None else f"{self.scheme}+{driver}"
        return f"{scheme}://{host}:{port}"

    def modify(self, ldif: str | bytes) -> None:
        """Add entries, or make changes (``changetype: …``), as the administrator.

        Raises:
            ExecError: The server refused an entry; earlier ones stay.
        """
        self._client("ldapmodify", "-a", input=ldif)

    def search(
        self, filter: str = "(objectClass=*)", *attributes: str, base: str | None = None
    ) -> list[dict[str, list[str]]]:
        """Return the entries below `base` that match, each with its ``dn`` and all attributes.

        Args:
            attributes: The attributes to return; none returns all.
            base: The entry to start from; None is the base of the directory.

        Raises:
            ExecError: The server refused the search.
        """
        words = ["-LLL", "-o", "ldif-wrap=no", "-b", self.base if base is None else base]
        return list(_entries(self._client("ldapsearch", *words, filter, *attributes)))

    def run_script(self, path: Path) -> None:
        """Run an ``.ldif`` or ``.sh`` script."""
        if path.name.endswith(".ldif"):
            self.modify(path.read_bytes())
        else:
            super().run_script(path)

    def _client(self, program: str, *words: str, input: str | bytes | None = None) -> str:
        login = ["-x", "-H", f"ldap://localhost:{self.number}", "-D", self.user]
        result = self.exec([program, *login, "-w", self.password, *words], input=input)
        if result.returncode:
            message = " ".join(result.stderr.decode(errors="replace").split())
            raise ExecError(
                f"{program} in {self.name!r} failed: {message}",
                returncode=result.returncode,
                stdout=result.stdout,
                stderr=result.stderr,
            )
        return str(result.stdout.decode())

    def version_command(self) -> list[str]:
        """Return the command that prints the version."""
        return ["sh", "-c", "slapd -VV 2>&1"]


def _quoted(value: str) -> str:
    """Quote a word of slapd.conf(5)."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _entries(ldif: str) -> Iterator[dict[str, list[str]]]:
    """Parse the entries of LDIF without wrapped lines (RFC 2849)."""
    for block in ldif.split("\n\n"):
        entry: dict[str, list[str]] = {}
        for line in filter(None, block.split("\n")):
            name, _, value = line.partition(":")
            decoded = b64decode(value[1:]).decode() if value.startswith(":") else value
            entry.setdefault(name, []).append(decoded.strip() if decoded is value else decoded)
        if entry:
            yield entry
