"""The network helper with a supervisor's side of its own: namespaces of the real kernel, no run.

A process holds the run's user and network namespace, the helper is forked as the launcher does
it, and this process drives `Networks`. To look from inside, a child enters a port's namespace.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_containers.linux import process
from pytest_containers.linux.process import CLONE_NEWNET, CLONE_NEWUSER
from pytest_containers.runtime import identity as identities
from pytest_containers.runtime.network import helper, messages
from pytest_containers.runtime.network.addresses import Facts, block_addresses
from pytest_containers.runtime.network.bridge import Bridge, BridgePort
from pytest_containers.runtime.network.factory import _SPARES
from pytest_containers.runtime.network.networks import _READY_NETWORKS, Networks
from pytest_containers.runtime.wire.channel import Channel, ChannelClosed
from pytest_containers.runtime.wire.dispatch import send_operation
from pytest_containers.runtime.wire.faults import Fault, FaultError
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.operations.networks import SetUpNetworks
from pytest_containers.runtime.wire.tasks import run_task

TIMEOUT_S = 10.0
"x".encode(
    "idna"
)  # loaded by create_connection, which a child of another user might not be able to


def namespace_fds() -> set[int]:
    """This process's descriptors of namespaces."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{name}").startswith(("net:", "user:")):
                found.add(int(name))
    return found


