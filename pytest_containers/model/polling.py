"""Waits that poll a condition, and the errors of a container that ends before it is ready."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from pytest_containers.model.engine import Container
from pytest_containers.model.errors import (
    ContainersError,
    ExitedError,
    SpecError,
    WaitTimeoutError,
    hide_frames,
)
from pytest_containers.model.harmless import harmless
from pytest_containers.model.readiness import Deadline

__tracebackhide__ = hide_frames

NOTHING = "; it wrote nothing"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.05
_TAIL_LINES = 10


def log_tail(container: Any, lines: int = _TAIL_LINES) -> list[str]:
    """Return the last lines of the output of a container, both streams."""
    return str(container.logs()).splitlines()[-lines:]


def exited(container: Any, moment: str) -> ExitedError:
    """Return the error for a container that has ended, with its last output.

    Args:
        moment: Completes "ended with exit code 1 …".
    """
    code, tail = container.wait(1.0), log_tail(container)
    return ExitedError(
        f"container {container.name!r} ended with exit code {code} {moment}" + shown(tail),
        exit_code=code,
        log_tail=tail,
    )


def shown(tail: Sequence[str]) -> str:
    """Return the last output of a container for the end of a message."""
    lines = "\n".join(f"    {harmless(line)}" for line in tail)
    return f"; its last output:\n{lines}" if tail else NOTHING


class Polling(ABC):
    """A wait that polls a condition, which subclasses define."""

    def until(self, container: Container, deadline: Deadline) -> None:
        pause_s, reason = _FIRST_PAUSE_S, ""
        while True:
            latest = self.ask(container, deadline)
            if latest is None:
                return
            if deadline.passed:
                # The latest reason may only be that no time was left for this check.
                raise WaitTimeoutError(
                    f"{self!r}: {reason or latest}", timeout_s=deadline.timeout_s
                )
            reason = latest
            # The pause ends early if the container does.
            try:
                container.wait(min(pause_s, deadline.left_s))
            except WaitTimeoutError:
                pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
            else:
                raise exited(container, f"before {self!r} was true")

    @abstractmethod
    def ask(self, container: Container, deadline: Deadline) -> str | None:
        """Return None if the condition is true, else the reason why not."""


class Http(Polling):
    def __init__(
        self, path: str, number: int | None, status: int | range, method: str, tls: bool
    ) -> None:
        self._path = path
        self._number = number
        self._status = status
        self._method = method
        self._tls = tls

    def until(self, container: Container, deadline: Deadline) -> None:
        container.wait_listening([(self._port(container), "tcp")], deadline.left_s)
        super().until(container, deadline)

    def _port(self, container: Container) -> int:
        if self._number is not None:
            return self._number
        ports = [port.number for port in container.spec.parsed_ports if port.protocol == "tcp"]
        if not ports:
            raise SpecError("wait.http(): the container lists no TCP port; name one, port=8000")
        return ports[0]

    def ask(self, container: Container, deadline: Deadline) -> str | None:
        import http.client

        number = self._port(container)
        timeout_s = min(deadline.left_s, 5.0)
        try:
            with container.connect(number, timeout_s) as sock:
                sock.settimeout(timeout_s)
                connection = http.client.HTTPConnection("localhost", number)
                connection.sock = _over_tls(sock) if self._tls else sock
                connection.request(self._method, self._path)
                status = connection.getresponse().status
                connection.close()
        except (OSError, ContainersError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        accepted = self._status if isinstance(self._status, range) else (self._status,)
        return None if status in accepted else f"the answer was status {status}"

    def __repr__(self) -> str:
        return f"http({self._path!r})"


def _connected(container: Any, number: int, timeout_s: float) -> socket.socket:
    """Connect to a port: directly if possible, else through the run."""
    if getattr(container, "reachable", False):
        # Not create_connection(), for which a name of a host is encoded: an import of 2 ms.
        direct = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            direct.settimeout(timeout_s)
            direct.connect((container.ip, number))
        except BaseException:
            direct.close()
            raise
        return direct
    sock: socket.socket = container.connect(number, timeout_s)
    sock.settimeout(timeout_s)
    return sock


class Talk(Polling):
    """A wait that sends a request and checks the response; the base of the waits of services.

    Args:
        request: The bytes to send; empty if the server speaks first.
        number: The port in the container.
        tls: Speak TLS, with any certificate.
    """

    def __init__(self, request: bytes, number: int, tls: bool = False) -> None:
        self._request = request
        self._number = number
        self._tls = tls

    def until(self, container: Container, deadline: Deadline) -> None:
        """Wait for the port to listen, and then for an accepted response."""
        container.wait_listening([(self._number, "tcp")], deadline.left_s)
        super().until(container, deadline)

    def ask(self, container: Container, deadline: Deadline) -> str | None:
        """Send the request and check the response; see `answer`."""
        timeout_s = min(deadline.left_s, 5.0)
        try:
            with (
                _connected(container, self._number, timeout_s) as plain,
                _over_tls(plain) if self._tls else nullcontext(plain) as sock,
            ):
                if self._request:
                    sock.sendall(self._request)
                return self.answer(sock.recv(4096))
        except (OSError, ContainersError) as error:
            return f"{type(error).__name__}: {error}"

    @abstractmethod
    def answer(self, data: bytes) -> str | None:
        """Return None to accept `data`, the start of the response, else the reason why not."""

    def __repr__(self) -> str:
        return f"talk on port {self._number}"


class Response(Talk):
    def __init__(self, number: int, request: bytes, expected: bytes, tls: bool) -> None:
        super().__init__(request, number, tls)
        self._expected = expected

    def answer(self, data: bytes) -> str | None:
        return None if self._expected in data else f"the answer was {data[:60]!r}"


def _over_tls(sock: Any) -> Any:
    import ssl

    context = ssl.create_default_context()
    # This checks readiness, not identity: test servers have self-signed certificates.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(sock)
