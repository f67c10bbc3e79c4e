"""How to reach a registry: addresses, mirrors, TLS, proxies.

https, unless the registry is this machine's own or was declared insecure: those are asked in https
first (declared insecure: whatever its certificate), then in plain http.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3 import exceptions
from urllib3.connection import HTTPSConnection

from pytest_containers.images.reference import DEFAULT_REGISTRY
from pytest_containers.images.registry.settings import Place, is_loopback
from pytest_containers.model.engine_options import RegistrySettings
from pytest_containers.model.errors import RegistryError, SettingsError, hide_frames

__tracebackhide__ = hide_frames

HUB_HOST = "registry-1.docker.io"
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 15.0, 60.0
_POOL_SIZE = 8
_CERTIFICATES = ("containers/certs.d", "docker/certs.d")


class Transport:
    """Connections to one host and to where it redirects. Thread-safe.

    Args:
        place: The host.
        settings: Of the project.
        timeouts_s: For a connection, and for an answer.
    """

    def __init__(
        self,
        place: Place,
        settings: RegistrySettings,
        timeouts_s: tuple[float, float] = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
    ) -> None:
        self._timeouts_s = timeouts_s
        self.host: str = HUB_HOST if place.host == DEFAULT_REGISTRY else place.host
        self._settings = settings
        self._insecure = place.host in settings.insecure
        self._lock = threading.Lock()
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._base = f"{place.scheme}://{self.host}" if place.scheme else ""
        if place.scheme == "http" and not self._may_be_plain:
            raise SettingsError(f"mirror {place.host}: plain http is for insecure registries only")

    @property
    def _may_be_plain(self) -> bool:
        return self._insecure or is_loopback(self.host)

    def bases(self) -> Iterator[str]:
        """Return ``scheme://host`` to try: the one that has worked, or all in order."""
        if self._base:
            yield self._base
            return
        yield f"https://{self.host}"
        if self._may_be_plain:
            yield f"http://{self.host}"

    def settle(self, base: str) -> None:
        """Note the base that works."""
        self._base = base

    def may_send(self, url: str) -> bool:
        """Check whether `url` may get a password: encrypted, or no worse than the registry."""
        parts = urlsplit(url)
        return (
            parts.scheme == "https"
            or is_loopback(parts.netloc)
            or (self._insecure and self._base.startswith("http:"))
        )

    def request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: Any = None
    ) -> urllib3.BaseHTTPResponse:
        """Send one request, body unread; follow no redirect and try nothing again.

        Raises:
            urllib3.exceptions.HTTPError: It could not be sent, or was not answered.
        """
        connect_s, read_s = self._timeouts_s
        timeout = urllib3.Timeout(connect=connect_s, read=read_s)
        return self._pool(url).request(
            method,
            url,
            headers=dict(headers),
            body=body,
            redirect=False,
            retries=False,
            timeout=timeout,
            preload_content=False,
            decode_content=False,
        )

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        proxy = _proxy_for(parts.scheme, host, self._settings.environ)
        # Certificates are the registry's own; wherever it redirects has to show a usual one.
        own = host == self.host and parts.scheme == "https"
        key = f"{proxy} {own}"
        with self._lock:
            if key not in self._pools:
                options: dict[str, Any] = {"maxsize": _POOL_SIZE, "block": False, "num_pools": 4}
                if parts.scheme == "https" or proxy.startswith("https:"):
                    options["ssl_context"] = self._context(own)
                if own and self._insecure:
                    options["assert_hostname"] = False
                pool = (
                    urllib3.ProxyManager(proxy, proxy_headers=_proxy_login(proxy), **options)
                    if proxy
                    else urllib3.PoolManager(**options)
                )
                if own and self._insecure:
                    pool.pool_classes_by_scheme = {
                        **pool.pool_classes_by_scheme,
                        "https": _DeclaredPool,
                    }
                self._pools[key] = pool
            return self._pools[key]

    def _context(self, own: bool) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if own:
            for folder in certificate_folders(self.host, self._settings.environ):
                _load(context, folder)
            if self._insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
        return context

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            for pool in self._pools.values():
                pool.clear()
            self._pools.clear()


