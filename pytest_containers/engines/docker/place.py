"""Where the containers of an endpoint are, as seen from this process."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_containers.engines.docker.api import DockerApi
    from pytest_containers.engines.docker.endpoint import DockerEndpoint

OVERRIDE = "TESTCONTAINERS_HOST_OVERRIDE"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class DockerPlace:
    """How this process reaches the containers.

    Attributes:
        host: The host at which published ports are.
        bind_ip: The address to publish ports at; empty is any.
        own_id: The id of the container that this process runs in, if the daemon has it.
        here: True if the daemon may be on this machine.
    """

    host: str = "127.0.0.1"
    bind_ip: str = "127.0.0.1"
    own_id: str = ""
    here: bool = True


def find_place(api: DockerApi, environ: Mapping[str, str] = os.environ) -> DockerPlace:
    """Return how this process reaches the containers of a daemon.

    In a container that the daemon itself has, this is by joining their networks; in another one,
    the host's end of the network of this container.
    """
    endpoint = api.endpoint
    override = environ.get(OVERRIDE, "")
    if override:
        return DockerPlace(override, "", here=False)
    if is_remote(endpoint):
        return DockerPlace(_remote_host(endpoint), "", here=False)
    if endpoint.host or not in_container():
        return DockerPlace()
    own = _own_id(api)
    if own:
        return DockerPlace(own_id=own)
    gateway = _default_gateway()
    return DockerPlace(gateway, "", here=False) if gateway else DockerPlace()


def is_remote(endpoint: DockerEndpoint) -> bool:
    """Return True if the endpoint names another machine."""
    return bool(endpoint.host) and endpoint.host not in _LOOPBACK


def in_container() -> bool:
    """Return True in a container of Docker or Podman."""
    return os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv")


def _remote_host(endpoint: DockerEndpoint) -> str:
    """Return the address of a remote host; that of ssh may be an alias of its configuration."""
    if endpoint.scheme != "ssh":
        return endpoint.host
    try:
        done = subprocess.run(
            ["ssh", "-G", "--", endpoint.host], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return endpoint.host
    words = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    found = [pair[1] for pair in words if len(pair) == 2 and pair[0] == "hostname"]
    return found[0] if found else endpoint.host


def _own_id(api: DockerApi) -> str:
    """Return the id of this container if the daemon has it, else nothing."""
    candidates = [socket.gethostname()]
    for path in ("/proc/self/mountinfo", "/proc/self/cgroup"):
        try:
            text = Path(path).read_text()
        except OSError:
            continue
        candidates += [line[0] for line in map(_ID.findall, text.splitlines()) if line]
    for candidate in dict.fromkeys(candidates):
        if re.fullmatch(r"[0-9a-f]{12,64}", candidate):
            own = _inspected(api, candidate)
            if own:
                return own
    return ""


def _inspected(api: DockerApi, candidate: str) -> str:
    from pytest_containers.engines.docker.api import DaemonRefusal

    try:
        facts = api.call(
            "look for this container", lambda client: client.inspect_container(candidate)
        )
    except DaemonRefusal:
        return ""
    return str(facts["Id"]) if facts["State"]["Running"] else ""


def _default_gateway() -> str:
    try:
        lines = Path("/proc/net/route").read_text().splitlines()[1:]
    except OSError:
        return ""
    for line in lines:
        fields = line.split()
        if len(fields) > 2 and fields[1] == "00000000":
            return socket.inet_ntoa(bytes.fromhex(fields[2])[::-1])
    return ""


def is_own_address(address: str) -> bool:
    """Return True if an interface in this network namespace has the address."""
    if not address:
        return False
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
    except OSError:
        return False
    return True
