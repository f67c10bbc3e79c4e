"""The answers to trapped calls: each container has an address of its own in 127.0.0.0/8.

A socket is made here and handed over, and a copy is kept until the program binds or connects it:
that call is then done here on the copy, with the address that the container may have. Docker's
default policy has no pidfd_getfd(2), with which the socket could be fetched when it is needed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from pytest_containers.engines.process.low_ports import real_port
from pytest_containers.engines.process.names import PORT
from pytest_containers.linux import notify
from pytest_containers.linux.notify import Trap
from pytest_containers.linux.numbers import NR

_IP_BIND_ADDRESS_NO_PORT = 24
_ANY, _LOCALHOST = "0.0.0.0", "127.0.0.1"
_SOCK_TYPE, _MAPPED = 0xF, b"\0" * 10 + b"\xff\xff"
_MOST_COPIES, _MOST_SENT_BYTES = 512, 1 << 16
_MOST_WAITING = 128
"""The largest number of connections of a container that wait for the other side to accept."""


@dataclass
class AddressPolicy:
    """What a container may connect to.

    Attributes:
        address: Its own address; empty without a network, which refuses all addresses.
        egress: True lets it connect to other machines.
        host_ports: Ports of this machine that it reaches at `gateway`.
        may_reach: Tells whether it may connect to the address of another container.
        name_servers: The addresses whose port 53 is led to `names`.
        names: The address and port of the name server of the run.
    """

    address: str
    gateway: str = ""
    egress: bool = False
    host_ports: frozenset[int] = frozenset()
    may_reach: Callable[[str], bool] = field(default=lambda address: False)
    name_servers: Collection[str] = ()
    names: tuple[str, int] = ("", 0)


class Traps:
    """The traps of one container, answered by a thread.

    Args:
        listener: The listener of its filter, owned from now on.
        policy: What it may connect to.
        segments: A descriptor to note the makers of System V segments in.

    Attributes:
        refused: The number of connections that had no way.
        creators: The processes that have made System V segments.
    """

    def __init__(self, listener: int, policy: AddressPolicy, segments: int) -> None:
        self._listener = listener
        self._policy = policy
        self._segments = segments
        self._copies: dict[int, socket.socket] = {}
        self._own_uid = os.geteuid()
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING)
        self.refused: int = 0
        self.creators: set[int] = set()
        threading.Thread(target=self._serve, name="traps", daemon=True).start()

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        while True:
            events = poll.poll()[0][1]
            if not events & select.POLLIN:
                break  # POLLHUP: no process has the filter any more
            with contextlib.suppress(OSError):
                trap = notify.receive(self._listener)
                if trap is not None:
                    self._decide(trap)
        os.close(self._listener)
        for copy in self._copies.values():
            copy.close()
        self._copies.clear()

    def _decide(self, trap: Trap) -> None:
        try:
            if trap.number == NR["socket"]:
                self._make_socket(trap)
            elif trap.number == NR["shmget"]:
                self._note_segment(trap)
                notify.resume(self._listener, trap)
            else:
                self._address(trap)
        except OSError as error:
            notify.answer(self._listener, trap, error=error.errno or errno.EACCES)
        except (OverflowError, ValueError, MemoryError):  # of numbers that no program means
            notify.answer(self._listener, trap, error=errno.EINVAL)
        except RuntimeError:  # no thread can be made
            notify.answer(self._listener, trap, error=errno.EAGAIN)

    def _note_segment(self, trap: Trap) -> None:
        with open(f"/proc/{trap.tid}/status") as file:
            pid = next(int(line[5:]) for line in file if line.startswith("Tgid:"))
        if pid not in self.creators:
            self.creators.add(pid)
            os.write(self._segments, b"%d\n" % pid)

    # -------------------------------------------------------------------- sockets

    def _make_socket(self, trap: Trap) -> None:
        family, kind, protocol = map(_signed, trap.arguments[:3])
        if protocol < 0:  # which means none for Python
            raise OSError(errno.EINVAL, "")
        sock = socket.socket(family, kind & _SOCK_TYPE, protocol)
        if kind & socket.SOCK_NONBLOCK:
            sock.setblocking(False)
        if len(self._copies) >= _MOST_COPIES:
            # The oldest: most programs bind or connect at once, or never.
            self._copies.pop(next(iter(self._copies))).close()
        self._copies[os.fstat(sock.fileno()).st_ino] = sock
        close_on_exec = bool(kind & socket.SOCK_CLOEXEC)
        notify.answer_with(self._listener, trap, sock.fileno(), close_on_exec=close_on_exec)

    @contextlib.contextmanager
    def _as_owner(self, tid: int) -> Iterator[None]:
        """Act as the user of the process, whose memory is that user's to read."""
        status = os.stat(f"/proc/{tid}")
        owner, group = status.st_uid, status.st_gid
        if owner == self._own_uid or self._own_uid != 0:
            yield
            return
        with notify.as_user(owner, group):
            yield

    def _address(self, trap: Trap) -> None:
        fd, first, second = trap.arguments[0], trap.arguments[1], trap.arguments[2]
        is_send = trap.number == NR["sendto"]
        where, size = trap.arguments[4:6] if is_send else (first, second)
        with self._as_owner(trap.tid):
            raw = notify.address_at(trap.tid, where, size & 0xFFFFFFFF)
            target = _parse(raw)
            if target is None:
                notify.resume(self._listener, trap)
                return
            link = os.readlink(f"/proc/{trap.tid}/fd/{fd & 0xFFFFFFFF}")
            inode = int(link[8:-1]) if link.startswith("socket:[") else 0
            copy = self._copies.get(inode)
            data = b""
            if is_send and copy is not None:
                # It says how much is read here, where all containers are served.
                if second > _MOST_SENT_BYTES:
                    raise OSError(errno.EMSGSIZE, "")
                data = notify.read_memory(trap.tid, first, second)
        if not notify.is_valid(self._listener, trap):
            return
        if copy is None:
            # Bound or connected already: what is sent now goes where the program says.
            self._again(trap, target)
        elif is_send:
            self._send(trap, copy, data, target)
        elif trap.number == NR["bind"]:
            self._bind(copy, target)
            self._copies.pop(inode).close()  # else the port stays taken after the program
            notify.answer(self._listener, trap)
        else:
            self._connect(trap, self._copies.pop(inode), target)

    def _again(self, trap: Trap, target: tuple[str, int]) -> None:
        """Answer a call on a socket that was bound before: to an address that it may have."""
        if trap.number == NR["bind"]:
            notify.answer(self._listener, trap, error=errno.EINVAL)
        elif trap.number == NR["sendto"] and target[0] == _LOCALHOST:
            notify.resume(self._listener, trap)  # a datagram's way back to the test
        else:
            self._destination(target)
            notify.resume(self._listener, trap)

    def _bind(self, sock: socket.socket, target: tuple[str, int]) -> None:
        address, port = target
        own = self._policy.address
        if not own or address not in (_ANY, _LOCALHOST, "::", "::1", own):
            raise OSError(errno.EADDRNOTAVAIL, "")
        if sock.family == socket.AF_INET:
            sock.bind((own, real_port(port)))
        elif not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
            sock.bind((f"::ffff:{own}", real_port(port)))
        else:
            # IPv6 only. It has no address of its own there: it is told that all is well, since
            # some servers end otherwise, and listens where nobody asks.
            with contextlib.suppress(OSError):
                sock.bind(("::1", 0))

    def _destination(self, target: tuple[str, int]) -> tuple[str, int]:
        """Return where a connection goes.

        Raises:
            OSError: It may not go there.
        """
        address, port = target
        policy = self._policy
        if not policy.address:
            raise OSError(errno.ENETUNREACH, "")
        if address in (_ANY, _LOCALHOST, "::", "::1", policy.address):
            return policy.address, real_port(port)
        if policy.gateway and address == policy.gateway and port in policy.host_ports:
            return _LOCALHOST, port
        if address.startswith("127."):
            if policy.may_reach(address):
                return address, real_port(port)
            raise OSError(errno.ECONNREFUSED, "")
        if policy.egress:
            return target
        self.refused += 1
        raise OSError(errno.ENETUNREACH, "")

    def _connect(self, trap: Trap, sock: socket.socket, target: tuple[str, int]) -> None:
        try:
            place = self._names(sock, target) or self._destination(target)
            self._take_address(sock, place)
        except BaseException:
            sock.close()
            raise
        is_blocking = not fcntl.fcntl(sock, fcntl.F_GETFL) & os.O_NONBLOCK
        if is_blocking and sock.type & _SOCK_TYPE == socket.SOCK_STREAM:
            # Not on this thread: the container may be the server that has to accept first.
            if not self._waiting.acquire(blocking=False):
                sock.close()
                raise OSError(errno.EAGAIN, "")
            arguments = (trap, sock, place)
            threading.Thread(target=self._connect_waiting, args=arguments, daemon=True).start()
        else:
            self._connect_now(*(trap, sock, place))

    def _names(self, sock: socket.socket, target: tuple[str, int]) -> tuple[str, int] | None:
        """Return where questions for names go; None for anything else."""
        policy = self._policy
        if not policy.address or target[1] != PORT or sock.type & _SOCK_TYPE != socket.SOCK_DGRAM:
            return None
        return policy.names if target[0] in policy.name_servers else None

    def _connect_waiting(self, trap: Trap, sock: socket.socket, place: tuple[str, int]) -> None:
        try:
            self._connect_now(trap, sock, place)
        finally:
            self._waiting.release()

    def _connect_now(self, trap: Trap, sock: socket.socket, place: tuple[str, int]) -> None:
        error = 0
        with sock:
            try:
                sock.connect(_for(sock, place))
            except OSError as failure:
                error = failure.errno or errno.ECONNREFUSED
        notify.answer(self._listener, trap, error=error)

    def _take_address(self, sock: socket.socket, place: tuple[str, int]) -> None:
        """Bind a client, so that servers see which container calls."""
        if place[0].startswith("127."):
            with contextlib.suppress(OSError):  # bound before, to an address of its own
                sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind(_for(sock, (self._policy.address, 0)))

    def _send(self, trap: Trap, sock: socket.socket, data: bytes, target: tuple[str, int]) -> None:
        place = self._destination(target)
        self._take_address(sock, place)
        sent = sock.sendto(data, _signed(trap.arguments[3]), _for(sock, place))
        notify.answer(self._listener, trap, sent)


def _signed(value: int) -> int:
    """Return the ``int`` that the lower half of a register holds."""
    return (value & 0xFFFFFFFF ^ 0x80000000) - 0x80000000


def _parse(raw: bytes) -> tuple[str, int] | None:
    """Return the address and port of a ``struct sockaddr``; None if it is no IP address."""
    if len(raw) < 8:
        return None
    family, port = struct.unpack_from("=H", raw)[0], struct.unpack_from("!H", raw, 2)[0]
    if family == socket.AF_INET:
        return socket.inet_ntoa(raw[4:8]), port
    if family == socket.AF_INET6 and len(raw) >= 24:
        packed = raw[8:24]
        if packed.startswith(_MAPPED):
            return socket.inet_ntoa(packed[12:]), port
        return socket.inet_ntop(socket.AF_INET6, packed), port
    return None


def _for(sock: socket.socket, place: tuple[str, int]) -> tuple[str, int]:
    """Return an address in the family of a socket."""
    address, port = place
    mapped = sock.family == socket.AF_INET6 and ":" not in address
    return (f"::ffff:{address}" if mapped else address), port
