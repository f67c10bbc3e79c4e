"""TLS behind a plain socket: in two threads, since only such a connection can be half-closed."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress

from pytest_containers.engines.docker.endpoint import DockerEndpoint
from pytest_containers.model.threads import starting_threads

_CHUNK_BYTES = 1 << 16


def tls_context(endpoint: DockerEndpoint) -> ssl.SSLContext:
    """Return the context of a TLS endpoint.

    Raises:
        OSError: A certificate cannot be read.
    """
    context = ssl.create_default_context(cafile=endpoint.ca or None)
    if not endpoint.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if endpoint.cert:
        context.load_cert_chain(endpoint.cert, endpoint.key)
    return context


def over_tls(endpoint: DockerEndpoint, plain: socket.socket) -> socket.socket:
    """Speak TLS in two threads behind a socket: only such a connection can be half-closed."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = tls_context(endpoint).wrap_bio(incoming, outgoing, server_hostname=endpoint.host)
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            plain.sendall(outgoing.read())
            data = plain.recv(_CHUNK_BYTES)
            if not data:
                raise ConnectionAbortedError("it closed the connection in the handshake") from None
            incoming.write(data)
        else:
            plain.sendall(outgoing.read())
            break
    plain.settimeout(None)
    ours, theirs = socket.socketpair()
    relay = _TlsRelay(tls, incoming, outgoing, plain, theirs)
    for work in (relay.send, relay.receive):
        thread = threading.Thread(target=work, name="pytest-containers tls", daemon=True)
        with starting_threads():
            thread.start()
    return ours


class _TlsRelay:
    """The two directions between a socket and a TLS connection."""

    def __init__(
        self,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        plain: socket.socket,
        inner: socket.socket,
    ) -> None:
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._plain = plain
        self._inner = inner
        self._lock = threading.Lock()

    def send(self) -> None:
        """Carry what the caller writes."""
        with suppress(OSError):
            while data := self._inner.recv(_CHUNK_BYTES):
                with self._lock:
                    self._tls.write(data)
                    sealed = self._outgoing.read()
                self._plain.sendall(sealed)  # may wait until the daemon has been read from
            with self._lock:
                with suppress(ssl.SSLError):
                    self._tls.unwrap()  # tells the daemon that no more comes
                sealed = self._outgoing.read()
            self._plain.sendall(sealed)

    def receive(self) -> None:
        """Carry what the daemon writes."""
        try:
            while data := self._plain.recv(_CHUNK_BYTES):
                with self._lock:
                    self._incoming.write(data)
                if not self._pass_on():
                    break
        except OSError:
            pass
        finally:
            with suppress(OSError):  # wakes the other thread, and tells the caller of the end
                self._inner.shutdown(socket.SHUT_RDWR)
            self._inner.close()
            self._plain.close()

    def _pass_on(self) -> bool:
        """Pass on what has been decrypted; return False when the daemon writes no more.

        It says so within TLS, and leaves the connection open.
        """
        while True:
            with self._lock:
                try:
                    part = self._tls.read(_CHUNK_BYTES)
                except ssl.SSLWantReadError:
                    return True
                except ssl.SSLError:
                    return False
            if not part:
                return False
            self._inner.sendall(part)
