"""Relays, forwarded ports, connections into namespaces, and waiting for listeners."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

import pytest
from helpers.ports import free_port

from pytest_containers.runtime.loop import Loop
from pytest_containers.runtime.messages import Fault
from pytest_containers.runtime.network.dial import dial, dial_inside
from pytest_containers.runtime.network.forward import Forwards
from pytest_containers.runtime.network.hostports import HostPorts, connect_host
from pytest_containers.runtime.network.listening import Listening
from pytest_containers.runtime.network.networks import Facts, Network
from pytest_containers.runtime.network.relay import Relay

T = TypeVar("T")
TIMEOUT_S = 10.0


class Bench:
    """A loop on this thread, and things that are done beside it on another."""

    def __init__(self, stack: ExitStack) -> None:
        self.loop = Loop()
        self._stack = stack

    def beside(self, function: Callable[[], T]) -> T:
        """Run the loop until `function`, called on a thread, has returned; its result."""
        results: list[T] = []
        errors: list[BaseException] = []
        with ExitStack() as stack:
            left, right = (stack.enter_context(sock) for sock in socket.socketpair())

            def call() -> None:
                try:
                    results.append(function())
                except BaseException as error:  # noqa: BLE001 - raised below
                    errors.append(error)
                right.send(b"x")

            thread = threading.Thread(target=call)
            self.loop._stopped = False
            self.loop.add_reader(left.fileno(), self.loop.stop)
            thread.start()
            self.loop.run()
            self.loop.remove_reader(left.fileno())
            thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def result(self, start: Callable[[Callable[[Any], None]], object]) -> Any:
        """Run the loop until `start`'s callback was called; what it was called with."""
        results: list[Any] = []

        def done(result: Any) -> None:
            results.append(result)
            self.loop.stop()

        self.loop._stopped = False
        start(done)
        if not results:
            self.loop.run()
        return results[0]

    def own(self, sock: socket.socket) -> socket.socket:
        """Close it after the test."""
        self._stack.enter_context(sock)
        sock.settimeout(TIMEOUT_S)
        return sock

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """A connected pair of TCP sockets."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            left = self.own(socket.create_connection(server.getsockname()))
            return left, self.own(server.accept()[0])


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack)


def read_all(sock: socket.socket) -> bytes:
    data = bytearray()
    while chunk := sock.recv(1 << 16):
        data += chunk
    return bytes(data)


# ---------------------------------------------------------------------- relays


def test_a_relay_carries_both_ways_and_each_end_of_file(bench: Bench) -> None:
    (client, near), (far, server) = bench.pair(), bench.pair()
    closed: list[bool] = []
    Relay(bench.loop, near, far, lambda: closed.append(True))
    question, answer = os.urandom(3_000_000), os.urandom(2_000_000)

    def serve() -> bytes:
        asked = read_all(server)  # the client has ended its half, and still gets an answer
        server.sendall(answer)
        server.close()
        return asked

    def ask() -> tuple[bytes, bytes]:
        asked: list[bytes] = []
        thread = threading.Thread(target=lambda: asked.append(serve()))
        thread.start()
        client.sendall(question)
        client.shutdown(socket.SHUT_WR)
        answered = read_all(client)
        thread.join()
        return asked[0], answered

    assert bench.beside(ask) == (question, answer)
    assert closed == [True]
    assert near.fileno() == far.fileno() == -1


def test_a_relay_holds_a_sender_back(bench: Bench) -> None:
    (client, near), (far, server) = bench.pair(), bench.pair()
    for sock in (client, near, far, server):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    relay = Relay(bench.loop, near, far)

    def flood() -> int:
        client.settimeout(0.3)
        sent = 0
        try:
            while True:
                sent += client.send(bytes(1 << 16))
        except TimeoutError:
            return sent

    sent = bench.beside(flood)
    assert 0 < sent < 64 << 20
    client.close()
    assert len(bench.beside(lambda: read_all(server))) == sent
    relay.close()
    relay.close()


def test_a_broken_side_ends_a_relay(bench: Bench) -> None:
    (client, near), (far, server) = bench.pair(), bench.pair()
    closed: list[bool] = []
    Relay(bench.loop, near, far, lambda: closed.append(True))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()

    def send_until_broken() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                client.sendall(b"x" * 1000)

    bench.beside(send_until_broken)
    assert closed == [True]


def test_a_relay_of_sides_that_are_done_already_is_told_of_later(bench: Bench) -> None:
    """The launcher keeps a relay in a set, and takes it out when it is closed."""
    (client, near), (far, server) = bench.pair(), bench.pair()
    client.close()
    server.close()
    relays: set[Relay] = set()

    def closed() -> None:
        relays.discard(relay)
        bench.loop.stop()

    relay = Relay(bench.loop, near, far, closed)
    relays.add(relay)
    bench.loop.run()
    assert relays == set()


def test_a_relay_starves_nobody(bench: Bench) -> None:
    """Two sides that are always ready, and a third that wants its turn."""
    (client, near), (far, server) = bench.pair(), bench.pair()
    relay = Relay(bench.loop, near, far)
    stop = threading.Event()

    def send() -> None:
        try:
            while not stop.is_set():
                client.sendall(bytes(1 << 18))
        finally:
            client.close()

    threads = [threading.Thread(target=send), threading.Thread(target=lambda: read_all(server))]
    for thread in threads:
        thread.start()
    turns = []
    for _ in range(20):
        bench.result(lambda done: bench.loop.call_later(0.001, lambda: done(turns.append(1))))
    stop.set()
    bench.beside(lambda: [thread.join() for thread in threads])
    assert len(turns) == 20
    relay.close()


# ------------------------------------------------------------- forwarded ports


def direct(bench: Bench) -> Callable[..., None]:
    """A dial that needs no run."""
    return lambda protocol, ip, port, done: dial(bench.loop, protocol, ip, port, 5, done)


def echo_server(bench: Bench) -> tuple[str, int]:
    """The address of a server that sends back what the first client sends."""
    server = bench.own(socket.create_server(("127.0.0.1", 0)))

    def serve() -> None:
        with server.accept()[0] as sock:
            sock.sendall(read_all(sock))

    threading.Thread(target=serve, daemon=True).start()
    address: tuple[str, int] = server.getsockname()
    return address


@pytest.mark.parametrize("fixed", [False, True])
def test_a_forwarded_port(bench: Bench, fixed: bool) -> None:
    forwards = Forwards(bench.loop, direct(bench))
    wanted = free_port() if fixed else None
    target = echo_server(bench)
    number = bench.result(lambda done: forwards.open("key", "tcp", target, wanted, done))
    assert wanted in (None, number)
    data = os.urandom(500_000)

    def ask() -> bytes:
        with socket.create_connection(("127.0.0.1", number), TIMEOUT_S) as sock:
            threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(1))).start()
            return read_all(sock)

    assert bench.beside(ask) == data
    forwards.close("key")
    forwards.close("key")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", number), TIMEOUT_S)


def test_a_forwarded_port_where_nobody_listens_resets(bench: Bench) -> None:
    forwards = Forwards(bench.loop, direct(bench))
    target = ("127.0.0.1", free_port())
    number = bench.result(lambda done: forwards.open("key", "tcp", target, None, done))

    def ask() -> bytes:
        with socket.create_connection(("127.0.0.1", number), TIMEOUT_S) as sock:
            return sock.recv(1)

    with pytest.raises(ConnectionResetError):
        bench.beside(ask)
    forwards.close("key")


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_fixed_port_that_is_taken(bench: Bench, protocol: str) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            other.listen()
        number = other.getsockname()[1]
        forwards = Forwards(bench.loop, direct(bench))
        fault = bench.result(
            lambda done: forwards.open("key", protocol, ("127.0.0.1", 1), number, done)
        )
    assert isinstance(fault, Fault)
    assert fault.kind == "StartError"
    assert fault.data == {"port": number, "errno": errno.EADDRINUSE}
    assert f"host port {number}/{protocol} on 127.0.0.1: it is taken" in fault.message


def test_datagrams_find_their_way_back(bench: Bench) -> None:
    server = bench.own(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    server.bind(("127.0.0.1", 0))
    forwards = Forwards(bench.loop, direct(bench))
    target = server.getsockname()
    number = bench.result(lambda done: forwards.open("key", "udp", target, None, done))
    clients = [bench.own(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3)]

    def ask() -> list[bytes]:
        for count, client in enumerate(clients):
            client.sendto(f"{count}".encode(), ("127.0.0.1", number))
        for _ in clients:
            data, sender = server.recvfrom(100)
            server.sendto(b"for " + data, sender)
        return [client.recv(100) for client in clients]

    assert bench.beside(ask) == [b"for 0", b"for 1", b"for 2"]
    forwards.close("key")


# ------------------------------------------------------------------------ dial


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
def test_dial_connects(bench: Bench, ip: str) -> None:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.create_server((ip, 0), family=family) as server:
        port = server.getsockname()[1]
        with bench.result(lambda done: dial(bench.loop, "tcp", ip, port, 5, done)) as sock:
            assert sock.getpeername()[:2] == (ip, port)


def test_dial_tells_why_not(bench: Bench) -> None:
    port = free_port()
    fault = bench.result(lambda done: dial(bench.loop, "tcp", "127.0.0.1", port, 5, done))
    assert fault == Fault(
        "ContainersError",
        f"connect to 127.0.0.1 port {port}: Connection refused",
        {"errno": errno.ECONNREFUSED},
    )


def test_dial_gives_up_in_time(bench: Bench) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        with socket.create_connection(address):  # fills the backlog: no more is answered
            fault = bench.result(lambda done: dial(bench.loop, "tcp", *address, 0.05, done))
    assert isinstance(fault, Fault)
    assert fault.data == {"errno": errno.ETIMEDOUT}


@pytest.mark.needs("root")
@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
def test_dial_inside_reaches_what_only_listens_on_loopback(bench: Bench, ip: str) -> None:
    netns = os.open("/proc/self/ns/net", os.O_RDONLY)
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        with socket.create_server((ip, 0), family=family) as server:
            port = server.getsockname()[1]
            before = len(os.listdir("/proc/self/fd"))
            sock = bench.result(
                lambda done: dial_inside(bench.loop, netns, netns, "tcp", port, 5, done)
            )
            with sock:
                assert sock.getpeername()[0] == ip
            assert len(os.listdir("/proc/self/fd")) <= before
        fault = bench.result(
            lambda done: dial_inside(bench.loop, netns, netns, "tcp", port, 5, done)
        )
        assert fault.message == f"connect to 127.0.0.1 port {port}: Connection refused"
    finally:
        os.close(netns)


# ------------------------------------------------------------------- listening


@pytest.fixture
def listening(bench: Bench) -> Iterator[Callable[..., Any]]:
    """``listening(ports, timeout_s, done)`` in this process's own namespace."""
    netns = os.open("/proc/self/ns/net", os.O_RDONLY)
    waits = Listening(bench.loop)
    yield lambda ports, timeout_s, done: waits.wait(netns, netns, ports, timeout_s, done)
    os.close(netns)


