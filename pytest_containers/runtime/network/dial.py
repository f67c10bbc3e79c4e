"""Sockets that are connected to a container, made in the namespaces of the run."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from pytest_containers.linux.process import CLONE_NEWNET, setns
from pytest_containers.runtime.loop import Loop
from pytest_containers.runtime.messages import Fault, fault

Done = Callable[[socket.socket | Fault], None]
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_FLAGS = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK


def dial(loop: Loop, protocol: str, ip: str, port: int, timeout_s: float, done: Done) -> None:
    """Connect from the run's own namespace; `done` gets the socket, which it owns, or why not."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        sock = socket.socket(family, _KINDS[protocol] | _FLAGS)
    except OSError as error:
        done(_refused(ip, port, error.errno or errno.EIO))
    else:
        _connect(loop, sock, ip, port, timeout_s, done)


def dial_inside(
    loop: Loop,
    netns_fd: int,
    own_netns_fd: int,
    protocol: str,
    port: int,
    timeout_s: float,
    done: Done,
) -> None:
    """Connect to the loopback device of another network namespace, IPv4 before IPv6."""

    # Both at once: later the descriptor might stand for another container's namespace.
    sock4, sock6 = _sockets_inside(netns_fd, own_netns_fd, _KINDS[protocol] | _FLAGS)

    def tried(first: socket.socket | Fault) -> None:
        if isinstance(first, socket.socket) or sock6 is None:
            if sock6 is not None:
                sock6.close()
            done(first)
        else:
            # Of two refusals the first is told: IPv4 is what most expect.
            _connect(
                loop, sock6, "::1", port, timeout_s,
                lambda second: done(first if isinstance(second, Fault) else second),
            )  # fmt: skip

    _connect(loop, sock4, "127.0.0.1", port, timeout_s, tried)


def _sockets_inside(
    netns_fd: int, own_netns_fd: int, kind: int
) -> tuple[socket.socket, socket.socket | None]:
    """An IPv4 and an IPv6 socket of another namespace; the latter None in a kernel without."""
    setns(netns_fd, CLONE_NEWNET)
    try:
        sock4 = socket.socket(socket.AF_INET, kind)
        try:
            return sock4, socket.socket(socket.AF_INET6, kind)
        except OSError:
            return sock4, None
    finally:
        setns(own_netns_fd, CLONE_NEWNET)


def _connect(
    loop: Loop, sock: socket.socket, ip: str, port: int, timeout_s: float, done: Done
) -> None:
    code = sock.connect_ex((ip, port))
    if code != errno.EINPROGRESS:
        _finish(sock, ip, port, code, done)
        return
    timer = loop.call_later(timeout_s, lambda: writable(errno.ETIMEDOUT))

    def writable(code: int | None = None) -> None:
        loop.remove_writer(sock.fileno())
        loop.cancel(timer)
        if code is None:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        _finish(sock, ip, port, code, done)

    loop.add_writer(sock.fileno(), writable)


def _finish(sock: socket.socket, ip: str, port: int, code: int, done: Done) -> None:
    if code:
        sock.close()
        done(_refused(ip, port, code))
    else:
        done(sock)


def _refused(ip: str, port: int, code: int) -> Fault:
    why = os.strerror(code)
    return fault("ContainersError", f"connect to {ip} port {port}: {why}", errno=code)
