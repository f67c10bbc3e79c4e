"""Host names of containers: a name server for those that cannot have an ``/etc/hosts``.

Connections of containers to the machine's name servers are led here. Who asks is known by the
address that the question comes from.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

_HEADER = struct.Struct("!6H")
_ANSWER, _AVAILABLE, _NO_SUCH_NAME = 0x8000, 0x0080, 3
_ADDRESS, _INTERNET, _TTL_S = 1, 1, 1
_MOST_BYTES, _FORWARD_S, _MOST_ASKING = 4096, 5.0, 64
PORT = 53
HOST_NAME = "host.containers.internal"
"""The name of this machine for containers that reach some of its ports."""


class NameServer:
    """A name server on a thread.

    Args:
        address: The address to bind.
        look_up: Returns the address of a name for the container with an address; None for a name
            that no container has.
        forwards: Returns True if other questions of a container go to the machine's name servers.

    Attributes:
        place: Its address and port.
        others: The machine's name servers.
    """

    def __init__(
        self,
        address: str,
        look_up: Callable[[str, str], str | None],
        forwards: Callable[[str], bool],
    ) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, 0))
        self.place: tuple[str, int] = self._socket.getsockname()
        self.others: tuple[str, ...] = _name_servers()
        self._look_up = look_up
        self._forwards = forwards
        self._asking = threading.BoundedSemaphore(_MOST_ASKING)
        threading.Thread(target=self._serve, name="names", daemon=True).start()

    def _serve(self) -> None:
        while True:
            with contextlib.suppress(OSError, ValueError, struct.error, IndexError):
                question, client = self._socket.recvfrom(_MOST_BYTES)
                answer = self._answer(question, client[0])
                if answer is None:
                    self._forward_beside(question, client)
                else:
                    self._socket.sendto(answer, client)

    def _answer(self, question: bytes, client: str) -> bytes | None:
        ident, flags, _, _, _, _ = _HEADER.unpack_from(question)
        labels, at = [], _HEADER.size
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode("ascii", "replace"))
            at += 1 + question[at]
        kind, _ = struct.unpack_from("!2H", question, at + 1)
        asked = question[_HEADER.size : at + 5]
        address = self._look_up(client, ".".join(labels).lower())
        if address is None and self._forwards(client):
            return None
        records = b""
        if address is not None and kind == _ADDRESS:
            pointer = 0xC000 | _HEADER.size
            records = struct.pack("!HHHIH", pointer, _ADDRESS, _INTERNET, _TTL_S, 4)
            records += socket.inet_aton(address)
        code = 0 if address is not None else _NO_SUCH_NAME
        flags = _ANSWER | flags & 0x7900 | _AVAILABLE | code
        return _HEADER.pack(ident, flags, 1, bool(records), 0, 0) + asked + records

    def _forward_beside(self, question: bytes, client: tuple[str, int]) -> None:
        """Forward on a thread; with too many of them, the question is lost as on a network."""
        if not self._asking.acquire(blocking=False):
            return
        try:
            arguments = (question, client)
            threading.Thread(target=self._forward, args=arguments, daemon=True).start()
        except RuntimeError:
            self._asking.release()

    def _forward(self, question: bytes, client: tuple[str, int]) -> None:
        try:
            self._ask_others(question, client)
        finally:
            self._asking.release()

    def _ask_others(self, question: bytes, client: tuple[str, int]) -> None:
        for server in self.others:
            family = socket.AF_INET6 if ":" in server else socket.AF_INET
            with (
                contextlib.suppress(OSError),
                socket.socket(family, socket.SOCK_DGRAM) as asking,
            ):
                asking.settimeout(_FORWARD_S)
                asking.connect((server, PORT))
                asking.send(question)
                self._socket.sendto(asking.recv(_MOST_BYTES), client)
                return


def _name_servers() -> tuple[str, ...]:
    """Return the addresses in ``/etc/resolv.conf``, or what stands for none (resolv.conf(5))."""
    try:
        with open("/etc/resolv.conf") as file:
            rows = [line.split() for line in file]
    except OSError:
        rows = []
    found = [row[1] for row in rows if len(row) > 1 and row[0] == "nameserver"]
    return tuple(found or ["127.0.0.1"])