@pytest.mark.needs("root")
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_listener_on_any_address_counts(
    bench: Bench, listening: Callable[..., Any], address: str
) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        assert bench.result(lambda done: listening([(port, "tcp")], 5, done)) is None


@pytest.mark.needs("root")
def test_bound_but_not_listening_does_not_count(
    bench: Bench, listening: Callable[..., Any]
) -> None:
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        udp.bind(("127.0.0.1", 0))
        ports = [(tcp.getsockname()[1], "tcp"), (udp.getsockname()[1], "udp")]
        assert bench.result(lambda done: listening(ports, 0.05, done)) == ports[:1]


@pytest.mark.needs("root")
def test_a_listener_that_comes_later(bench: Bench, listening: Callable[..., Any]) -> None:
    port = free_port()
    servers: list[socket.socket] = []

    def listen() -> None:
        servers.append(bench.own(socket.create_server(("127.0.0.1", port))))

    bench.loop.call_later(0.05, listen)
    assert bench.result(lambda done: listening([(port, "tcp")], 5, done)) is None
    assert servers


@pytest.mark.needs("root")
def test_a_wait_that_is_cancelled_says_nothing(bench: Bench, listening: Callable[..., Any]) -> None:
    said: list[Any] = []
    waiter = listening([(free_port(), "tcp")], 0.02, said.append)
    waiter.cancel()
    waiter.cancel()
    bench.result(lambda done: bench.loop.call_later(0.05, lambda: done(None)))
    assert said == []


