"""Connections to Docker's API that carry streams: exec, attach, logs, events.

Every connection ends in a socket of this process that may be polled and half-closed, also over TLS
and ssh. The watcher of the run uses them for plain requests too, without the docker package.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from pytest_containers.engines.docker.endpoint import DockerEndpoint
from pytest_containers.linux.sockets import peer_credentials
from pytest_containers.model.threads import starting_threads

_CHUNK_BYTES = 1 << 16
_MAX_HEAD_BYTES = 1 << 16
# What answers may be anything that listens there: nothing that it claims takes memory without end.
_MAX_BODY_BYTES, _MAX_FRAME_BYTES = 256 << 20, 64 << 20
_CONNECT_S = 10.0
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,16}")


class DialError(OSError):
    """The endpoint could not be reached, or did not speak HTTP."""


def ssh_command(endpoint: DockerEndpoint) -> list[str]:
    """Return the command that connects its streams to the daemon of an ``ssh`` endpoint."""
    target = f"{endpoint.user}@{endpoint.host}" if endpoint.user else endpoint.host
    port = [] if endpoint.port == 22 else ["-p", str(endpoint.port)]
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_S:.0f}"]
    return ["ssh", *options, *port, "--", target, "docker", "system", "dial-stdio"]


def dial(endpoint: DockerEndpoint, timeout_s: float | None = _CONNECT_S) -> socket.socket:
    """Connect to the daemon and return the socket.

    Raises:
        OSError: It cannot be reached.
    """
    if endpoint.scheme == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.connect(endpoint.path)
        except BaseException:
            sock.close()
            raise
        return sock
    if endpoint.scheme == "ssh":
        return _over_ssh(endpoint)
    plain = socket.create_connection((endpoint.host, endpoint.port), timeout_s)
    if not endpoint.tls:
        return plain
    try:
        from pytest_containers.engines.docker.tls import over_tls

        return over_tls(endpoint, plain)
    except BaseException:
        plain.close()
        raise


def _over_ssh(endpoint: DockerEndpoint) -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                ssh_command(endpoint),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
    _thread(process.wait)
    return ours


class LocalDoor:
    """A Unix socket of this process that leads to an endpoint, for clients that cannot dial it.

    The docker package reaches daemons by ssh with paramiko only, which has its own ideas of keys
    and of configuration.

    Args:
        endpoint: Where each connection leads.
    """

    def __init__(self, endpoint: DockerEndpoint) -> None:
        self._endpoint = endpoint
        self._folder = tempfile.TemporaryDirectory(prefix="pytest-containers-")
        self.path: str = os.path.join(self._folder.name, "s")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(64)
        _thread(self._accept)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if peer_credentials(client)[0] != os.getpid():  # its folder may be bound somewhere
                    client.close()
                    continue
                _thread(lambda client=client: self._lead(client))  # type: ignore[misc]

    def _lead(self, client: socket.socket) -> None:
        with client:
            try:
                daemon = dial(self._endpoint)
            except OSError:
                return
            with daemon:
                back = _thread(lambda: _carry(daemon, client))
                _carry(client, daemon)
                back.join()

    def close(self) -> None:
        """Accept no more connections; idempotent."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._folder.cleanup()


def _thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, name="pytest-containers docker", daemon=True)
    with starting_threads():
        thread.start()
    return thread


def _carry(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK_BYTES):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class Reply(NamedTuple):
    """The head of an answer.

    Attributes:
        status: The status of HTTP.
        headers: By lower-case names.
    """

    status: int
    headers: Mapping[str, str]


