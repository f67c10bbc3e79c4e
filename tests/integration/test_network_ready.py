"""A container is ready when it listens where tests reach it, whoever runs them."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from urllib.request import urlopen

import pytest

import pytest_containers as pc
from pytest_containers.engines.native.listening import explain
from pytest_containers.linux.netlink import NETLINK_SOCK_DIAG, NetlinkSocket
from pytest_containers.runtime.network.listening import _listeners
from pytest_containers.runtime.wire.operations.containers import ContainerPort, Listening

LISTEN = (
    "import socket, sys, time\n"
    "host, port, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]\n"
    "s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, 1 + (kind == 'udp'))\n"
    "if ':' in host: s.setsockopt(41, 26, kind == 'v6')\n"
    "s.bind((host, port))\n"
    "if kind != 'udp': s.listen()\n"
    "time.sleep(100)\n"
)


def listener(address: str, port: int = 8000, kind: str = "tcp") -> list[str]:
    """A program that listens on an address; of ``v6`` on that of IPv6 only."""
    return ["python3", "-c", LISTEN, address, str(port), kind]


@pytest.mark.parametrize(
    ("address", "kind"), [("0.0.0.0", "tcp"), ("::", "tcp"), ("0.0.0.0", "udp"), ("::", "udp")]
)
def test_listeners_that_tests_reach(each_engine: pc.Engine, address: str, kind: str) -> None:
    ports = ["8000/udp" if kind == "udp" else 8000]
    with each_engine.run("host:", listener(address, kind=kind), ports=ports) as container:
        if kind == "tcp":
            socket.create_connection(container.address(8000), 10).close()


@pytest.mark.parametrize(
    ("address", "kind", "shown"),
    [
        ("127.0.0.1", "tcp", "127.0.0.1:8000"),
        ("127.0.0.1", "udp", "127.0.0.1:8000"),
        ("::1", "tcp", "[::1]:8000"),
        ("::", "v6", "[::]:8000 (IPv6)"),
    ],
)
def test_listeners_that_tests_do_not_reach(
    each_engine: pc.Engine, address: str, kind: str, shown: str
) -> None:
    port = "8000/udp" if kind == "udp" else "8000/tcp"
    with pytest.raises(pc.NotReadyError) as caught:
        each_engine.run("host:", listener(address, kind=kind), ports=[port], ready_timeout_s=1)
    assert f"nothing listens on {port}" in caught.value.message
    assert f"the program listens on {shown} only; have it listen on 0.0.0.0" in caught.value.message


def test_the_containers_own_address_counts(each_engine: pc.Engine) -> None:
    script = (
        "import socket, time; own = socket.gethostbyname(socket.gethostname())\n"
        "s = socket.create_server((own, 8000)); time.sleep(100)"
    )
    command = ["python3", "-c", script]
    with each_engine.run("host:", command, ports=[8000], name="own") as container:
        socket.create_connection(container.address(8000), 10).close()


def test_another_port_is_named(each_engine: pc.Engine) -> None:
    with pytest.raises(pc.NotReadyError, match="8001 is not open, 8000 is"):
        each_engine.run("host:", listener("0.0.0.0"), ports=[8001], ready_timeout_s=1)
    ports = [8001, "53/udp"]
    with pytest.raises(pc.NotReadyError, match="8001 and 53/udp are not open, 8000 is"):
        each_engine.run("host:", listener("0.0.0.0"), ports=ports, ready_timeout_s=1)


def test_nothing_else_is_named_where_nothing_is_open(each_engine: pc.Engine) -> None:
    with pytest.raises(pc.NotReadyError) as caught:
        each_engine.run("host:", listener("127.0.0.1", 9000), ports=[8001], ready_timeout_s=1)
    first_line = caught.value.message.splitlines()[0]
    assert "nothing listens on 8001/tcp after" in first_line
    assert "9000" not in first_line  # nobody reaches that one either


def test_a_port_that_is_not_listed_may_be_anywhere(each_engine: pc.Engine) -> None:
    """`connect` finds it, and needs no address."""
    ready = pc.wait.port(8000)
    with each_engine.run("host:", listener("127.0.0.1"), ready=ready) as container:
        container.connect(8000).close()
    with each_engine.run("host:", listener("::1"), ready=ready, network=False) as container:
        container.connect(8000).close()


@pytest.mark.long
def test_waits_for_answers_look_at_the_same(each_engine: pc.Engine) -> None:
    server = ["python3", "-m", "http.server", "8000", "--bind"]
    for ready in (pc.wait.http("/etc/hostname"), pc.wait.tcp(8000, b"GET / HTTP/1.0\r\n\r\n")):
        with pytest.raises(pc.NotReadyError, match=r"listens on 127\.0\.0\.1:8000 only"):
            each_engine.run(
                "host:", [*server, "127.0.0.1"], ports=[8000], ready=ready, ready_timeout_s=2
            )
        with each_engine.run("host:", [*server, "0.0.0.0"], ports=[8000], ready=ready) as container:
            host, port = container.address(8000)
            with urlopen(f"http://{host}:{port}/etc/hostname", timeout=60) as response:
                assert response.status == 200


def test_only_sockets_that_are_waited_for_are_read() -> None:
    """A program may have thousands of others."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server((address, 0), family=family))
            for address, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)) * 2
        ]
        numbers = [server.getsockname()[1] for server in servers]
        sock = NetlinkSocket(NETLINK_SOCK_DIAG)
        stack.callback(sock.close)
        for number in numbers:
            found = {listener.port for listener in _listeners(sock, ["tcp"], (number, number))}
            assert found == {(number, "tcp")}
        everything = {listener.port[0] for listener in _listeners(sock, ["tcp"], None)}
        assert everything >= set(numbers)


def test_the_words_for_many_open_ports_are_few() -> None:
    many = [ContainerPort(number=number, protocol="tcp") for number in range(1000, 4000)]
    answer = Listening(missing=[ContainerPort(number=80, protocol="tcp")], open=many)
    assert explain(answer, 5).endswith("1008, 1009 and 2990 more are")
