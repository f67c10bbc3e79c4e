"""Fixed addresses of the host's 127.0.0.1, each for one container after the other."""

from __future__ import annotations

import socket

from pytest_containers.runtime.network.forward import Dial, reset, reset_at_close
from pytest_containers.runtime.network.relay import Relay
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.tasks import run_task


class EndpointForwarder:
    """A listening socket, bound by the test process, and the container it leads to.

    Args:
        loop: Runs it.
        sock: Bound, TCP; taken over.
        dial: Makes a socket in the run's namespace.
    """

    def __init__(self, loop: Loop, sock: socket.socket, dial: Dial) -> None:
        self._loop = loop
        self._sock = sock
        self._dial = dial
        self._target: tuple[str, int] | None = None
        self._turn = 0
        self._dialling: set[socket.socket] = set()
        self._relays: dict[Relay, socket.socket] = {}
        self._refused = 0
        sock.setblocking(False)
        sock.listen(128)
        loop.add_reader(sock.fileno(), self._accept)

    def lead_to(self, target: tuple[str, int] | None) -> int:
        """Lead to another container, or to none, and reset the connections there are.

        Returns:
            How many connections were refused since the last time: there was no container.
        """
        while self._accept():  # connections that came before belong to the old one
            pass
        self._target = target
        self._turn += 1
        for near in self._dialling:
            reset(near)
        self._dialling.clear()
        for relay, near in list(self._relays.items()):
            reset_at_close(near)
            relay.close()
        refused, self._refused = self._refused, 0
        return refused

    def _accept(self) -> bool:
        try:
            near, _ = self._sock.accept()
        except OSError:
            return False
        target, turn = self._target, self._turn
        if target is None:
            self._refused += 1
            reset(near)
            return True
        self._dialling.add(near)

        run_task(self._join(near, target, turn))
        return True

    async def _join(self, near: socket.socket, target: tuple[str, int], turn: int) -> None:
        try:
            far = await self._dial("tcp", *target)
        except FaultError:
            if turn == self._turn:
                self._dialling.discard(near)
                reset(near)
            return
        if turn != self._turn:  # `near` was reset when the endpoint was led elsewhere
            far.close()
            return
        self._dialling.discard(near)
        try:
            relay = Relay(self._loop, near, far, lambda: self._forget(relay))
        except OSError:  # no pipe: out of descriptors
            far.close()
            reset(near)
        else:
            self._relays[relay] = near

    def _forget(self, relay: Relay) -> None:
        self._relays.pop(relay, None)

    def close(self) -> None:
        """Listen no more and reset what is connected."""
        self._loop.remove_reader(self._sock.fileno())
        self.lead_to(None)
        self._sock.close()
