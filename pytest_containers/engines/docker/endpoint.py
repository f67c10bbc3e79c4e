"""The endpoint of Docker's API that the environment names, found without the docker package."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytest_containers.model.errors import SettingsError, hide_frames

__tracebackhide__ = hide_frames

DEFAULT = "unix:///var/run/docker.sock"
_OF_HOME = (".docker/run/docker.sock", ".colima/default/docker.sock")
_PORTS = {"tcp": 2375, "http": 2375, "https": 2376, "ssh": 22}


@dataclass(frozen=True, slots=True)
class DockerEndpoint:
    """Where the daemon listens, and how it is reached.

    Attributes:
        url: ``unix:///path``, ``tcp://host:port``, ``https://host:port`` or ``ssh://user@host``.
        source: What names it, for messages: ``DOCKER_HOST``.
        ca, cert, key: Paths of the certificates of TLS; empty without.
        tls: True if TLS is spoken.
        verify: True if the certificate of the server is verified.
    """

    url: str = DEFAULT
    source: str = "the default"
    ca: str = ""
    cert: str = ""
    key: str = ""
    tls: bool = False
    verify: bool = True

    @property
    def scheme(self) -> str:
        """``unix``, ``tcp``, ``http``, ``https`` or ``ssh``."""
        return self.url.partition("://")[0]

    @property
    def path(self) -> str:
        """The path of the socket of a ``unix`` endpoint."""
        return self.url.partition("://")[2]

    @property
    def host(self) -> str:
        """The name of the remote host; empty for a socket of this machine."""
        return "" if self.scheme == "unix" else urlsplit(self.url).hostname or "localhost"

    @property
    def port(self) -> int:
        """The port of the remote host."""
        return urlsplit(self.url).port or (2376 if self.tls else _PORTS.get(self.scheme, 2375))

    @property
    def user(self) -> str:
        """The user of an ``ssh`` endpoint; empty for the one of its configuration."""
        return urlsplit(self.url).username or ""

    def __str__(self) -> str:
        return f"{self.url} ({self.source})"


def find_endpoint(environ: Mapping[str, str] = os.environ) -> DockerEndpoint:
    """Return the endpoint that the environment names, in the order of Docker's command line.

    ``DOCKER_HOST`` comes first, then ``DOCKER_CONTEXT`` and the current context, then the sockets
    that are there: of Docker, of rootless Docker, of Podman.

    Raises:
        SettingsError: The address or the context is not usable.
    """
    url = environ.get("DOCKER_HOST", "")
    if url:
        return _checked(_with_certificates(url, environ), "DOCKER_HOST")
    home = _config_folder(environ)
    name, source = environ.get("DOCKER_CONTEXT", ""), "DOCKER_CONTEXT"
    if not name:
        source = f"currentContext in {home}/config.json"
        with suppress(OSError, ValueError, AttributeError):
            name = json.loads((home / "config.json").read_text()).get("currentContext", "")
    if name and name != "default":
        return _checked(_of_context(home, name, source), f"context {name!r}")
    return DockerEndpoint(f"unix://{_socket(environ)}")


def all_endpoints(environ: Mapping[str, str] = os.environ) -> list[DockerEndpoint]:
    """Return the endpoints of all contexts and of all sockets that are there, each once."""
    home = _config_folder(environ)
    found: list[DockerEndpoint] = []
    for meta in sorted((home / "contexts" / "meta").glob("*/meta.json")):
        with suppress(OSError, ValueError, LookupError, TypeError, SettingsError):
            name = str(json.loads(meta.read_text())["Name"])
            source = f"context {name!r}"
            found.append(_checked(_of_context(home, name, source), source))
    sockets = (f"unix://{path}" for path in _sockets(environ) if os.path.exists(path))
    found += [DockerEndpoint(url, "its socket") for url in sockets]
    return list({endpoint.url: endpoint for endpoint in reversed(found)}.values())[::-1]


def _config_folder(environ: Mapping[str, str]) -> Path:
    own = environ.get("DOCKER_CONFIG")
    return Path(own) if own else Path(environ.get("HOME") or "~").expanduser() / ".docker"


def _socket(environ: Mapping[str, str]) -> str:
    """Return the first socket that is there, else that of Docker."""
    candidates = _sockets(environ)
    return next((path for path in candidates if os.path.exists(path)), candidates[0])


def _sockets(environ: Mapping[str, str]) -> list[str]:
    """Return where sockets may be, that of Docker first."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    home = environ.get("HOME", "")
    return [
        DEFAULT.partition("://")[2],
        *([f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock"] if runtime else []),
        *([f"{home}/{path}" for path in _OF_HOME] if home else []),
        "/run/podman/podman.sock",
    ]  # fmt: skip


def _with_certificates(url: str, environ: Mapping[str, str]) -> DockerEndpoint:
    folder = environ.get("DOCKER_CERT_PATH", "")
    verify = bool(environ.get("DOCKER_TLS_VERIFY"))
    if not (folder or verify) or url.startswith(("unix:", "ssh:")):
        return DockerEndpoint(url, tls=url.startswith("https:"))
    home = Path(folder) if folder else _config_folder(environ)
    names = {name: os.fspath(home / f"{name}.pem") for name in ("ca", "cert", "key")}
    return DockerEndpoint(url, **names, tls=True, verify=verify)


def _of_context(home: Path, name: str, source: str) -> DockerEndpoint:
    key = hashlib.sha256(name.encode()).hexdigest()
    meta = home / "contexts" / "meta" / key / "meta.json"
    try:
        docker: Mapping[str, Any] = json.loads(meta.read_text())["Endpoints"]["docker"]
        url = str(docker["Host"])
    except (OSError, ValueError, LookupError, TypeError):
        raise SettingsError(
            f"{source}: Docker has no context {name!r}; `docker context ls` lists them",
            source=source,
            value=name,
        ) from None
    folder = home / "contexts" / "tls" / key / "docker"
    found = {
        name: os.fspath(folder / f"{name}.pem")
        for name in ("ca", "cert", "key")
        if (folder / f"{name}.pem").exists()
    }
    skip = bool(docker.get("SkipTLSVerify"))
    tls = bool(found) or skip or url.startswith("https:")
    return DockerEndpoint(url, **found, tls=tls, verify=not skip)


def _checked(endpoint: DockerEndpoint, source: str) -> DockerEndpoint:
    import dataclasses

    scheme, colon, rest = endpoint.url.partition("://")
    if not colon:  # as Docker's command line: host:port, or a path
        absolute = endpoint.url.startswith("/")
        scheme, rest = ("unix", endpoint.url) if absolute else ("tcp", endpoint.url)
    if scheme not in ("unix", *_PORTS) or not rest or (scheme == "unix" and rest[0] != "/"):
        raise SettingsError(
            f"{source}: {endpoint.url!r} is not an address of Docker's API; write "
            "'unix:///path', 'tcp://host:2375' or 'ssh://user@host'",
            source=source,
            value=endpoint.url,
        )
    return dataclasses.replace(endpoint, url=f"{scheme}://{rest}", source=source)
