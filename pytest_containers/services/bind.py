"""BIND, a name server."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pytest_containers.model import wait
from pytest_containers.model.errors import SpecError, hide_frames
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.base import directories, writing
from pytest_containers.services.service import Service
from pytest_containers.state.warm import Stage

if TYPE_CHECKING:
    from pytest_containers.services.options import BindFixture

__tracebackhide__ = hide_frames

_FOLDER = "/var/lib/own-bind"
_CONFIG = "/etc/own-bind/named.conf"
_OWN = f"""
options {{
    directory "{_FOLDER}";
    pid-file none;
    session-keyfile none;
    listen-on {{ any; }};
    listen-on-v6 {{ any; }};
    allow-query {{ any; }};
    allow-transfer {{ any; }};
    recursion no;
    dnssec-validation no;
}};
controls {{ }};
"""
_ZONE = 'zone "{name}" {{ type primary; file "{name}.zone"; allow-update {{ any; }}; }};\n'
_HEAD = "$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n"
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\Z")
# Over TCP (RFC 1035, 4.2.2): the length, id 1, one question: the name servers of the root.
_QUERY = b"\x00\x11\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01"


class Bind9(Service):
    """A BIND name server with zones of its own; it asks no other server.

    Everybody may query, transfer and update its zones (RFC 2136). Names of containers are no part
    of it.

    Args:
        zones: The zones by name. A zone is a list of the lines of its file, without SOA and NS,
            ``["www A 192.0.2.1", "@ MX 10 mail"]``, or a path to the whole file.
        **options: See `Service`.
    """

    reference: ClassVar[str] = "host:"
    number: ClassVar[int] = 53
    programs: ClassVar[tuple[str, ...]] = ("named",)
    packages: ClassVar[str] = "bind9"
    scheme: ClassVar[str] = "dns"
    port_options: ClassVar[tuple[str, ...]] = ("-p",)

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[BindFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def __init__(
        self,
        *,
        zones: Mapping[str, Sequence[str] | str | os.PathLike[str]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.zones: dict[str, Sequence[str] | str | os.PathLike[str]] = dict(zones or {})
        for name in self.zones:
            if not _NAME.match(name):
                raise SpecError(f"Bind9: zone {name!r} is not usable as a name of a zone")

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the server, with a port for TCP and one for UDP."""
        ports = [self.number, f"{self.number}/udp"]
        ready = wait.tcp(self.number, _QUERY, b"\x00\x01")
        command = ["named", "-g", "-n", "1", "-c", _CONFIG]
        return self.spec(command, ready, ports=ports, env=self.env)

    def prepare(self, image: Image) -> Sequence[Stage]:
        """Return the stage that writes the configuration and the zones."""
        config = _OWN + "".join(_ZONE.format(name=name) for name in self.zones)
        scripts = [writing(_CONFIG, config)]
        for name, zone in self.zones.items():
            path = f"{_FOLDER}/{name}.zone"
            # The image may be a snapshot, whose updates belong to its own file.
            scripts.append(f"[ -e {path} ] || {writing(path, self._file_of(zone))}")
        folders = (_FOLDER, posixpath.dirname(_CONFIG))
        return [directories(self.image, *folders, script="; ".join(scripts))]

    def _file_of(self, zone: Sequence[str] | str | os.PathLike[str]) -> str:
        if isinstance(zone, str | os.PathLike):
            return (self.folder / Path(zone)).read_text()
        return _HEAD + "".join(f"{line}\n" for line in zone)

    @property
    def udp_address(self) -> tuple[str, int]:
        """``(host, port)`` of the port for UDP; `host` and `port` are those for TCP."""
        return self.container.address(self.number, "udp")

    def version_command(self) -> list[str]:
        """Return the command that prints the version."""
        return ["named", "-v"]
