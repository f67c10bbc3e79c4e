"""HAProxy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pytest_containers.model import wait
from pytest_containers.model.arguments import check
from pytest_containers.model.errors import SpecError, hide_frames
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.service import Service

if TYPE_CHECKING:
    from pytest_containers.services.options import HAProxyFixture


__tracebackhide__ = hide_frames

_CONFIG = "/tmp/haproxy.cfg"
_OWN = """
global
    log stdout format raw daemon
defaults
    log global
    mode {mode}
    option {mode}log
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend test
    bind :::{number} v4v6
{route}
"""
_NO_BACKENDS = "    http-request return status 200 content-type text/plain string haproxy\n"


class HAProxy(Service):
    """An HAProxy load balancer.

    Args:
        backends: The servers behind it, ``("web:8000", …)``, by the names of their fixtures, which
            start before it. Without any, it answers every HTTP request itself, with status 200.
        mode: ``"http"``, or ``"tcp"`` for any protocol, which needs `backends`.
        config: A file of the host as ``haproxy.cfg``, instead of `backends` and `mode`; one of its
            frontends must listen on port 80.
        **options: See `Service`.
    """

    reference: ClassVar[str] = "haproxy:2.6"
    number: ClassVar[int] = 80
    programs: ClassVar[tuple[str, ...]] = ("haproxy",)
    packages: ClassVar[str] = "haproxy"
    scheme: ClassVar[str] = "http"
    clean: ClassVar[bool] = False  # its exit code after the stop signal is 143
    # It resolves the host names in its configuration when it starts.
    alone: ClassVar[bool] = False

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[HAProxyFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def __init__(
        self,
        *,
        backends: Sequence[str] = (),
        mode: str = "http",
        config: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check("HAProxy", arguments=backends)
        self.backends: tuple[str, ...] = tuple(backends)
        self.mode: str = mode
        self.config: str | None = None if config is None else os.fspath(config)
        if mode not in ("http", "tcp") or (mode == "tcp" and not backends and config is None):
            raise SpecError(
                f"HAProxy: mode={mode!r} is not usable; it must be 'http', or 'tcp' with backends"
            )

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the load balancer, in the foreground."""
        start = f'printf %s "$0" > {_CONFIG}; exec haproxy -db -f {_CONFIG} "$@"'
        # Its own answer, and not that of a server behind it, which may not be ready yet.
        ready = wait.port(self.number)
        command = ["sh", "-c", start, self._configuration()]
        return self.spec(command, ready, user="0", env=self.env)

    def _configuration(self) -> str:
        if self.config is not None:
            return (self.folder / self.config).read_text()
        servers = [f"    server s{i} {name}\n" for i, name in enumerate(self.backends, 1)]
        backend = f"    default_backend servers\nbackend servers\n{''.join(servers)}"
        route = backend if servers else _NO_BACKENDS
        return _OWN.format(mode=self.mode, number=self.number, route=route)

    def version_command(self) -> list[str]:
        """Return the command that prints the version."""
        return ["haproxy", "-v"]
