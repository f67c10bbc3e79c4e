"""nginx."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pytest_containers.model import wait
from pytest_containers.model.image import Image
from pytest_containers.model.spec import Bind, ContainerSpec
from pytest_containers.services.certificates import CERTIFICATE, KEY
from pytest_containers.services.mounted import ServerMounts
from pytest_containers.services.service import Service

if TYPE_CHECKING:
    from pytest_containers.services.options import NginxFixture


_CONFIG = "/tmp/nginx.conf"
# Of all modules that packages of distributions have; their own places are compiled in.
_TEMPORARY = " ".join(
    f"{name}_temp_path /tmp/nginx-{name};"
    for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)
_OWN = """
daemon off;
user root;
error_log /dev/stderr;
pid /tmp/nginx.pid;
events {{}}
http {{
    include /etc/nginx/mime.types;
    access_log /dev/stdout;
    {temporary}
    {server}
}}
"""
_SERVER = "server {{ listen {number}{ssl}; listen [::]:{number}{ssl}; root {root};{files} }}"
_OFFICIAL = "/etc/nginx/nginx.conf"


class Nginx(Service):
    """An nginx server.

    Args:
        root: A directory of the host to serve; None serves the welcome page.
        config: A file of the host as ``nginx.conf``; None is a configuration that serves `root`,
            and with ``tls=True`` on port 443. Files that are mounted at ``/etc/nginx/nginx.conf``
            and below ``/etc/nginx/conf.d`` are read as in the official image.
        **options: See `Service`.
    """

    reference: ClassVar[str] = "nginx:1"
    number: ClassVar[int] = 80
    programs: ClassVar[tuple[str, ...]] = ("nginx",)
    packages: ClassVar[str] = "nginx"
    configuration: ClassVar[tuple[str, ...]] = ("nginx",)
    scheme: ClassVar[str] = "http"
    has_tls: ClassVar[bool] = True
    tls_number: ClassVar[int] = 443
    tls_scheme: ClassVar[str] = "https"
    # It resolves the host names in its configuration when it starts.
    alone: ClassVar[bool] = False

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[NginxFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None = None,
        config: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.root: str | None = None if root is None else os.fspath(root)
        self.config: str | None = None if config is None else os.fspath(config)

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the server, in the foreground."""
        server_mounts = self.server_mounts()
        mounts = list(server_mounts.mounted)
        if self.root is not None:
            mounts.append(Bind(self.root, "/srv/www", read_only=True))
        temporary = _TEMPORARY if self.is_packaged(image) else ""
        config = _OWN.format(temporary=temporary, server=self._server(server_mounts))
        path = _CONFIG
        prepare, directives = f'printf %s "$0" > {_CONFIG}', ""
        if self.config is not None or server_mounts.below(_OFFICIAL):
            if self.config is not None:
                mounts.append(Bind(self.config, _CONFIG, read_only=True))
            else:
                path = _OFFICIAL
            prepare, directives = ":", "daemon off;"
        folders = "mkdir -p /var/log/nginx /var/lib/nginx /var/cache/nginx"
        start = f'{folders}; {prepare}; exec nginx -c {path} -g "$1"'
        ready = wait.tcp(self.number, b"HEAD / HTTP/1.0\r\n\r\n", b"HTTP/1.", tls=self.tls)
        return self.spec(
            ["sh", "-c", start, config, directives],
            ready,
            mounts=mounts,
            env=self.env,
            stop_signal="QUIT",
        )

    def _server(self, mounts: ServerMounts) -> str:
        """Return the directives of the server that `config` describes otherwise."""
        if mounts.below("/etc/nginx/conf.d"):
            return "include /etc/nginx/conf.d/*.conf;"
        files = f" ssl_certificate {CERTIFICATE}; ssl_certificate_key {KEY};"
        return _SERVER.format(
            number=self.number,
            ssl=" ssl" if self.tls else "",
            root="/srv/www" if self.root else "/usr/share/nginx/html",
            files=files if self.tls else "",
        )

    def version_command(self) -> list[str]:
        """Return the command that prints the version."""
        return ["nginx", "-v"]
