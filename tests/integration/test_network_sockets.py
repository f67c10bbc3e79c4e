"""Relays, forwarded ports, connections into namespaces, and waiting for listeners."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import pytest
from helpers.ports import free_port

from pytest_containers.runtime.network.addresses import Facts
from pytest_containers.runtime.network.bridge import Bridge
from pytest_containers.runtime.network.dial import dial, dial_inside
from pytest_containers.runtime.network.forward import Dial, Forwards
from pytest_containers.runtime.network.hostports import HostConnections, HostPorts, connect_host
from pytest_containers.runtime.network.listening import ListenCriteria, ListenWaits, PortKey
from pytest_containers.runtime.network.relay import RELAY_DESCRIPTORS, Relay
from pytest_containers.runtime.wire.faults import Fault, FaultError
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.operations.starts import PortRequest
from pytest_containers.runtime.wire.tasks import Future, run_task, sleep

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

    def run(self, coroutine: Coroutine[Future[Any], None, T]) -> T:
        """Run the loop until a coroutine has ended; its result."""
        results: list[T] = []
        errors: list[Exception] = []

        async def work() -> None:
            try:
                results.append(await coroutine)
            except Exception as error:  # noqa: BLE001 - raised below
                errors.append(error)

        self.loop._stopped = False
        task = run_task(work())
        if not task.ended.done:
            task.ended.when_done(self.loop.stop)
            self.loop.run()
        if errors:
            raise errors[0]
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
        turns.append(bench.run(sleep(bench.loop, 0.001)))
    stop.set()
    bench.beside(lambda: [thread.join() for thread in threads])
    assert len(turns) == 20
    relay.close()


# ------------------------------------------------------------- forwarded ports


def direct(bench: Bench) -> Dial:
    """A dial that needs no run."""
    return lambda protocol, ip, port: dial(bench.loop, protocol, ip, port, 5)


def echo_server(bench: Bench) -> tuple[str, int]:
    """The address of a server that sends back what the first client sends."""
    server = bench.own(socket.create_server(("127.0.0.1", 0)))

    def serve() -> None:
        with server.accept()[0] as sock:
            sock.sendall(read_all(sock))

    threading.Thread(target=serve, daemon=True).start()
    address: tuple[str, int] = server.getsockname()
    return address


def forward(
    forwards: Forwards, protocol: str, target: tuple[str, int], host: int | None = None
) -> int:
    """Forward one port; its number on the host."""
    ip, number = target
    ports = forwards.open("key", ip, [PortRequest(number=number, protocol=protocol, host=host)])
    return ports[0].host


@pytest.mark.parametrize("fixed", [False, True])
def test_a_forwarded_port(bench: Bench, fixed: bool) -> None:
    forwards = Forwards(bench.loop, direct(bench))
    wanted = free_port() if fixed else None
    target = echo_server(bench)
    number = forward(forwards, "tcp", target, wanted)
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
    number = forward(forwards, "tcp", target)

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
        with pytest.raises(FaultError) as caught:
            forward(forwards, protocol, ("127.0.0.1", 1), number)
    fault = caught.value.fault
    assert fault.kind == "StartError"
    assert fault.data == {"port": number, "errno": errno.EADDRINUSE}
    assert f"host port {number}/{protocol} on 127.0.0.1: it is taken" in fault.message


def test_ports_are_forwarded_all_or_none(bench: Bench) -> None:
    forwards = Forwards(bench.loop, direct(bench))
    first = free_port()
    with bench.own(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        wanted = [PortRequest(number=1, protocol="tcp", host=port) for port in (first, taken)]
        with pytest.raises(FaultError, match=f"host port {taken}/tcp"):
            forwards.open("key", "127.0.0.1", wanted)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", first), TIMEOUT_S)


def test_datagrams_find_their_way_back(bench: Bench) -> None:
    server = bench.own(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    server.bind(("127.0.0.1", 0))
    forwards = Forwards(bench.loop, direct(bench))
    target = server.getsockname()
    number = forward(forwards, "udp", target)
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
        with bench.run(dial(bench.loop, "tcp", ip, port, 5)) as sock:
            assert sock.getpeername()[:2] == (ip, port)


def test_dial_tells_why_not(bench: Bench) -> None:
    port = free_port()
    with pytest.raises(FaultError) as caught:
        bench.run(dial(bench.loop, "tcp", "127.0.0.1", port, 5))
    assert caught.value.fault == Fault(
        "ContainersError",
        f"connect to 127.0.0.1 port {port}: Connection refused",
        {"errno": errno.ECONNREFUSED},
    )


def test_dial_gives_up_in_time(bench: Bench) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        with (
            socket.create_connection(address),  # fills the backlog: no more is answered
            pytest.raises(FaultError) as caught,
        ):
            bench.run(dial(bench.loop, "tcp", *address, 0.05))
    assert caught.value.fault.data == {"errno": errno.ETIMEDOUT}


@pytest.mark.needs("root")
@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
def test_dial_inside_reaches_what_only_listens_on_loopback(bench: Bench, ip: str) -> None:
    netns = os.open("/proc/self/ns/net", os.O_RDONLY)
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        with socket.create_server((ip, 0), family=family) as server:
            port = server.getsockname()[1]
            before = len(os.listdir("/proc/self/fd"))
            with bench.run(dial_inside(bench.loop, netns, netns, "tcp", port, 5)) as sock:
                assert sock.getpeername()[0] == ip
            assert len(os.listdir("/proc/self/fd")) <= before
        refused = f"connect to 127.0.0.1 port {port}: Connection refused"
        with pytest.raises(FaultError, match=refused):
            bench.run(dial_inside(bench.loop, netns, netns, "tcp", port, 5))
    finally:
        os.close(netns)


# ------------------------------------------------------------------- listening


Wait = Callable[[list[PortKey], float], Coroutine[Future[Any], None, Sequence[PortKey]]]


@pytest.fixture
def listening(bench: Bench) -> Iterator[Wait]:
    """``listening(ports, timeout_s)`` in this process's own namespace."""
    netns = os.open("/proc/self/ns/net", os.O_RDONLY)
    waits = ListenWaits(bench.loop)

    async def listening(ports: list[PortKey], timeout_s: float) -> Sequence[PortKey]:
        waiter = waits.wait(netns, netns, ListenCriteria(ports), timeout_s)
        try:
            return (await waiter.result).missing
        finally:
            waiter.cancel()

    yield listening
    os.close(netns)


