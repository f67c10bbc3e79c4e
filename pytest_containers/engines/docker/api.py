"""The daemon behind an endpoint: plain calls through the docker package, and clear errors."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_containers.engines.docker.connection import DialError, Exchange, LocalDoor, ssh_command
from pytest_containers.model.errors import (
    ContainersError,
    RunLostError,
    UnsupportedError,
    hide_frames,
)

if TYPE_CHECKING:
    from pytest_containers.engines.docker.endpoint import DockerEndpoint

__tracebackhide__ = hide_frames

_T = TypeVar("_T")
LEAST_VERSION = (1, 40)
"""Of Docker 19.03, which is of 2019."""
_NEWEST_VERSION = (1, 45)
"""The newest that the docker package knows."""
_TIMEOUT_S = 120
_PATIENCE_S = 15.0


class DaemonRefusal(ContainersError):
    """The daemon answered with an error.

    Attributes:
        status: The status of HTTP.
        explanation: The words of the daemon.
    """

    status: int = 0
    explanation: str = ""


class DockerApi:
    """The daemon; it is connected to on first use. Thread-safe.

    Args:
        endpoint: Where it listens.
    """

    def __init__(self, endpoint: DockerEndpoint) -> None:
        self.endpoint = endpoint
        self._lock = threading.Lock()
        self._client: Any = None
        self._door: LocalDoor | None = None
        self._facts: Mapping[str, Any] = {}

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the daemon says of itself (``GET /version``)."""
        _ = self.client
        return self._facts

    @property
    def version(self) -> str:
        """The version of the API that is spoken: ``"1.41"``."""
        _ = self.client
        return self._version

    @property
    def is_podman(self) -> bool:
        """True for the service of Podman, whose answers lack some fields of Docker's."""
        return product_of(self.facts) == "Podman"

    @property
    def client(self) -> Any:
        """The client of the docker package.

        Raises:
            UnsupportedError: There is no daemon, or it is none to work with.
        """
        with self._lock:
            if self._client is None:
                self._facts = ask_version(self.endpoint)
                self._version = spoken_version(self._facts, self.endpoint)
                url = ""
                if self.endpoint.scheme == "ssh":
                    self._door = LocalDoor(self.endpoint)
                    url = f"unix://{self._door.path}"
                self._client = _make_client(self.endpoint, self._version, url)
            return self._client

    def call(self, doing: str, function: Callable[[Any], _T]) -> _T:
        """Call the client; its errors become those of this project.

        Args:
            doing: The beginning of the message: ``"start of container 'db'"``.
            function: Gets the client.

        Raises:
            DaemonRefusal: The daemon refused.
            RunLostError: The daemon does not answer any more.
        """
        client = self.client
        import docker.errors
        import requests.exceptions

        try:
            return function(client)
        except docker.errors.APIError as error:
            words = str(error.explanation or error)
            raise DaemonRefusal(
                f"{doing}: {words}", status=error.status_code or 0, explanation=words
            ) from None
        except (docker.errors.DockerException, ValueError, RecursionError) as error:
            raise ContainersError(f"{doing}: {error}") from error
        except (requests.exceptions.RequestException, OSError) as error:
            if isinstance(error, ContainersError):
                raise
            raise self.gone(error) from error

    def exchange(
        self, doing: str, method: str, path: str, body: Any = None, *, upgrade: bool = False
    ) -> Exchange:
        """Make a request whose answer is a stream; the errors are those of `call`.

        Args:
            doing: The beginning of the message.
            method, path, body, upgrade: As for `Exchange`; the path without the version.
        """
        root = f"/v{self.version}"
        try:
            exchange = Exchange(
                self.endpoint, method, f"{root}{path}", body, upgrade=upgrade, timeout_s=_TIMEOUT_S
            )
        except OSError as error:
            raise self.gone(error) from error
        if exchange.reply.status >= 300:
            with exchange:
                words = exchange.fault()
            raise DaemonRefusal(
                f"{doing}: {words}", status=exchange.reply.status, explanation=words
            )
        return exchange

    def gone(self, error: object) -> RunLostError:
        """Return the error for a daemon that does not answer any more."""
        return RunLostError(
            f"the Docker daemon at {self.endpoint} does not answer any more, and its containers "
            f"are lost to this run: {_cause(error)}"
        )

    def close(self) -> None:
        """Close the connections; idempotent."""
        if self._client is not None:
            self._client.close()
        if self._door is not None:
            self._door.close()


def _cause(error: object) -> str:
    """Return the innermost words of an error of requests and urllib3."""
    while isinstance(error, BaseException):
        inner = error.__cause__ or error.__context__
        inner = inner or next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        if inner is None:
            break
        error = inner
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error)