class _DeclaredConnection(HTTPSConnection):
    """A connection to a registry that was declared insecure: no warning is needed."""

    @property
    def is_verified(self) -> bool:
        return True

    @is_verified.setter
    def is_verified(self, value: bool) -> None: ...


class _DeclaredPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _DeclaredConnection


def certificate_folders(host: str, environ: Mapping[str, str]) -> list[Path]:
    """Return the existing ``certs.d/HOST`` of Podman and Docker, the user's first."""
    name = "docker.io" if host == HUB_HOST else host
    config = environ.get("XDG_CONFIG_HOME", "")
    home = environ.get("HOME", "")
    user = Path(config) if config.startswith("/") else Path(home or "/nonexistent") / ".config"
    docker = environ.get("DOCKER_CONFIG")
    folders = [user / "containers" / "certs.d" / name]
    folders.append(
        (Path(docker) if docker else Path(home or "/nonexistent") / ".docker") / "certs.d" / name
    )
    folders += [Path("/etc") / below / name for below in _CERTIFICATES]
    return [folder for folder in folders if folder.is_dir()]


def _load(context: ssl.SSLContext, folder: Path) -> None:
    """Load ``*.crt`` as authorities, ``NAME.cert`` with ``NAME.key`` as the client's own."""
    for path in sorted(folder.iterdir()):
        try:
            if path.suffix == ".crt":
                context.load_verify_locations(path)
            elif path.suffix == ".cert":
                context.load_cert_chain(path, path.with_suffix(".key"))
        except (OSError, ssl.SSLError) as error:
            raise RegistryError(
                f"certificate {path}: {error}; a .crt is an authority, a .cert needs its .key "
                "beside it"
            ) from None


def _proxy_login(proxy: str) -> dict[str, str]:
    """Return the header for a proxy whose address has a user and a password."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return dict(urllib3.make_headers(proxy_basic_auth=pair))


def _proxy_for(scheme: str, host: str, environ: Mapping[str, str]) -> str:
    """Return the proxy for a host, by the usual variables; empty is none."""
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

    lower = {key.lower(): value for key, value in environ.items() if key.lower().endswith("_proxy")}
    # What a CGI server sets from a header of its client is no setting of ours (httpoxy).
    if "REQUEST_METHOD" in environ:
        lower.pop("http_proxy", None)
    proxies = {key.removesuffix("_proxy"): value for key, value in lower.items() if value}
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if is_loopback(host) or proxy_bypass_environment(host, proxies):
        return ""
    if proxy_bypass_environment(name, proxies):
        return ""
    proxy = proxies.get(scheme) or proxies.get("all") or ""
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def cause_of(error: Exception) -> str:
    """Return the end of a chain of reasons, in one line and without addresses of objects."""
    reason: Any = error
    while True:
        inner = getattr(reason, "reason", None)
        if not isinstance(inner, BaseException):
            args = [
                argument
                for argument in getattr(reason, "args", ())
                if isinstance(argument, BaseException)
            ]
            inner = args[0] if args else getattr(reason, "original_error", None)
        if not isinstance(inner, BaseException):
            break
        reason = inner
    if isinstance(reason, exceptions.NameResolutionError):
        return "its name is not known"
    if isinstance(reason, exceptions.NewConnectionError):
        return str(reason).rpartition("] ")[2]
    if isinstance(reason, exceptions.ConnectTimeoutError):
        return "no connection in time"
    if isinstance(reason, exceptions.ReadTimeoutError):
        return "no answer in time"
    if isinstance(reason, OSError) and reason.strerror:
        return str(reason.strerror)
    message = str(reason)
    return message.rpartition(">: ")[2] or type(reason).__name__
