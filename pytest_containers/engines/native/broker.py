"""One run for several test processes: pytest-xdist's workers and their controller.

The controller listens on an abstract Unix socket of a random name. A worker connects and gets a
socket of its own to the supervisor, which watches the worker's process from then on.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_containers.errors import ContainersError, RunLostError
from pytest_containers.linux.sockets import peer_credentials
from pytest_containers.runtime.channel import Channel, ChannelClosed
from pytest_containers.runtime.client import Client, error_of
from pytest_containers.runtime.messages import Fault

if TYPE_CHECKING:
    from pytest_containers.engines.native.engine import Engine


class Broker:
    """The controller's side; a thread of its own answers.

    Args:
        engine: Gives the engine whose run is shared; it is started when the first worker asks.
    """

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine
        self.address: str = f"pytest-containers-{secrets.token_hex(16)}"
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.bind(f"\0{self.address}")
        self._sock.listen(64)
        thread = threading.Thread(target=self._serve, name="pytest-containers broker", daemon=True)
        thread.start()

    def close(self) -> None:
        """Answer no more; idempotent."""
        with contextlib.suppress(OSError):  # it was closed already
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            channel = Channel(sock)
            try:
                self._answer(channel)
            except (ChannelClosed, OSError):
                pass  # the worker has gone; nothing was given away
            finally:
                channel.close()

    def _answer(self, channel: Channel) -> None:
        pid, uid, _ = peer_credentials(channel.sock)
        if uid != os.geteuid():
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, theirs:
            pidfd = os.pidfd_open(pid)
            try:
                self._engine().client.call("adopt", fds=[theirs.fileno(), pidfd])
            except ContainersError as error:
                fault = Fault(type(error).__name__, error.message, error.data)
                channel.send({"error": fault})
                return
            finally:
                os.close(pidfd)
            channel.send({"ok": True}, [ours.fileno()])


def connect(address: str) -> Client:
    """The worker's side: a connection to the run that the controller shares.

    Raises:
        ContainersError: The run cannot be started.
        RunLostError: The controller is gone.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    channel = Channel(sock)
    try:
        sock.connect(f"\0{address}")
        frame = channel.receive()
    except OSError:
        raise RunLostError(
            "the test run's controller does not answer, so its containers cannot be shared"
        ) from None
    finally:
        channel.close()
    if "error" in frame.body:
        raise error_of(frame.body["error"])
    return Client(Channel(socket.socket(fileno=frame.fds[0])))