class Lab:
    """A run's namespaces, a helper, and a loop to drive both."""

    def __init__(self, mode: str, *, connect: bool = True, search_path: Sequence[str] = ()) -> None:
        self.identity = identities.choose(mode)
        if self.identity.mode != mode:
            pytest.skip(f"needs identity {mode}: {self.identity.reason or 'the user is not root'}")
        self._before = namespace_fds()
        self.holder, self._release = _hold_namespaces()
        try:
            identities.write_maps(self.holder, self.identity)
            self.userns_fd = os.open(f"/proc/{self.holder}/ns/user", os.O_RDONLY)
            self.netns_fd = os.open(f"/proc/{self.holder}/ns/net", os.O_RDONLY)
            # No pyroute2: whatever a run needs was encoded ahead.
            self.helper, self.launcher, channel = _start_helper(search_path)
            send_operation(
                self.launcher,
                SetUpNetworks(connect=connect, userns=self.userns_fd, netns=self.netns_fd),
            )
            self.loop = Loop()
            self.networks = Networks(self.loop, channel, lambda: None)
        except BaseException:
            os.close(self._release)
            raise

    def close(self) -> None:
        """End helper and namespaces."""
        self.networks._helper.close()
        self.launcher.close()
        os.close(self._release)
        for pid in (self.helper, self.holder):
            # Another lab's processes, forked from here, may hold the other ends open.
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        # With what the tests took: a supervisor would close a port's when its container ends.
        for fd in namespace_fds() - self._before:
            os.close(fd)

    def await_result(self, work: Awaitable[Any]) -> Any:
        """Run the loop until `work` is done; its result, or the `Fault`."""
        results: list[Any] = []

        async def wait() -> None:
            try:
                results.append(await work)
            except FaultError as error:
                results.append(error.fault)
            self.loop.stop()

        run_task(wait())
        if not results:
            timer = self.loop.call_later(TIMEOUT_S, self.loop.stop)
            self.run()
            self.loop.cancel(timer)
        assert results, "nothing was answered in time"
        return results[0]

    def run(self, duration_s: float | None = None) -> None:
        """Run the loop until it is stopped, or for some time."""
        self.loop._stopped = False
        if duration_s is not None:
            self.loop.call_later(duration_s, self.loop.stop)
        self.loop.run()

    def becomes(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
        """Run the loop until `condition` is true; whether it is in time."""
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                return False
            self.run(0.05)
        return True

    def settle(self) -> None:
        """Run the loop until everything that is made ahead of need is there."""
        links = _READY_NETWORKS + _SPARES
        assert self.becomes(lambda: len(self.networks._ready) == _READY_NETWORKS)
        assert self.becomes(lambda: self.inside(self.netns_fd, _count_links)[0] >= links)

    def result(self, work: Awaitable[Any]) -> Any:
        """As `await_result`; a fault is a failure of the test."""
        result = self.await_result(work)
        assert not isinstance(result, Fault), result
        return result

    def facts(self) -> Facts:
        facts: Facts = self.result(self.networks.facts)
        return facts

    def network(self, *parents: Bridge) -> Bridge:
        network: Bridge = self.result(self.networks.create(parents))
        return network

    def port(self, network: Bridge) -> BridgePort:
        port: BridgePort = self.result(self.networks.take_port(network))
        return port

    def inside(self, netns_fd: int, function: Callable[[], Any]) -> Any:
        """The result of a function that a child calls in a namespace, as root there."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                process.setns(self.userns_fd, CLONE_NEWUSER)
                helper._become_root()
                process.setns(netns_fd, CLONE_NEWNET)
                os.write(writer, json.dumps(function()).encode())
                os._exit(0)
            except BaseException:  # noqa: BLE001 - a child's last words
                traceback.print_exc()
                os._exit(1)
        os.close(writer)
        with open(reader, "rb") as file:
            text = file.read()
        assert os.waitpid(pid, 0)[1] == 0
        return json.loads(text)

    def server(self, port: BridgePort, number: int = 8000) -> socket.socket:
        """A listening socket, of IPv4 and IPv6, in a port's namespace."""
        left, right = socket.socketpair()

        def listen() -> None:
            address = ("::", number)
            with socket.create_server(address, family=socket.AF_INET6, dualstack_ipv6=True) as sock:
                socket.send_fds(right, [b"x"], [sock.fileno()])

        with left, right:
            self.inside(port.netns_fd, listen)
            _, fds, _, _ = socket.recv_fds(left, 1, 1)
            return socket.socket(fileno=fds[0])

    def can(self, port: BridgePort, ip: str, number: int = 8000) -> bool:
        """Whether one may connect from a port's namespace."""

        def connect() -> bool:
            try:
                socket.create_connection((ip, number), 3).close()
            except OSError as error:
                # A refusal would be an answer, and so a leak.
                assert error.errno != errno.ECONNREFUSED
                return False
            return True

        reached: bool = self.inside(port.netns_fd, connect)
        return reached


def _hold_namespaces() -> tuple[int, int]:
    """A process with new namespaces that lives until the returned descriptor is closed."""
    reader, release = os.pipe()
    pid, pidfd = process.clone(CLONE_NEWUSER | CLONE_NEWNET)
    if pid == 0:
        os.close(release)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    os.close(pidfd)
    return pid, release


def _start_helper(search_path: Sequence[str]) -> tuple[int, Channel, Channel]:
    to_helper, from_launcher = Channel.pair()
    supervisor, from_supervisor = Channel.pair()
    pid = os.fork()
    if pid == 0:
        to_helper.close()
        supervisor.close()
        status = 0
        try:
            # What this process has imported would hide what the helper has to find by itself.
            for name in [name for name in sys.modules if name.partition(".")[0] == "pyroute2"]:
                del sys.modules[name]
            process.die_with_parent(os.getppid())
            helper.main(from_launcher, from_supervisor, list(search_path))
        except ChannelClosed:
            pass
        except BaseException:  # noqa: BLE001 - a child's last words
            traceback.print_exc()
            status = 1
        os._exit(status)
    from_launcher.close()
    from_supervisor.close()
    return pid, to_helper, supervisor


MODES = ("root", "range", "single")


@pytest.fixture(params=MODES)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab in each identity that this user can have."""
    lab = Lab(request.param)
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture
def any_lab() -> Iterator[Lab]:
    """A lab in the best identity, for what does not depend on it."""
    lab = Lab(identities.choose().mode)
    try:
        yield lab
    finally:
        lab.close()


def eventually(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


# --------------------------------------------------------------------- the run


def test_a_run_has_prefixes_of_its_own(lab: Lab) -> None:
    facts = lab.facts()
    assert facts.prefix == f"10.{facts.octet}.0.0/16"
    assert facts.prefix6.startswith("fd")
    assert facts.gateway4 == f"10.{facts.octet}.0.1"


def _host_end() -> int | None:
    """The number of the host's end of this namespace's link to it."""
    from pytest_containers.linux.netlink import (
        HEADER,
        NLM_F_DUMP,
        NLM_F_REQUEST,
        NetlinkSocket,
        attributes,
    )

    header = HEADER.pack(HEADER.size + 16, 18, NLM_F_REQUEST | NLM_F_DUMP, 0, 0)
    with NetlinkSocket() as sock:
        links = [attributes(body, 16) for body in sock.dump(header + bytes(16), "list links")]
    ends = [int.from_bytes(link[5], sys.byteorder) for link in links if link[3] == b"host0\0"]
    return ends[0] if ends else None


def _exists(index: int) -> bool:
    return index in {number for number, _ in socket.if_nameindex()}


def test_root_has_a_link_to_the_run_that_dies_with_it() -> None:
    lab = Lab(identities.choose().mode)
    try:
        facts = lab.facts()
        end = lab.inside(lab.netns_fd, _host_end)
        if os.geteuid() != 0:
            assert not facts.connected
            assert facts.reason
            assert end is None
            return
        assert (facts.connected, facts.reason) == (True, "")
        assert socket.if_indextoname(end).startswith("pc")
    finally:
        lab.close()
    assert eventually(lambda: not _exists(end))


def test_nobody_asked_for_a_link() -> None:
    lab = Lab(identities.choose().mode, connect=False)
    try:
        assert not lab.facts().connected
        assert lab.inside(lab.netns_fd, _host_end) is None
    finally:
        lab.close()


@pytest.mark.needs("root")
def test_a_firewall_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper.hostlink, "reaches", lambda probe, address: False)
    lab = Lab(identities.choose().mode)
    try:
        facts = lab.facts()
        assert not facts.connected
        assert facts.reason == f"a firewall of the host drops packets to {facts.gateway4}"
        assert lab.inside(lab.netns_fd, _host_end) is None
        port = lab.port(lab.network())
        with lab.server(port):
            assert lab.can(port, port.ip)
    finally:
        lab.close()


def test_without_pyroute2_there_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages.Encoder.__init__, "__defaults__", ({},))
    lab = Lab(identities.choose().mode, search_path=[str(tmp_path)])
    try:
        fault = lab.await_result(lab.networks.facts)
        assert isinstance(fault, Fault)
        assert "no directory of the search path holds pyroute2" in fault.message
        assert lab.await_result(lab.networks.create(())) == fault
    finally:
        lab.close()


def test_the_helper_ends_with_its_supervisor(any_lab: Lab) -> None:
    any_lab.facts()
    any_lab.networks._helper.close()
    end = time.monotonic() + TIMEOUT_S
    while (
        status := os.waitid(os.P_PID, any_lab.helper, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    ) is None:
        assert time.monotonic() < end
        time.sleep(0.005)
    assert (status.si_code, status.si_status) == (os.CLD_EXITED, 0)


def test_what_is_asked_of_a_dead_helper_is_answered(any_lab: Lab) -> None:
    lab = any_lab
    network = lab.network()
    os.kill(lab.helper, 9)
    answers = [lab.await_result(lab.networks.create(())) for _ in range(8)]
    assert isinstance(answers[-1], Fault)
    for _ in range(3):
        answer = lab.await_result(lab.networks.take_port(network))
    assert isinstance(answer, Fault)


# ----------------------------------------------------------------- reachability


def test_containers_of_a_network_reach_each_other(lab: Lab) -> None:
    network = lab.network()
    one, two = lab.port(network), lab.port(network)
    with lab.server(one):
        assert lab.can(two, one.ip)
        assert lab.can(two, one.ip6)


def test_other_networks_are_out_of_reach(lab: Lab) -> None:
    one, two = lab.port(lab.network()), lab.port(lab.network())
    with lab.server(one):
        assert lab.can(one, one.ip)
        assert not lab.can(two, one.ip)
        assert not lab.can(two, one.ip6)


def test_parents_and_their_parents_are_reached(lab: Lab) -> None:
    wide = lab.network()
    middle = lab.network(wide)
    narrow, other = lab.network(middle), lab.network(middle)
    ports = {name: lab.port(network) for name, network in locals().items() if name != "lab"}
    with lab.server(ports["wide"]), lab.server(ports["middle"]), lab.server(ports["other"]):
        for target in ("wide", "middle"):
            assert lab.can(ports["narrow"], ports[target].ip), target
            assert lab.can(ports["narrow"], ports[target].ip6), target
        assert not lab.can(ports["narrow"], ports["other"].ip)
        assert not lab.can(ports["narrow"], ports["other"].ip6)


@pytest.mark.parametrize("first", ["child", "parent"])
def test_no_rule_outlives_a_network(any_lab: Lab, first: str) -> None:
    """Its number is given to another network, which must not inherit what it might reach."""
    lab = any_lab
    lab.facts()
    before = lab.inside(lab.netns_fd, _rules)
    parent = lab.network()
    child = lab.network(parent)
    assert lab.inside(lab.netns_fd, _rules) > before
    lab.networks.remove(child if first == "child" else parent)
    assert lab.becomes(lambda: lab.inside(lab.netns_fd, _rules) == before)


def _rules() -> int:
    from pytest_containers.linux.netlink import HEADER, NLM_F_DUMP, NLM_F_REQUEST, NetlinkSocket

    count = 0
    with NetlinkSocket() as sock:
        for family in (2, 10):
            body = bytes([family]) + bytes(11)
            header = HEADER.pack(HEADER.size + len(body), 34, NLM_F_REQUEST | NLM_F_DUMP, 0, 0)
            count += sum(1 for _ in sock.dump(header + body, "list rules"))
    return count


def test_a_network_grows_past_its_block(any_lab: Lab) -> None:
    lab = any_lab
    parent = lab.network()
    child = lab.network(parent)
    inside = lab.port(child)
    ports = [lab.port(parent) for _ in range(len(block_addresses(1)) + 3)]
    late_child = lab.network(parent)
    late = lab.port(late_child)
    stranger = lab.port(lab.network())
    assert len({port.ip for port in ports}) == len(ports)
    assert len(parent.blocks) == 2
    last = ports[-1]
    with lab.server(last), lab.server(ports[0]):
        assert lab.can(ports[0], last.ip)
        assert lab.can(last, ports[0].ip)
        assert lab.can(ports[0], last.ip6)
        assert lab.can(inside, last.ip)
        assert lab.can(late, last.ip)
        assert not lab.can(stranger, last.ip)


def test_there_is_no_way_out(lab: Lab) -> None:
    port = lab.port(lab.network())

    def attempt() -> list[int | None]:
        codes = []
        for ip in ("192.0.2.1", "8.8.8.8", "2001:db8::1"):
            family = socket.AF_INET6 if ":" in ip else socket.AF_INET
            with socket.socket(family) as sock:
                sock.settimeout(1)
                codes.append(sock.connect_ex((ip, 80)))
        return codes

    assert lab.inside(port.netns_fd, attempt) == [errno.ENETUNREACH] * 3


@pytest.mark.needs("root")
def test_the_host_reaches_containers_and_not_the_other_way(lab: Lab) -> None:
    if not lab.facts().connected:
        pytest.skip("no link to the host")
    port = lab.port(lab.network())
    with lab.server(port) as server, socket.create_connection((port.ip, 8000), 5) as client:
        peer, (address, *_) = server.accept()
        peer.close()
        assert address == f"::ffff:10.{lab.facts().octet}.255.254"
        assert client.recv(1) == b""
    host = f"10.{lab.facts().octet}.255.254"
    with socket.create_server(("0.0.0.0", 18089)):
        assert not lab.can(port, host, 18089)


def test_two_runs_at_once_never_clash() -> None:
    labs = [Lab(identities.choose().mode) for _ in range(3)]
    try:
        ports = [lab.port(lab.network()) for lab in labs]
        if labs[0].facts().connected:
            assert len({lab.facts().octet for lab in labs}) == len(labs)
        for lab, port in zip(labs, ports, strict=True):
            with lab.server(port):
                assert lab.can(port, port.ip)
    finally:
        for lab in labs:
            lab.close()


# ------------------------------------------------------------- inside a namespace


def test_a_namespace_is_ready_to_use(lab: Lab) -> None:
    network = lab.network()
    port = lab.port(network)

    def look() -> dict[str, Any]:
        def sysctl(name: str) -> list[str]:
            return Path("/proc/sys/net", name).read_text().split()

        with socket.socket(socket.AF_INET6) as sock:
            sock.bind((port.ip6, 80))  # no duplicate detection is under way
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 1))
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).close()
        return {
            "links": sorted(name for _, name in socket.if_nameindex()),
            "ping": sysctl("ipv4/ping_group_range"),
            "low": sysctl("ipv4/ip_unprivileged_port_start"),
            "ra": sysctl("ipv6/conf/eth0/accept_ra"),
            "dad": sysctl("ipv6/conf/eth0/accept_dad"),
        }

    last_group = "0" if lab.identity.mode == "single" else "65535"
    assert lab.inside(port.netns_fd, look) == {
        "links": ["eth0", "lo"],
        "ping": ["0", last_group],
        "low": ["0"],
        "ra": ["0"],
        "dad": ["0"],
    }


def test_containers_can_ping_their_gateway(lab: Lab) -> None:
    network = lab.network()
    port = lab.port(network)

    def ping() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
            sock.settimeout(2)
            sock.sendto(b"\x08\x00\x00\x00\x00\x00\x00\x01", (network.gateway4, 0))
            return sock.recv(100)[0] == 0

    assert lab.inside(port.netns_fd, ping)


def test_forged_senders_are_dropped(any_lab: Lab) -> None:
    """An address of another network as sender, which a container with NET_ADMIN can give itself."""
    lab = any_lab
    wide = lab.network()
    liar, target = lab.port(lab.network(wide)), lab.port(wide)
    left, right = socket.socketpair()

    def receive() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("", 5000))
            socket.send_fds(right, [b"x"], [sock.fileno()])

    with left, right:
        lab.inside(target.netns_fd, receive)
        receiver = socket.socket(fileno=socket.recv_fds(left, 1, 1)[1][0])

    def lie(forged: bool) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT: any address may be bound
            if forged:
                sock.bind((f"10.{lab.facts().octet}.200.7", 0))
            sock.sendto(b"forged" if forged else b"honest", (target.ip, 5000))

    with receiver:
        receiver.settimeout(5)
        lab.inside(liar.netns_fd, lambda: lie(True))
        lab.inside(liar.netns_fd, lambda: lie(False))
        assert receiver.recv(100) == b"honest"


# ------------------------------------------------------------------------ pools


def test_a_ready_port_is_given_at_once(any_lab: Lab) -> None:
    lab = any_lab
    lab.facts()
    lab.settle()
    network = lab.network()
    taking = run_task(lab.networks.take_port(network))
    assert isinstance(taking.ended.result(), BridgePort)


def test_no_namespace_is_used_twice(any_lab: Lab) -> None:
    lab = any_lab
    network = lab.network()
    with contextlib.ExitStack() as held:  # or the kernel would use their numbers again
        seen = set()
        for _ in range(10):
            port = lab.port(network)
            seen.add(os.fstat(port.netns_fd).st_ino)
            held.callback(os.close, os.dup(port.netns_fd))
            lab.networks.release_port(port)
        assert len(seen) == 10


def test_what_was_used_is_thrown_away(any_lab: Lab) -> None:
    lab = any_lab
    lab.facts()
    lab.settle()  # what is made ahead counts as well
    links = lab.inside(lab.netns_fd, _count_links)
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        network = lab.network()
        ports = [lab.port(network) for _ in range(3)]
        for port in ports:
            lab.networks.release_port(port)
        lab.networks.remove(network)
    # Less when the collector closed what other tests have left.
    assert lab.becomes(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
    # Namespaces die in the kernel's own time.
    assert lab.becomes(lambda: lab.inside(lab.netns_fd, _count_links)[0] <= links[0])
    # Bridges are used again.
    assert lab.inside(lab.netns_fd, _count_links)[1] <= 8


def _count_links() -> tuple[int, int]:
    """Of ports, and of networks."""
    names = [name for _, name in socket.if_nameindex()]
    ports = sum(name.startswith("p") for name in names)
    return ports, sum(name.startswith("n") for name in names)


def test_more_networks_than_there_are_numbers_one_after_the_other(any_lab: Lab) -> None:
    """Numbers and addresses are used again, also while what had them before is still dying."""
    lab = any_lab
    lab.facts()
    lab.networks._more_numbers._free.clear()
    for _ in range(30):
        assert lab.becomes(lambda: len(lab.networks._ready) > 0)
        network = lab.network()
        port = lab.port(network)
        with lab.server(port):
            assert lab.can(port, port.ip)
        lab.networks.release_port(port)
        lab.networks.remove(network)


def test_networks_one_after_the_other_need_few_bridges(any_lab: Lab) -> None:
    """Each takes the kernel 17 ms at the end of a run, in which no other run can start."""
    lab = any_lab
    numbers = lab.networks._numbers
    for _ in range(30):
        network = lab.network()
        lab.networks.release_port(lab.port(network))
        lab.networks.remove(network)
        # Of eight, three are ready and two at most are to be cleaned.
        deadline = time.monotonic() + TIMEOUT_S
        while len(numbers) < 3 and time.monotonic() < deadline:
            lab.run(0.005)
        assert len(numbers) >= 3
    assert lab.inside(lab.netns_fd, _count_links)[1] <= 8


@pytest.mark.long
def test_a_bridge_that_is_used_again_is_as_new(any_lab: Lab) -> None:
    lab = any_lab
    lab.networks._more_numbers._free.clear()
    wide = lab.network()
    old = lab.network(wide)
    ports = [lab.port(old) for _ in range(len(block_addresses(1)) + 2)]
    kept = ports[-1]  # as if a process had survived in it
    server = lab.server(kept)
    lab.networks.remove(old)
    assert lab.becomes(lambda: old.number in lab.networks._numbers._free)
    while (new := lab.network()).number != old.number:
        lab.networks.remove(new)
        assert lab.becomes(lambda: len(lab.networks._ready) > 0)
    port, shared = lab.port(new), lab.port(wide)
    with server, lab.server(shared), lab.server(port):
        assert not lab.can(port, kept.ip)
        assert not lab.can(port, kept.ip6)
        assert not lab.can(kept, port.ip)
        assert not lab.can(port, shared.ip)
        assert not lab.can(port, shared.ip6)
        assert lab.can(port, port.ip)
    assert new.blocks == [old.number]


def test_a_network_that_was_removed_has_no_ports(any_lab: Lab) -> None:
    network = any_lab.network()
    any_lab.networks.remove(network)
    fault = any_lab.await_result(any_lab.networks.take_port(network))
    assert fault == Fault("StartError", "join a network: it was removed", {})


def test_all_numbers_are_taken(any_lab: Lab) -> None:
    lab = any_lab
    lab.facts()
    lab.networks._numbers._free.clear()
    lab.networks._more_numbers._free.clear()
    answers = [lab.await_result(lab.networks.create(())) for _ in range(5)]
    assert isinstance(answers[-1], Fault)
    assert "all 766 of the run are in use" in answers[-1].message


def test_a_limit_of_the_machine_is_named_and_survived(any_lab: Lab) -> None:
    lab = any_lab
    network = lab.network()
    lab.settle()
    limit = Path("/proc/sys/user/max_net_namespaces")
    before = limit.read_text()

    lab.inside(lab.netns_fd, lambda: limit.write_text("1"))
    answers = [lab.await_result(lab.networks.take_port(network)) for _ in range(8)]
    fault = answers[-1]
    assert isinstance(fault, Fault)
    assert fault.message.startswith("make a network namespace (user.max_net_namespaces): ")
    lab.inside(lab.netns_fd, lambda: limit.write_text("1000"))
    assert lab.becomes(lambda: network.making == 0)  # else that failure would be ours
    assert isinstance(lab.port(network), BridgePort)
    assert limit.read_text() == before
