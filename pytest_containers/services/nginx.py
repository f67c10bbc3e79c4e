"""nginx."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from pytest_containers import wait
from pytest_containers.images.image import Image
from pytest_containers.services.base import Service
from pytest_containers.spec import Bind, ContainerSpec

_CONFIG = "/tmp/nginx.conf"
_OWN = """
daemon off;
user root;
error_log /dev/stderr;
pid /tmp/nginx.pid;
events {{}}
http {{
    include /etc/nginx/mime.types;
    access_log /dev/stdout;
    server {{ listen 80; listen [::]:80; root {root}; }}
}}
"""


class Nginx(Service):
    """An nginx.

    Args:
        root: A directory of the host that it serves; None serves its own page.
        config: A file of the host to be its ``nginx.conf``; None is one that serves `root`.
        **options: See `Service`.
    """

    reference: ClassVar[str] = "nginx:1"
    number: ClassVar[int] = 80
    programs: ClassVar[tuple[str, ...]] = ("nginx",)
    packages: ClassVar[str] = "nginx"
    configuration: ClassVar[tuple[str, ...]] = ("nginx",)
    scheme: ClassVar[str] = "http"
    alone: ClassVar[bool] = (
        False  # names of others in its configuration must be there when it starts
    )

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None = None,
        config: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.root: str | None = None if root is None else os.path.abspath(root)
        self.config: str | None = None if config is None else os.path.abspath(config)

    def serve(self, image: Image) -> ContainerSpec:
        """The server, in the foreground."""
        mounts = list(self.options.get("mounts", ()))
        if self.root is not None:
            mounts.append(Bind(self.root, "/srv/www", read_only=True))
        text = _OWN.format(root="/srv/www" if self.root else "/usr/share/nginx/html")
        prepare, directives = f'printf %s "$0" > {_CONFIG}', ""
        if self.config is not None:
            mounts.append(Bind(self.config, _CONFIG, read_only=True))
            prepare, directives = ":", "daemon off;"
        folders = "mkdir -p /var/log/nginx /var/lib/nginx /var/cache/nginx"
        start = f'{folders}; {prepare}; exec nginx -c {_CONFIG} -g "$1"'
        ready = wait.tcp(self.number, b"HEAD / HTTP/1.0\r\n\r\n", b"HTTP/1.")
        return self.spec(
            ["sh", "-c", start, text, directives], ready, mounts=mounts, env=self.env,
            stop_signal="QUIT",
        )  # fmt: skip

    def version_command(self) -> list[str]:
        """See `Service.version_command`."""
        return ["nginx", "-v"]
