"""Sockets that are connected to a container, made in the namespaces of the run."""

from __future__ import annotations

import errno
import os
import socket

from pytest_containers.linux.process import CLONE_NEWNET, setns
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.tasks import writable

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_FLAGS = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK


async def dial(loop: Loop, protocol: str, ip: str, port: int, timeout_s: float) -> socket.socket:
    """Connect from this process's own network namespace; the socket does not block.

    Raises:
        FaultError: Refused, or not within `timeout_s`.
    """
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        sock = socket.socket(family, _KINDS[protocol] | _FLAGS)
    except OSError as error:
        raise _refusal(ip, port, error.errno or errno.EIO) from None
    return await _connect(loop, sock, ip, port, timeout_s)


async def dial_inside(
    loop: Loop, netns_fd: int, own_netns_fd: int, protocol: str, port: int, timeout_s: float
) -> socket.socket:
    """Connect to the loopback device of another network namespace, IPv4 before IPv6.

    Raises:
        FaultError: Refused, or not within `timeout_s`. Of two refusals the one of IPv4 is told,
            which most expect.
    """
    # Both at once: later the descriptor might stand for another container's namespace.
    sock4, sock6 = _sockets_inside(netns_fd, own_netns_fd, _KINDS[protocol] | _FLAGS)
    try:
        try:
            return await _connect(loop, sock4, "127.0.0.1", port, timeout_s)
        except FaultError as refusal:
            if sock6 is None:
                raise
            sock, sock6 = sock6, None
            try:
                return await _connect(loop, sock, "::1", port, timeout_s)
            except FaultError:
                raise refusal from None
    finally:
        if sock6 is not None:
            sock6.close()


def _sockets_inside(
    netns_fd: int, own_netns_fd: int, kind: int
) -> tuple[socket.socket, socket.socket | None]:
    """Make an IPv4 and an IPv6 socket in another namespace; the latter None without IPv6."""
    setns(netns_fd, CLONE_NEWNET)
    try:
        sock4 = socket.socket(socket.AF_INET, kind)
        try:
            return sock4, socket.socket(socket.AF_INET6, kind)
        except OSError:
            return sock4, None
    finally:
        setns(own_netns_fd, CLONE_NEWNET)


async def _connect(
    loop: Loop, sock: socket.socket, ip: str, port: int, timeout_s: float
) -> socket.socket:
    """Connect `sock`, which is closed if that fails."""
    try:
        code = sock.connect_ex((ip, port))
        if code == errno.EINPROGRESS:
            in_time = await writable(loop, sock.fileno(), timeout_s)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            code = code if in_time else errno.ETIMEDOUT
        if code:
            raise _refusal(ip, port, code)
    except BaseException:
        sock.close()
        raise
    return sock


def _refusal(ip: str, port: int, code: int) -> FaultError:
    return FaultError(
        "ContainersError", f"connect to {ip} port {port}: {os.strerror(code)}", errno=code
    )
