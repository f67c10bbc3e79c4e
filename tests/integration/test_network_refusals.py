"""What a container cannot reach: it is refused at once, each time, and the report tells."""

from __future__ import annotations

import json

import pytest

import pytest_containers as pc

AT_ONCE = """
import json, os, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
sock = socket.socket(family, int(sys.argv[2]))
sock.setblocking(False)  # so that what has to wait for an answer is "in progress"
print(json.dumps([os.strerror(sock.connect_ex((sys.argv[1], 443))) for _ in range(20)]))
"""
CONNECT = """
import json, os, socket, sys
errors = []
for _ in range(int(sys.argv[2])):
    try:
        socket.create_connection((sys.argv[1], 443), float(sys.argv[3])).close()
        errors.append("connected")
    except OSError as error:
        errors.append(error.strerror or str(error))
print(json.dumps(errors))
"""


def connect(container: pc.Container, address: str, times: int, timeout_s: float) -> set[str]:
    """The errors of some connections to an address."""
    command = ["python3", "-c", CONNECT, address, str(times), str(timeout_s)]
    return set(json.loads(container.exec(command, check=True).stdout))


@pytest.mark.parametrize("kind", [1, 2], ids=["stream", "datagram"])
@pytest.mark.parametrize("address", ["192.0.2.1", "8.8.8.8", "10.0.2.2", "2001:db8::1"])
def test_other_machines_are_refused_at_once_every_time(
    each_engine: pc.Engine, address: str, kind: int
) -> None:
    """The third try hung where a router sent the errors, since it limits how many it sends."""
    with each_engine.run("host:", ["sleep", "100"]) as container:
        command = ["python3", "-c", AT_ONCE, address, str(kind)]
        errors = json.loads(container.exec(command, check=True).stdout)
    assert set(errors) == {"Network is unreachable"}


def test_other_networks_are_refused_every_time(each_engine: pc.Engine) -> None:
    """By the run, whose error may come while the socket is busy; then the next one counts."""
    ours, theirs = each_engine.create_network(), each_engine.create_network()
    try:
        with (
            each_engine.run("host:", ["sleep", "100"], network=ours) as container,
            each_engine.run("host:", ["sleep", "100"], network=theirs) as stranger,
        ):
            for address in (stranger.ip, stranger.ip6):
                errors = connect(container, address, 5, 20)
                assert errors <= {"No route to host", "Permission denied"}, address
    finally:
        ours.remove()
        theirs.remove()


@pytest.mark.long
def test_a_container_that_is_gone_is_soon_refused(each_engine: pc.Engine) -> None:
    with each_engine.run("host:", ["sleep", "100"]) as container:
        with each_engine.run("host:", ["sleep", "100"]) as other:
            addresses = (other.ip, other.ip6)
        for address in addresses:
            # Its namespace, which answers by itself, may last a little longer, and that it was
            # there is believed for a second. The kernel's own patience is longer than this one.
            waiting = {"Connection refused", "timed out"}
            while (errors := connect(container, address, 1, 2.5)) <= waiting:
                pass
            assert errors == {"No route to host"}
            assert connect(container, address, 3, 2.5) == {"No route to host"}


def test_what_was_refused_is_told(each_engine: pc.Engine) -> None:
    with (
        each_engine.run("host:", ["sleep", "100"], name="eager") as eager,
        each_engine.run("host:", ["sleep", "100"], name="calm") as calm,
    ):
        assert eager.refusals() == pc.Refusals()
        connect(eager, "192.0.2.1", 2, 10)
        connect(eager, "2001:db8::1", 1, 10)
        connect(eager, "calm", 1, 10)
        connect(eager, "www.example.test", 1, 10)
        assert eager.refusals() == pc.Refusals(3, ("www.example.test",))
        assert calm.refusals() == pc.Refusals()
        eager.keep_logs()
        eager.remove()
        assert eager.refusals() == pc.Refusals(3, ("www.example.test",))
        address = eager.ip
    # Whoever has the address next is not blamed.
    for _ in range(70):
        with each_engine.run("host:", ["true"]) as other:
            assert other.refusals() == pc.Refusals()
            if other.ip == address:
                break
    with each_engine.run("host:", ["true"], network=False) as lonely:
        assert lonely.refusals() == pc.Refusals()


def test_a_name_of_nobody_is_unknown_at_once(each_engine: pc.Engine) -> None:
    """Without a server that says so, musl's resolver waits for one: its own answer is another."""
    script = (
        "import socket\n"
        "try: socket.getaddrinfo('www.example.test', 80)\n"
        "except socket.gaierror as error: print(error.errno == socket.EAI_NONAME)"
    )
    with each_engine.run("host:", ["sleep", "100"]) as container:
        assert container.exec(["python3", "-c", script], text=True).stdout == "True\n"


def test_the_name_server_survives_nonsense(each_engine: pc.Engine) -> None:
    script = (
        "import os, socket\n"
        "gateway = [l.split()[1] for l in open('/etc/resolv.conf') if l[:4] == 'name'][0]\n"
        "s = socket.socket(type=socket.SOCK_DGRAM); s.connect((gateway, 53))\n"
        "for n in range(600): s.send(os.urandom(n % 60))\n"
    )
    with each_engine.run("host:", ["sleep", "100"]) as container:
        container.exec(["python3", "-c", script], check=True)
        connect(container, "www.example.test", 1, 10)
        for number in range(30):
            connect(container, f"{number}.test", 1, 10)
        assert len(container.refusals().names) <= 10