@pytest.mark.needs("root")
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_listener_on_any_address_counts_where_nobody_is_to_reach_it(
    bench: Bench, listening: Wait, address: str
) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        assert bench.run(listening([(port, "tcp")], 5)) == ()


@pytest.mark.needs("root")
def test_bound_but_not_listening_does_not_count(bench: Bench, listening: Wait) -> None:
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        udp.bind(("127.0.0.1", 0))
        ports = [(tcp.getsockname()[1], "tcp"), (udp.getsockname()[1], "udp")]
        assert bench.run(listening(ports, 0.05)) == ports[:1]


@pytest.mark.needs("root")
def test_a_listener_that_comes_later(bench: Bench, listening: Wait) -> None:
    port = free_port()
    servers: list[socket.socket] = []

    def listen() -> None:
        servers.append(bench.own(socket.create_server(("127.0.0.1", port))))

    bench.loop.call_later(0.05, listen)
    assert bench.run(listening([(port, "tcp")], 5)) == ()
    assert servers


@pytest.mark.needs("root")
def test_a_wait_that_is_cancelled_closes_its_socket(bench: Bench, listening: Wait) -> None:
    fds = len(os.listdir("/proc/self/fd"))
    task = run_task(listening([(free_port(), "tcp")], 1000))
    bench.run(sleep(bench.loop, 0.01))
    task.cancel()
    assert task.ended.done
    # Fewer when the collector closed what other tests have left.
    assert len(os.listdir("/proc/self/fd")) <= fds


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
        bench.loop,
        run_facts(gateway),
        lambda sock, port: run_task(connect_host(bench.loop, sock, port)),
    )
    ours, strangers = Bridge(4, gateway, ""), Bridge(5, gateway, "")
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
    run_task(connect_host(bench.loop, near, server.getsockname()[1]))

    def talk() -> bytes:
        client.shutdown(socket.SHUT_WR)
        with server.accept()[0] as sock:
            sock.sendall(b"hello")
        return read_all(client)

    assert bench.beside(talk) == b"hello"


def test_no_address_takes_all_connections_to_the_host(bench: Bench) -> None:
    server = bench.own(socket.create_server(("127.0.0.1", 0)))  # accepts nobody: they stay
    gateway, number = "127.0.0.9", server.getsockname()[1]
    connections = HostConnections(bench.loop, 8 * RELAY_DESCRIPTORS)  # four, two of an address
    ports = HostPorts(bench.loop, run_facts(gateway), connections.connect)
    network = Bridge(4, gateway, "")
    ports.expose(number, network)

    def hold(source: str) -> socket.socket:
        sock = bench.own(socket.socket())
        sock.bind((source, 0))
        sock.connect_ex((gateway, number))  # a reset may come before it returns
        return sock

    def is_reset(sock: socket.socket, wait_s: float) -> bool:
        sock.settimeout(wait_s)
        try:
            return sock.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    greedy = bench.beside(lambda: [hold("127.0.1.5") for _ in range(4)])
    other = bench.beside(lambda: hold("127.0.1.6"))
    held = [*greedy[:2], other]
    assert bench.beside(lambda: [is_reset(sock, TIMEOUT_S) for sock in greedy[2:]]) == [True, True]
    assert bench.beside(lambda: [is_reset(sock, 0.05) for sock in held]) == [False] * 3
    assert connections.count == 3
    server.close()
    assert bench.beside(lambda: [is_reset(sock, TIMEOUT_S) for sock in held]) == [True] * 3
    assert connections.count == 0
    ports.withdraw(number, network)


def test_a_host_port_where_nobody_listens_ends_the_connection(bench: Bench) -> None:
    gateway, number = "127.0.0.9", free_port()
    ports = HostPorts(
        bench.loop,
        run_facts(gateway),
        lambda sock, port: run_task(connect_host(bench.loop, sock, port)),
    )
    network = Bridge(4, gateway, "")
    ports.expose(number, network)

    assert bench.beside(lambda: ask_from("127.0.1.5", (gateway, number))) == b""
    ports.withdraw(number, network)


def test_ipv6_peers_are_told_by_their_network(bench: Bench) -> None:
    facts = run_facts("127.0.0.9", "fd01:203:405::/48")
    ports = HostPorts(bench.loop, facts, lambda sock, port: sock.close())
    network = Bridge(7, "", "")
    port = free_port()
    ports.expose(port, network)
    try:
        assert ports._may("fd01:203:405:7::41", port)
        assert not ports._may("fd01:203:405:8::41", port)
        assert not ports._may("fd01:203:406:7::41", port)
        assert not ports._may("fe80:0:0:7::41%lo", port)
    finally:
        ports.withdraw(port, network)