# ----------------------------------------------------------------- host's ports


def run_facts(gateway: str, prefix6: str = "") -> Facts:
    return Facts(127, "127.0.0.0/8", prefix6, False, "", gateway)


def ask_from(source: str, address: tuple[str, int]) -> bytes:
    """What is answered; nothing when the connection is closed at once, or reset."""
    with socket.create_connection(address, TIMEOUT_S, (source, 0)) as sock:
        try:
            sock.sendall(b"question")
            sock.shutdown(socket.SHUT_WR)
            return read_all(sock)
        except OSError:
            return b""


def test_a_port_is_for_the_networks_that_were_given_it(bench: Bench) -> None:
    """127.0.n.x stands for the run's prefix: block k is 127.0.0.0 + 64 k."""
    target = echo_server(bench)
    number = target[1]
    gateway = "127.0.0.9"
    ports = HostPorts(
        bench.loop, run_facts(gateway), lambda sock, port: connect_host(bench.loop, sock, port)
    )
    ours, strangers = Network(4, gateway, ""), Network(5, gateway, "")
    ports.expose(number, ours)
    ports.expose(number, ours)
    assert bench.beside(lambda: ask_from("127.0.1.65", (gateway, number))) == b""
    assert bench.beside(lambda: ask_from("127.0.1.5", (gateway, number))) == b"question"
    ports.withdraw(number, ours)
    ports.expose(number, strangers)
    ports.withdraw(number, ours)
    assert bench.beside(lambda: ask_from("127.0.1.5", (gateway, number))) == b""
    ports.withdraw(number, strangers)
    ports.withdraw(number, strangers)
    with pytest.raises(ConnectionRefusedError):
        bench.beside(lambda: ask_from("127.0.1.5", (gateway, number)))


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
def test_a_server_of_the_host_on_either_loopback(bench: Bench, ip: str) -> None:
    (client, near) = bench.pair()
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    server = bench.own(socket.create_server((ip, 0), family=family))
    connect_host(bench.loop, near, server.getsockname()[1])

    def talk() -> bytes:
        client.shutdown(socket.SHUT_WR)
        with server.accept()[0] as sock:
            sock.sendall(b"hello")
        return read_all(client)

    assert bench.beside(talk) == b"hello"


def test_a_host_port_where_nobody_listens_ends_the_connection(bench: Bench) -> None:
    gateway, number = "127.0.0.9", free_port()
    ports = HostPorts(
        bench.loop, run_facts(gateway), lambda sock, port: connect_host(bench.loop, sock, port)
    )
    network = Network(4, gateway, "")
    ports.expose(number, network)

    assert bench.beside(lambda: ask_from("127.0.1.5", (gateway, number))) == b""
    ports.withdraw(number, network)


def test_ipv6_peers_are_told_by_their_network(bench: Bench) -> None:
    facts = run_facts("127.0.0.9", "fd01:203:405::/48")
    ports = HostPorts(bench.loop, facts, lambda sock, port: sock.close())
    network = Network(7, "", "")
    port = free_port()
    ports.expose(port, network)
    try:
        assert ports._may("fd01:203:405:7::41", port)
        assert not ports._may("fd01:203:405:8::41", port)
        assert not ports._may("fd01:203:406:7::41", port)
        assert not ports._may("fe80:0:0:7::41%lo", port)
    finally:
        ports.withdraw(port, network)
