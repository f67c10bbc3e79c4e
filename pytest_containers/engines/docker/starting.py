"""The start of a container: create, connect, start; and the errors of that."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pytest_containers.engines.docker import execution
from pytest_containers.engines.docker.api import DaemonRefusal
from pytest_containers.engines.docker.core import DockerNetwork
from pytest_containers.engines.docker.create import config_of
from pytest_containers.model.errors import (
    ContainersError,
    StartError,
    hide_frames,
)
from pytest_containers.model.spec import Port

if TYPE_CHECKING:
    from pytest_containers.engines.docker.handle import DockerHandle

__tracebackhide__ = hide_frames

_TAKEN = re.compile(r"port is already allocated|address already in use", re.IGNORECASE)
_TAKEN_PORT = re.compile(r":(\d+)(?: failed| ->|: )")
_SOURCE = re.compile(r"bind source path does not exist: (\S+)")
_USER = re.compile(r"unable to find (user|group) ([^:\s]+)")
_NOT_FOUND = re.compile(r"no such file or directory|executable file not found", re.IGNORECASE)
_DENIED = re.compile(r"permission denied|exec format error|is a directory", re.IGNORECASE)
_TRIES = 5


def start(container: DockerHandle, attach: Literal["", "output", "all"]) -> None:
    """Create a container and start its program; nothing of it is left if that fails.

    Raises:
        StartError: It cannot be started.
    """
    for attempt in range(_TRIES):
        ports = _ports(container)
        try:
            _create(container, ports, attach)
            _run(container, attach)
            return
        except BaseException as error:
            _undo(container)
            free = any(port.host is None or port.host == 0 for port in ports)
            if not isinstance(error, DaemonRefusal):
                raise
            if not (free and _TAKEN.search(error.explanation)) or attempt == _TRIES - 1:
                raise _start_error(container, error) from None


def start_again(container: DockerHandle) -> None:
    """Start the program of a container that has ended."""
    doing = f"restart of container {container.name!r}"
    container.core.api.call(doing, lambda client: client.start(container.id))
    container.take_facts(
        container.core.api.call(doing, lambda client: client.inspect_container(container.id))
    )


def _ports(container: DockerHandle) -> dict[Port, int | None]:
    """Return the ports to publish, with the ports of the host.

    A free port is chosen here where that is possible, so that it stays the same over restarts.
    """
    network, place = container.network, container.core.place
    chosen: dict[Port, int | None] = {}
    for port in container.spec.parsed_ports:
        if network is None or (network.direct and port.host is None):
            continue
        number = port.host or None
        if number is None and place.here and not place.own_id:
            number = _free_port(port.protocol)
        chosen[port] = number
    return chosen


def _free_port(protocol: str) -> int:
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _create(container: DockerHandle, ports: Mapping[Port, int | None], attach: str) -> None:
    core, network = container.core, container.network
    networks: Sequence[DockerNetwork] = [] if network is None else network.all
    config = config_of(
        container.spec, container.image, container.name, networks,
        container.labels, ports, core.place.bind_ip, attach == "all",
    )  # fmt: skip
    name = core.next_docker_name(re.sub(r"[^a-zA-Z0-9_.-]", "-", container.name)[:40])
    doing = f"start of container {container.name!r}"
    created = core.api.call(doing, lambda client: client.create_container_from_config(config, name))
    container.id = created["Id"]
    core.by_id[container.id] = container
    for further in networks[1:]:
        target = further.id
        core.api.call(
            doing,
            lambda client, target=target: client.connect_container_to_network(  # type: ignore[misc]
                container.id, target
            ),
        )


def _run(container: DockerHandle, attach: str) -> None:
    core = container.core
    exchange = None
    if attach:
        exchange, container.streams = execution.attach(
            core.api, container.id, container.name, stdin=attach == "all", tty=container.spec.tty
        )
    doing = f"start of container {container.name!r}"
    try:
        core.api.call(doing, lambda client: client.start(container.id))
        container.take_facts(
            core.api.call(doing, lambda client: client.inspect_container(container.id))
        )
    except BaseException:
        if exchange is not None:
            exchange.close()
        raise


def _undo(container: DockerHandle) -> None:
    if not container.id:
        return
    core = container.core
    core.by_id.pop(container.id, None)
    with contextlib.suppress(ContainersError):
        core.api.call(
            "removal of what did not start",
            lambda client: client.remove_container(container.id, v=True, force=True),
        )
    container.id = ""


def _start_error(container: DockerHandle, error: DaemonRefusal) -> ContainersError:
    """Return the error for what the daemon has said of a start."""
    doing, explanation = f"start of container {container.name!r}", error.explanation
    if _TAKEN.search(explanation):
        match = _TAKEN_PORT.search(explanation)
        port = int(match[1]) if match else None
        return StartError(
            f"{doing}: port {port or 'of the host'} is in use on the machine of the daemon",
            port=port,
        )
    if match := _SOURCE.search(explanation):
        where = container.core.api.endpoint
        away = "" if container.core.place.here else f"; the daemon is on another machine, {where}"
        return StartError(
            f"{doing}: bind mount {match[1]}: it does not exist where the daemon runs{away}",
            source=match[1],
        )
    if match := _USER.search(explanation):
        words = f"{doing}: the image has no {match[1]} {match[2]!r}"
        if match[1] == "user":
            return StartError(words, user=match[2])
        return StartError(words, group=match[2])
    if error.status == 404 and "image" in explanation.lower():
        return StartError(f"{doing}: image {container.image.name!r} was removed meanwhile")
    code = 127 if _NOT_FOUND.search(explanation) else 126 if _DENIED.search(explanation) else None
    if "exec" not in explanation and code is not None:
        code = None
    words = explanation.removesuffix(": unknown")
    cause = words.rpartition("starting container process caused: ")[2]
    return StartError(f"{doing}: {cause or explanation}", exit_code=code)
