"""Networks: who reaches whom, under which name, and how the test gets in."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from urllib.request import urlopen

import pytest
from helpers.ports import free_port

import pytest_containers as pc

SERVER = ["python3", "-m", "http.server", "--bind", "::", "8000"]
UDP_ECHO = (
    "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 5353))\n"
    "while True: data, who = s.recvfrom(2000); s.sendto(data.upper(), who)"
)
Can = Callable[[pc.Container, str, int], bool]


@pytest.fixture
def can() -> Can:
    """Whether one container can connect to an address."""

    def connect(container: pc.Container, host: str, port: int) -> bool:
        script = f"import socket; socket.create_connection(({host!r}, {port}), 1).close()"
        return container.exec(["python3", "-c", script]).returncode == 0

    return connect


@pytest.fixture
def networks(engine: pc.Engine) -> Iterator[Callable[..., pc.Network]]:
    made: list[pc.Network] = []

    def make(*parents: pc.Network) -> pc.Network:
        made.append(engine.create_network(parents))
        return made[-1]

    yield make
    for network in reversed(made):
        network.remove()


def test_containers_find_each_other_by_name_and_alias(
    engine: pc.Engine, networks: Callable[..., pc.Network], can: Can
) -> None:
    network = networks()
    with (
        engine.run(
            "host:", SERVER, ports=[8000], name="web", aliases=["alias"], network=network
        ) as web,
        engine.run("host:", ["sleep", "100"], name="client", network=network) as client,
    ):
        for name in ("web", "alias", web.ip, web.ip6):
            assert can(client, name, 8000), name
        assert web.exec(["getent", "hosts", "client"]).returncode == 0
    assert web.ip != client.ip


def test_names_go_with_their_container(
    engine: pc.Engine, networks: Callable[..., pc.Network]
) -> None:
    network = networks()
    with engine.run("host:", ["sleep", "100"], name="stays", network=network) as stays:
        with engine.run("host:", ["sleep", "100"], name="goes", network=network):
            assert "goes" in stays.read_text("/etc/hosts")
        assert "goes" not in stays.read_text("/etc/hosts")


def test_other_networks_are_out_of_reach(
    engine: pc.Engine, networks: Callable[..., pc.Network], can: Can
) -> None:
    with (
        engine.run("host:", SERVER, ports=[8000], name="web", network=networks()) as web,
        engine.run("host:", ["sleep", "100"], network=networks()) as client,
    ):
        assert can(web, web.ip, 8000)
        assert not can(client, web.ip, 8000)
        assert not can(client, web.ip6, 8000)
        assert not can(client, "web", 8000)


def test_a_wider_network_is_reached_from_a_narrower_one(
    engine: pc.Engine, networks: Callable[..., pc.Network], can: Can
) -> None:
    wide = networks()
    narrow, other = networks(wide), networks(wide)
    with (
        engine.run("host:", SERVER, ports=[8000], name="shared", network=wide) as shared,
        engine.run("host:", SERVER, ports=[8000], name="own", network=narrow) as own,
        engine.run("host:", ["sleep", "100"], name="others", network=other) as others,
    ):
        for client in (own, others):
            for name in ("shared", shared.ip, shared.ip6):
                assert can(client, name, 8000), name
        assert not can(others, own.ip, 8000)
        assert not can(others, own.ip6, 8000)


def test_the_test_reaches_a_port(engine: pc.Engine) -> None:
    with engine.run("host:", SERVER, ports=[8000]) as web:
        host, port = web.address(8000)
        with urlopen(f"http://{host}:{port}/etc/hostname", timeout=60) as response:
            assert response.read().decode().strip() == web.name
        assert (web.host, web.port(8000)) == (host, port)


def test_a_fixed_host_port(engine: pc.Engine) -> None:
    number = free_port()
    with engine.run("host:", SERVER, ports=[f"{number}:8000"]) as web:
        assert web.address(8000) == ("127.0.0.1", number)
        with urlopen(f"http://127.0.0.1:{number}/etc/hostname", timeout=60) as response:
            assert response.read().decode().strip() == web.name
        with pytest.raises(pc.StartError, match=f"host port {number}/tcp.*it is taken"):
            engine.run("host:", SERVER, ports=[f"{number}:8000"])
    with socket.socket() as again:  # nobody listens any more
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", number))


def test_a_host_port_is_free_when_its_container_is_gone(engine: pc.Engine) -> None:
    number = free_port()
    for _ in range(20):
        engine.run("host:", SERVER, ports=[f"{number}:8000"]).remove()
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", number))
            again.listen()


def test_many_bytes_through_a_forwarded_port(engine: pc.Engine) -> None:
    number = free_port()
    script = (
        "import socket; s = socket.create_server(('', 9000)); c, _ = s.accept()\n"
        "n = 0\nwhile data := c.recv(65536): n += len(data)\n"
        "c.sendall(str(n).encode()); c.close()"
    )
    with engine.run("host:", ["python3", "-c", script], ports=[f"{number}:9000"]) as container:
        with socket.create_connection(container.address(9000), 10) as sock:
            for _ in range(100):
                sock.sendall(b"x" * 100_000)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100) == b"10000000"


@pytest.mark.parametrize("fixed", [False, True])
def test_udp(engine: pc.Engine, fixed: bool) -> None:
    number = free_port(socket.SOCK_DGRAM)
    port = f"{number}:5353/udp" if fixed else "5353/udp"
    with (
        engine.run("host:", ["python3", "-c", UDP_ECHO], ports=[port]) as container,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.settimeout(10)
        for text in (b"one", b"two"):
            sock.sendto(text, container.address(5353, "udp"))
            assert sock.recv(100) == text.upper()


def test_connect_needs_no_listed_port(engine: pc.Engine) -> None:
    script = (
        "import socket; c, _ = socket.create_server(('127.0.0.1', 7000)).accept(); c.send(b'hi')"
    )
    ready = pc.wait.port(7000)
    with engine.run("host:", ["python3", "-c", script], ready=ready, network=None) as container:
        with container.connect(7000) as sock:
            assert sock.recv(10) == b"hi"
        with pytest.raises(pc.ContainersError, match="Connection refused"):
            container.connect(7001)


def test_an_unlisted_port_says_how(engine: pc.Engine) -> None:
    with engine.run("host:", ["sleep", "100"]) as container:
        if container.reachable:
            assert container.address(80) == (container.ip, 80)
        else:
            with pytest.raises(pc.SpecError, match=r"list it, ports=\[80\]"):
                container.address(80)


def test_ports_of_the_host_that_are_exposed(engine: pc.Engine, can: Can) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]

        def answer() -> None:
            with server.accept()[0] as sock:
                sock.sendall(b"from the host")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with engine.run("host:", ["sleep", "100"], host_ports=[number]) as container:
            script = (
                f"import socket; print(socket.create_connection(('host.containers.internal', "
                f"{number}), 5).recv(100))"
            )
            result = container.exec(["python3", "-c", script], text=True)
            assert result.stdout == "b'from the host'\n", result.stderr
        thread.join(5)
        other = engine.create_network()
        with engine.run("host:", ["sleep", "100"], network=other) as stranger:
            assert not can(stranger, "host.containers.internal", number)
        other.remove()


def test_services_of_the_host_are_out_of_reach(engine: pc.Engine, can: Can) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server, socket.create_server(("", 18088)) as low:
        port, low_port = server.getsockname()[1], low.getsockname()[1]
        with engine.run("host:", ["sleep", "100"]) as container:
            prefix = container.ip.split(".")[1]
            for address in ("127.0.0.1", f"10.{prefix}.0.1", f"10.{prefix}.255.254"):
                assert not can(container, address, low_port), address
            assert not can(container, f"10.{prefix}.0.1", port)


def test_without_a_network_there_is_loopback_only(engine: pc.Engine) -> None:
    script = "cat /proc/net/dev; cat /sys/class/net/lo/operstate"
    with engine.run("host:", ["sh", "-c", script], network=None, name="lonely") as container:
        container.wait(60)
    with engine.run("host:", ["sh", "-c", script], network=False) as container:
        container.wait(60)
        devices = [
            line.split(":")[0].strip()
            for line in container.logs().stdout.splitlines()
            if ":" in line
        ]
        assert devices == ["lo"]
        assert container.ip == ""


def test_low_ports_and_pings_need_no_privilege(engine: pc.Engine) -> None:
    script = (
        "import socket; socket.socket().bind(('', 80)); "
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)"
    )
    with engine.run("host:", ["python3", "-c", script], cap_drop=["ALL"]) as container:
        assert container.wait(60) == 0, container.logs()


def test_two_runs_at_once_never_clash(engine: pc.Engine) -> None:
    with pc.Engine(home=engine.images.library.store.home) as other:
        with (
            engine.run("host:", SERVER, ports=[8000], name="one") as one,
            other.run("host:", SERVER, ports=[8000], name="two") as two,
        ):
            for web in (one, two):
                host, port = web.address(8000)
                with urlopen(f"http://{host}:{port}/etc/hostname", timeout=60) as response:
                    assert response.read().decode().strip() == web.name
            if one.reachable:
                assert one.ip.split(".")[1] != two.ip.split(".")[1]


@pytest.mark.long
def test_a_network_of_more_containers_than_a_block_has_addresses(
    engine: pc.Engine, networks: Callable[..., pc.Network], can: Can
) -> None:
    network = networks()
    with engine.run("host:", SERVER, ports=[8000], name="first", network=network) as first:
        containers = [
            engine.run("host:", ["sleep", "100"], network=network, wait_ready=False)
            for _ in range(70)
        ]
        try:
            assert len({container.ip for container in containers}) == 70
            assert can(containers[-1], first.ip, 8000)
            assert can(containers[-1], "first", 8000)
        finally:
            for container in containers:
                container.remove()
