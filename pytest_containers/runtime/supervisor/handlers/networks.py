"""Networks and volumes, and connections to containers."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_containers.runtime.network.dial import dial, dial_inside
from pytest_containers.runtime.network.listening import ListenCriteria, PortKey
from pytest_containers.runtime.network.lookups import unrouted
from pytest_containers.runtime.supervisor.network import RunNetwork
from pytest_containers.runtime.supervisor.session import OPERATIONS, Session
from pytest_containers.runtime.supervisor.volumes import File, RunVolume
from pytest_containers.runtime.wire.dispatch import LATER, Call, Later
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.operations import host
from pytest_containers.runtime.wire.operations.containers import (
    Connect,
    Connected,
    ContainerPort,
    Listening,
    OpenEndpoint,
    PointEndpoint,
    ReadRefusals,
    RefusalsRead,
    RefusedCount,
    WaitListening,
)
from pytest_containers.runtime.wire.operations.session import (
    Created,
    CreateNetwork,
    CreateVolume,
    RemoveNetwork,
    RemoveVolume,
)
from pytest_containers.runtime.wire.tasks import first


@OPERATIONS.handles(CreateNetwork)
async def create_network(session: Session, op: CreateNetwork, call: Call[Created]) -> Created:
    """Make a private network."""
    server = session.server
    if server.tools.machine.host_network:
        raise FaultError("StartError", "this run has no networks but the host's")
    parents = [server.network(parent) for parent in op.parents]
    bridge = await server.tools.networks.create([parent.network for parent in parents])
    network = RunNetwork(server.new_id(), bridge, parents)
    server.networks[network.id] = session.belongings.networks[network.id] = network
    return Created(id=network.id)


@OPERATIONS.handles(RemoveNetwork)
def remove_network(session: Session, op: RemoveNetwork, call: Call[None]) -> None:
    """Remove a network, after the last of its containers."""
    network = session.belongings.networks.pop(op.network, None)
    if network is not None:
        session.server.remove_network(network)
    elif op.network in session.server.kept.in_use:
        session.server.kept.in_use.remove(op.network)
        session.server.remove_unneeded_networks()


@OPERATIONS.handles(CreateVolume)
def create_volume(session: Session, op: CreateVolume, call: Call[Created]) -> Created:
    """Make a file system in memory."""
    files: list[File] = []
    start = 0
    for file in op.files:
        contents = op.contents[start : start + file.size_bytes]
        files.append(File(str(len(files)), contents, file.mode, file.uid, file.gid))
        start += file.size_bytes
    server = session.server
    volume = RunVolume(server.tools.root, server.new_id(), op.size_bytes, files)
    session.belongings.volumes[volume.id] = volume
    return Created(id=volume.id)


@OPERATIONS.handles(RemoveVolume)
def remove_volume(session: Session, op: RemoveVolume, call: Call[None]) -> None:
    """Drop a volume."""
    volume = session.belongings.volumes.pop(op.volume, None)
    if volume is not None:
        volume.close()


@OPERATIONS.handles(WaitListening)
async def wait_listening(session: Session, op: WaitListening, call: Call[Listening]) -> Listening:
    """Wait until sockets listen on ports of a container, or it has ended."""
    server = session.server
    container = server.require(op.container)
    ports = [(port.number, port.protocol) for port in op.ports]
    criteria = ListenCriteria(ports)
    if container.port is not None:
        criteria = ListenCriteria(ports, container.published, container.port.ip)
    netns = server.netns_of(container)
    waiter = server.tools.listening.wait(netns, server.tools.net_ns, criteria, op.timeout_s)
    try:
        await first(waiter.result, container.exited)
    finally:
        waiter.cancel()
    if not waiter.result.done:
        return Listening(missing=(), exit_code=container.exit_code)
    result = waiter.result.result()
    return Listening(
        missing=_ports(result.missing),
        elsewhere=[str(listener) for listener in result.elsewhere],
        open=_ports(result.open),
    )


def _ports(keys: Iterable[PortKey]) -> list[ContainerPort]:
    return [ContainerPort(number=number, protocol=protocol) for number, protocol in keys]


@OPERATIONS.handles(ReadRefusals)
def read_refusals(session: Session, op: ReadRefusals, call: Call[RefusalsRead]) -> RefusalsRead:
    """Tell what a container has tried to reach of other machines."""
    server = session.server
    container = server.require(op.container)
    port = container.port
    if port is None or server.lookups is None:
        return RefusalsRead(count=0, names=())
    count = unrouted(port.netns_fd, server.tools.net_ns)
    return RefusalsRead(count=count, names=server.lookups.names(port.ip))


@OPERATIONS.handles(Connect)
async def connect(session: Session, op: Connect, call: Call[Connected]) -> Later:
    """Connect to a port: from outside if it can be reached so, else on the loopback device."""
    server, tools = session.server, session.server.tools
    container = server.require(op.container)
    try:
        if container.port is None:
            raise FaultError("StartError", f"container {container.name!r} has no network")
        sock = await dial(tools.loop, op.protocol, container.port.ip, op.port, op.timeout_s)
    except FaultError:
        if container.exit_code is not None:
            raise
        netns = server.netns_of(container)
        sock = await dial_inside(
            tools.loop, netns, tools.net_ns, op.protocol, op.port, op.timeout_s
        )
    with sock:
        call.answer(Connected(socket=sock.fileno()))
    return LATER


@OPERATIONS.handles(OpenEndpoint)
async def open_endpoint(session: Session, op: OpenEndpoint, call: Call[None]) -> None:
    """Listen at a fixed address, which leads nowhere yet."""
    session.belongings.endpoints.add(op.key)
    await session.pass_on(op)


@OPERATIONS.handles(PointEndpoint)
async def point_endpoint(
    session: Session, op: PointEndpoint, call: Call[RefusedCount]
) -> RefusedCount:
    """Lead a fixed address to a container, or nowhere."""
    ip = ""
    if op.container is not None:
        port = session.server.require(op.container).port
        if port is None:
            raise FaultError("SpecError", "an endpoint needs a container with a network")
        ip = port.ip
    return await session.pass_on(host.RouteEndpoint(key=op.key, ip=ip, port=op.port))
