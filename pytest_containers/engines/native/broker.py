"""A run that several test processes share: the controller of pytest-xdist and its workers.

The controller listens on an abstract Unix socket with a random name. A worker connects and gets a
socket to the supervisor, which watches the process of the worker from then on.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Callable

from pytest_containers.linux.sockets import is_outside_of_containers, peer_credentials
from pytest_containers.model.engine import Engine
from pytest_containers.model.errors import ContainersError, RunLostError
from pytest_containers.model.threads import starting_threads
from pytest_containers.runtime.run import make_client
from pytest_containers.runtime.wire.channel import Channel, ChannelClosed
from pytest_containers.runtime.wire.client import Client, error_of
from pytest_containers.runtime.wire.dispatch import Call, receive_operation, send_operation
from pytest_containers.runtime.wire.faults import Fault, FaultError
from pytest_containers.runtime.wire.message import unpack_answer
from pytest_containers.runtime.wire.operations.run import JoinRun, RunJoined

_PATIENCE_S = 10.0
"""For the request of a worker that has connected: the others wait meanwhile."""


class NativeBroker:
    """The side of the controller, with a thread that accepts workers.

    Args:
        engine: Returns the engine whose run is shared; called when the first worker connects.
    """

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine
        self.address: str = f"pytest-containers-{secrets.token_hex(16)}"
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.bind(f"\0{self.address}")
        self._sock.listen(64)
        thread = threading.Thread(target=self._serve, name="pytest-containers broker", daemon=True)
        with starting_threads():
            thread.start()

    def close(self) -> None:
        """Accept no more workers; idempotent."""
        with contextlib.suppress(OSError):  # already closed
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
            except (ChannelClosed, FaultError, OSError):
                pass  # the worker is gone, or silent, or another program
            finally:
                channel.close()

    def _answer(self, channel: Channel) -> None:
        pid, uid, _ = peer_credentials(channel.sock)
        if uid != os.geteuid():
            return
        call: Call[RunJoined] = Call(channel, 0, JoinRun.__name__, {})
        channel.sock.settimeout(_PATIENCE_S)
        label = receive_operation(channel, JoinRun).label
        channel.sock.settimeout(None)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, theirs:
            pidfd = os.pidfd_open(pid)
            try:
                if not is_outside_of_containers(pidfd):
                    return
                errors_fd = self._engine().adopt(theirs.fileno(), pidfd, label)
            except ContainersError as error:
                call.refuse(Fault(type(error).__name__, error.message, error.data))
                return
            finally:
                os.close(pidfd)
            call.answer(RunJoined(supervisor=ours.fileno(), errors=errors_fd))


def connect(address: str, debug: str | None = None) -> Client:
    """Connect a worker to the run of its controller.

    Args:
        debug: As for `start_run`.

    Raises:
        ContainersError: The run cannot be started.
        RunLostError: The controller is gone.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    channel = Channel(sock)
    try:
        sock.connect(f"\0{address}")
        worker = os.environ.get("PYTEST_XDIST_WORKER", "")
        send_operation(channel, JoinRun(label=f"worker {worker}" if worker else ""))
        frame = channel.receive()
    except OSError:
        raise RunLostError(
            "the test run's controller does not answer, so its containers cannot be shared"
        ) from None
    finally:
        channel.close()
    answer = unpack_answer(JoinRun.__name__, RunJoined, *frame)
    if isinstance(answer, Fault):
        raise error_of(answer)
    return make_client(Channel(socket.socket(fileno=answer.supervisor)), answer.errors, debug)
