"""Squid, an HTTP proxy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack
from urllib.parse import quote

from pytest_containers.model import wait
from pytest_containers.model.engine import Container
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.base import directories, writing
from pytest_containers.services.service import Service
from pytest_containers.services.steps import require_own_files
from pytest_containers.state.warm import Stage

if TYPE_CHECKING:
    from pytest_containers.services.options import SquidFixture


_FOLDER, _MEMORY = "/etc/own-squid", "/dev/shm/own-squid"
_OWN = """
http_port 3128
visible_hostname squid
cache deny all
access_log stdio:/dev/stdout
cache_log /dev/stderr
pid_filename none
netdb_filename none
pinger_enable off
shutdown_lifetime 0 seconds
mime_table /usr/share/squid/mime.conf
icon_directory /usr/share/squid/icons
"""
_LOGIN = f"""
auth_param basic program {_FOLDER}/login
auth_param basic children 1 startup=1
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
"""
# It sends a line of the name and the password, both percent-encoded, for each new login.
_HELPER = '#!/bin/sh\nwhile read -r login; do [ "$login" = {} ] && echo OK || echo ERR; done\n'


class Squid(Service):
    """A Squid proxy for HTTP and CONNECT, without a cache.

    It reaches the containers of the test that start before it, and other machines with
    ``egress=True``. The log has a line for each request.

    Args:
        user, password: The credentials of clients; an empty user requires none.
        **options: See `Service`.
    """

    reference: ClassVar[str] = "host:"
    number: ClassVar[int] = 3128
    programs: ClassVar[tuple[str, ...]] = ("squid",)
    packages: ClassVar[str] = "squid"
    scheme: ClassVar[str] = "http"
    port_options: ClassVar[tuple[str, ...]] = ("-a",)
    # It reads the names of other containers when it starts.
    alone: ClassVar[bool] = False

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[SquidFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def __init__(self, *, user: str = "", password: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.user: str = user
        self.password: str = password

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the proxy, in the foreground; it refuses to be root."""
        ready = wait.tcp(self.number, b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.")
        command = ["squid", "-N", "-f", f"{_FOLDER}/squid.conf"]
        return self.spec(command, ready, user="proxy", env=self.env)

    def prepare(self, image: Image) -> Sequence[Stage]:
        """Return the stage that writes the configuration."""
        login = f"{quote(self.user, safe='')} {quote(self.password, safe='')}"
        config = _OWN + (_LOGIN if self.user else "http_access allow all\n")
        helper = writing(f"{_FOLDER}/login", _HELPER.format(f"'{login}'"))
        script = f"{writing(f'{_FOLDER}/squid.conf', config)}; {helper}; chmod 755 {_FOLDER}/login"
        stage = directories(self.image, _FOLDER, script=script)

        def act(container: Container) -> None:
            require_own_files(container, "Squid keeps an index in shared memory", _MEMORY)
            stage.act(container)

        return [dataclasses.replace(stage, act=act)]