class Exchange:
    """One request to the daemon and its answer, which may be a stream without end.

    Args:
        endpoint: The daemon.
        method, path: The request.
        body: What is sent as JSON; None sends nothing.
        upgrade: Ask for a raw stream in both directions.
        timeout_s: The time limit of connecting and of the head of the answer.

    Raises:
        OSError: The endpoint cannot be reached, or ended the connection.
    """

    def __init__(
        self,
        endpoint: DockerEndpoint,
        method: str,
        path: str,
        body: Any = None,
        *,
        upgrade: bool = False,
        timeout_s: float | None = 60.0,
    ) -> None:
        self.sock: socket.socket = dial(endpoint, timeout_s)
        self._buffer = b""
        try:
            self.sock.settimeout(timeout_s)
            self.sock.sendall(_request(endpoint, method, path, body, upgrade))
            self.reply: Reply = self._read_head()
            self.sock.settimeout(None)
        except BaseException:
            self.sock.close()
            raise
        self._chunked = "chunked" in self.reply.headers.get("transfer-encoding", "")

    @property
    def ok(self) -> bool:
        """True for a status of success."""
        return self.reply.status < 300

    def fault(self) -> str:
        """Read the message of an answer that is an error."""
        data = self.read()
        try:
            return str(json.loads(data)["message"])
        except (ValueError, LookupError, TypeError, RecursionError):
            return data.decode(errors="replace").strip()

    def read(self) -> bytes:
        """Read the whole answer."""
        length = self.reply.headers.get("content-length")
        if self.reply.status in (204, 304) or length == "0":
            return b""
        if length is None or self._chunked:
            return _joined(self.parts(), _MAX_BODY_BYTES)
        if not (length.isdecimal() and len(length) < 20):
            raise DialError("the answer of the daemon has no length")
        size = int(length)
        body = _joined(_first(size, iter(self.receive, b"")), _MAX_BODY_BYTES)
        if len(body) < size:
            raise DialError("the answer of the daemon broke off")
        return body

    def json(self) -> Any:
        """Read the whole answer as JSON."""
        try:
            return json.loads(self.read() or b"null")
        except RecursionError:
            raise ValueError("its JSON is nested too deep") from None

    def receive(self) -> bytes:
        """Return what comes next of a raw stream; empty at its end."""
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        return self.sock.recv(_CHUNK_BYTES)

    def parts(self) -> Iterator[bytes]:
        """Iterate over the body as it comes, until the end."""
        if not self._chunked:
            yield from iter(self.receive, b"")
            return
        while True:
            digits = self._line().partition(b";")[0].strip() or b"0"
            if not _CHUNK_SIZE.fullmatch(digits):
                raise DialError("a part of the answer of the daemon has no length")
            size = int(digits, 16)
            if size == 0:
                return
            left = size
            while left:
                data = self.receive()
                if not data:
                    return
                part, self._buffer = data[:left], data[left:]
                left -= len(part)
                yield part
            self._line()

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            data = self.sock.recv(_CHUNK_BYTES)
            if not data:
                return b"0"
            self._buffer += data
            if len(self._buffer) > _MAX_HEAD_BYTES + _CHUNK_BYTES:
                raise DialError("a line in the answer of the daemon does not end")
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _read_head(self) -> Reply:
        while b"\r\n\r\n" not in self._buffer:
            data = self.sock.recv(_CHUNK_BYTES)
            if not data or len(self._buffer) > _MAX_HEAD_BYTES:
                raise DialError("it closed the connection without an answer of HTTP")
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ", 2)
        if not words[0].startswith("HTTP/") or len(words) < 2 or not words[1].isdecimal():
            raise DialError("it does not speak HTTP")
        pairs = (line.partition(":")[::2] for line in lines)
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        return Reply(int(words[1]), headers)

    def close(self) -> None:
        """Close the connection; idempotent. A thread that reads sees its end."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _joined(parts: Iterator[bytes], limit: int) -> bytes:
    """Put the parts of an answer together.

    Raises:
        DialError: They are more than `limit` bytes.
    """
    body = bytearray()
    for part in parts:
        body += part
        if len(body) > limit:
            raise DialError(f"the answer of the daemon has more than {limit} bytes")
    return bytes(body)


def _first(size: int, parts: Iterator[bytes]) -> Iterator[bytes]:
    """Iterate over the first bytes of parts, and read no further."""
    while size > 0 and (part := next(parts, b"")):
        yield part[:size]
        size -= len(part)


def _request(endpoint: DockerEndpoint, method: str, path: str, body: Any, upgrade: bool) -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"Host: {endpoint.host or 'docker'}"]
    lines.append("Connection: Upgrade\r\nUpgrade: tcp" if upgrade else "Connection: close")
    if body is not None:
        lines.append("Content-Type: application/json")
    if data or method == "POST":
        lines.append(f"Content-Length: {len(data)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + data


class Demultiplexer:
    """Takes the frames of a stream apart that carries output and errors together."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Iterate over ``(stream, data)`` that is complete with what came now."""
        self._data += data
        while len(self._data) >= 8:
            size = int.from_bytes(self._data[4:8], "big")
            if size > _MAX_FRAME_BYTES:
                raise DialError(f"the daemon announces {size} bytes of output at once")
            if len(self._data) < 8 + size:
                return
            stream, part = self._data[0], bytes(self._data[8 : 8 + size])
            del self._data[: 8 + size]
            yield stream or 1, part


def ping(endpoint: DockerEndpoint, timeout_s: float = 0.025) -> bool:
    """Return True if a daemon answers at the endpoint, quickly and without the docker package."""
    if endpoint.scheme == "unix" and not os.path.exists(endpoint.path):
        return False
    try:
        with Exchange(endpoint, "GET", "/_ping", timeout_s=timeout_s) as exchange:
            return exchange.ok
    except (OSError, ValueError):
        return False


def lacks_package() -> str:
    """Return words for the docker package if it is not installed, without importing it."""
    from importlib.util import find_spec

    if find_spec("docker") is not None:
        return ""
    return "the docker package is not installed: pip install 'pytest-containers[docker]'"
