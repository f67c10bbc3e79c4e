"""Names of containers and of the host: to which addresses they resolve, and in which order."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_containers as pc
from pytest_containers.model.readiness import Deadline

HOST_NAMES = ("host.docker.internal", "host.containers.internal", "host.testcontainers.internal")
RESOLVE = """
import json, socket, sys
family, *names = sys.argv[1:]
answers = [
    [entry[4][0] for entry in socket.getaddrinfo(name, 80, int(family), socket.SOCK_STREAM)]
    for name in names
]
print(json.dumps(answers))
"""
MUSL = """
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
int main(int count, char **names) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *entry;
    char text[INET6_ADDRSTRLEN];
    if (getaddrinfo(names[1], "80", &hints, &entry)) return 1;
    for (; entry; entry = entry->ai_next) {
        const void *address = entry->ai_family == AF_INET6
            ? (void *)&((struct sockaddr_in6 *)entry->ai_addr)->sin6_addr
            : (void *)&((struct sockaddr_in *)entry->ai_addr)->sin_addr;
        puts(inet_ntop(entry->ai_family, address, text, sizeof text));
    }
    return 0;
}
"""


@pytest.fixture
def pair(each_engine: pc.Engine) -> Iterator[tuple[pc.Container, pc.Container]]:
    """Two containers of one network: ``client`` and ``web``."""
    network = each_engine.create_network()
    with (
        each_engine.run("host:", ["sleep", "100"], name="client", network=network) as client,
        each_engine.run("host:", ["sleep", "100"], name="web", network=network) as web,
    ):
        yield client, web
    network.remove()


def serve(container: pc.Container, address: str) -> None:
    """Listen on port 80 of an address in a container, and accept one connection."""
    family = 10 if ":" in address else 2
    server = (
        f"import socket; s = socket.create_server(({address!r}, 80), family={family}, "
        f"dualstack_ipv6={address == '::'}); open('/tmp/up', 'w'); s.accept()"
    )
    container.exec(["sh", "-c", f'python3 -c "{server}" > /dev/null 2>&1 &'], check=True)
    pc.wait.file("/tmp/up").until(container, Deadline(60))


def resolve(container: pc.Container, *names: str, family: int = 0) -> list[list[str]]:
    command = ["python3", "-c", RESOLVE, str(family), *names]
    answers = json.loads(container.exec(command, check=True).stdout)
    return [list(dict.fromkeys(answer)) for answer in answers]  # its own name is there twice


def test_a_name_is_ipv4_first(pair: tuple[pc.Container, pc.Container]) -> None:
    client, web = pair
    assert resolve(client, "web", "client") == [[web.ip, web.ip6], [client.ip, client.ip6]]
    assert resolve(client, "localhost") == [["127.0.0.1", "::1"]]
    result = client.exec(["getent", "ahosts", "web"], text=True, check=True)  # without Python
    addresses = dict.fromkeys(line.split()[0] for line in result.stdout.splitlines())
    assert list(addresses) == [web.ip, web.ip6]


def test_a_name_is_ipv6_for_who_asks(pair: tuple[pc.Container, pc.Container]) -> None:
    client, web = pair
    assert resolve(client, "web", family=10) == [[web.ip6]]
    assert resolve(client, "localhost", family=10) == [["::1"]]


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_who_tries_one_address_only_gets_in(
    pair: tuple[pc.Container, pc.Container], address: str
) -> None:
    """As Node before version 20: a server of IPv4 or of both is found at the first address."""
    client, web = pair
    serve(web, address)
    once = (
        "import socket; f, k, p, _, a = socket.getaddrinfo('web', 80, type=socket.SOCK_STREAM)[0]\n"
        "socket.socket(f, k, p).connect(a)"
    )
    client.exec(["python3", "-c", once], check=True)


def test_a_server_of_ipv6_only_is_found_by_name(pair: tuple[pc.Container, pc.Container]) -> None:
    client, web = pair
    serve(web, web.ip6)
    client.exec(
        ["python3", "-c", "import socket; socket.create_connection(('web', 80), 5)"], check=True
    )


def test_node_connects_to_a_server_of_ipv4_only(pair: tuple[pc.Container, pc.Container]) -> None:
    node = shutil.which("node", path="/usr/bin:/usr/local/bin")
    if node is None:
        pytest.skip("needs nodejs")
    client, web = pair
    serve(web, "0.0.0.0")
    script = (
        "require('net').setDefaultAutoSelectFamily?.(false);"
        "require('net').connect(80, 'web', () => process.exit(0))"
        ".on('error', error => { console.error(error.message); process.exit(1) })"
    )
    result = client.exec([node, "-e", script], text=True, timeout_s=30)
    assert result.returncode == 0, result.stderr


def test_musl_has_ipv4_first(pair: tuple[pc.Container, pc.Container], tmp_path: Path) -> None:
    compiler = shutil.which("musl-gcc")
    if compiler is None:
        pytest.skip("needs musl-tools")
    client, web = pair
    (tmp_path / "resolve.c").write_text(MUSL)
    program = tmp_path / "resolve"
    subprocess.run([compiler, "-static", "-o", program, f"{program}.c"], check=True)
    client.write_bytes("/tmp/resolve", program.read_bytes(), mode=0o755)
    for name, addresses in (("web", [web.ip, web.ip6]), ("localhost", ["::1", "127.0.0.1"])):
        result = client.exec(["/tmp/resolve", name], text=True, check=True)
        assert result.stdout.split() == addresses


def test_names_of_the_host(pair: tuple[pc.Container, pc.Container]) -> None:
    client, _ = pair
    first, *others = resolve(client, *HOST_NAMES)
    assert first[0] == f"10.{client.ip.split('.')[1]}.0.1"
    assert others == [first, first]


def test_two_containers_of_one_name_are_an_error(each_engine: pc.Engine) -> None:
    network, other = each_engine.create_network(), each_engine.create_network()
    try:
        with each_engine.run("host:", ["sleep", "100"], name="web", network=network) as web:
            with pytest.raises(
                pc.StartError, match=r"start of container 'web': its network has another one of "
            ):
                each_engine.run("host:", ["true"], name="web", network=network)
            with each_engine.run("host:", ["true"], name="web", network=other):
                pass
            assert web.status == "running"
            assert resolve(web, "web") == [[web.ip, web.ip6]]
        with each_engine.run("host:", ["true"], name="web", network=network) as again:
            assert again.wait(60) == 0
    finally:
        network.remove()
        other.remove()
