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


def dial(
    loop: Loop, protocol: str, ip: str, port: int, timeout_s: float, done: Done
) -> None:
    """Connect from the run's own namespace; `done` gets the socket, which it owns, or why not."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    sock = socket.socket(family, _KINDS[protocol] | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
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
    kind = _KINDS[protocol] | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    setns(netns_fd, CLONE_NEWNET)
    try:
        sock = socket.socket(socket.AF_INET, kind)
        sock6 = socket.socket(socket.AF_INET6, kind)
    finally:
        setns(own_netns_fd, CLONE_NEWNET)

    def tried(result: socket.socket | Fault) -> None:
        if isinstance(result, Fault):
            _connect(loop, sock6, "::1", port, timeout_s, done)
        else:
            sock6.close()
            done(result)

    _connect(loop, sock, "127.0.0.1", port, timeout_s, tried)


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
        message = f"connect to {ip} port {port}: {os.strerror(code)}"
        done(fault("ContainersError", message, errno=code))
    else:
        done(sock)