def ask_version(endpoint: DockerEndpoint, timeout_s: float = _PATIENCE_S) -> Mapping[str, Any]:
    """Return what a daemon says of itself, without the docker package.

    Args:
        endpoint: Where it listens.
        timeout_s: The time limit of each step.

    Raises:
        UnsupportedError: No daemon answers, or what answers is none.
    """
    try:
        with Exchange(endpoint, "GET", "/version", timeout_s=timeout_s) as exchange:
            if not exchange.ok:
                words = exchange.fault()
                if "HTTPS server" in words:
                    words = "it speaks TLS: set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH"
                raise _unusable(endpoint, words)
            facts = exchange.json()
    except (OSError, ValueError) as error:
        if isinstance(error, ContainersError):
            raise
        raise _unusable(endpoint, _words_of(endpoint, error, timeout_s)) from error
    if not isinstance(facts, dict) or "ApiVersion" not in facts:
        raise _unusable(endpoint, "it is no Docker API")
    return facts


def _unusable(endpoint: DockerEndpoint, words: str) -> UnsupportedError:
    return UnsupportedError(
        f"engine 'docker' cannot use the endpoint {endpoint}: {words}", engine="docker"
    )


def _words_of(endpoint: DockerEndpoint, error: Exception, timeout_s: float) -> str:
    """Say why an endpoint does not answer, and what to do."""
    import socket
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not one to trust: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, PermissionError):
        return "permission denied: join the group of the socket (`docker`), or be root"
    if endpoint.scheme == "ssh":
        return f"ssh failed: {_ssh_words(endpoint, timeout_s)}"
    if isinstance(error, FileNotFoundError) and endpoint.tls:
        return f"a certificate is missing below the directory of {endpoint.ca or endpoint.cert!r}"
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return "nothing listens there: start Docker, or set DOCKER_HOST"
    if isinstance(error, socket.gaierror):
        return f"there is no host {endpoint.host!r}"
    if isinstance(error, DialError) and not endpoint.tls and endpoint.scheme == "tcp":
        return f"{error}; if it speaks TLS, set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH"
    # With TLS 1.3, a client learns of it by what it sends after the handshake.
    if isinstance(error, DialError | BrokenPipeError | ConnectionResetError) and endpoint.tls:
        own = endpoint.cert or "of this client, which has none"
        return f"{error}; does it trust the certificate {own}?"
    if isinstance(error, TimeoutError):
        return "it does not answer"
    return str(error)


def _ssh_words(endpoint: DockerEndpoint, timeout_s: float) -> str:
    try:
        done = subprocess.run(
            ssh_command(endpoint), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s
        )
    except FileNotFoundError:
        return "the program ssh is not installed"
    except subprocess.TimeoutExpired:
        return "it does not answer"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it ended with exit code {done.returncode}"


def product_of(facts: Mapping[str, Any]) -> str:
    """Return the name of what answers, by its answer to ``GET /version``."""
    parts = [str(part.get("Name")) for part in facts.get("Components") or ()]
    return "Podman" if any("Podman" in part for part in parts) else "Docker"


def _numbers(version: object) -> tuple[int, ...]:
    return tuple(int(part) for part in str(version)[:20].split(".") if part.isdecimal())


def spoken_version(facts: Mapping[str, Any], endpoint: DockerEndpoint) -> str:
    """Return the version of the API to speak.

    Raises:
        UnsupportedError: The daemon is too old, or too new.
    """
    newest = _numbers(facts["ApiVersion"])
    oldest = _numbers(facts.get("MinAPIVersion") or "1.0")
    if newest < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise _unusable(
            endpoint,
            f"it is too old: its API has version {facts['ApiVersion']}, and {least} is needed, "
            "which is that of Docker 19.03",
        )
    if oldest > _NEWEST_VERSION:
        raise _unusable(
            endpoint,
            f"it is too new: the oldest version of its API is {facts['MinAPIVersion']}",
        )
    return ".".join(map(str, min(newest, _NEWEST_VERSION)))


def require_package() -> None:
    """Raise unless the docker package is installed.

    Raises:
        UnsupportedError: It is not; the message tells how to install it.
    """
    try:
        import docker  # noqa: F401
    except ImportError:
        raise UnsupportedError(
            "engine 'docker' needs the docker package: pip install 'pytest-containers[docker]'",
            missing=["docker"],
            engine="docker",
        ) from None


def _make_client(endpoint: DockerEndpoint, version: str, url: str = "") -> Any:
    require_package()
    import docker
    import docker.errors

    url, tls = url or endpoint.url, None
    if endpoint.tls:
        url = f"https://{endpoint.host}:{endpoint.port}"
        tls = docker.tls.TLSConfig(
            client_cert=(endpoint.cert, endpoint.key) if endpoint.cert else None,
            ca_cert=endpoint.ca or None,
            verify=endpoint.verify,
        )
    try:
        client = docker.APIClient(url, version=version, timeout=_TIMEOUT_S, tls=tls)
    except docker.errors.DockerException as error:
        raise _unusable(endpoint, str(error)) from error
    # Else requests would take REQUESTS_CA_BUNDLE for the authority of the daemon.
    client.trust_env = False
    return client
