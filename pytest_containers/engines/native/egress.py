"""What a start request says of a way out to other machines."""

from __future__ import annotations

from typing import Any

from pytest_containers.model.errors import StartError
from pytest_containers.runtime.network.outside import NAME_SERVER, way_out


def request_fields(name: str) -> dict[str, Any]:
    """The fields of a `StartRequest` for a container with a way out.

    Args:
        name: Of the container.

    Raises:
        StartError: There is none.
    """
    program, why_not = way_out()
    if not program:
        raise StartError(
            f"start of container {name!r} with egress=True: {why_not}; install one of them, and "
            "let users open /dev/net/tun, or leave egress out"
        )
    return {"egress": program, "resolv": resolv()}


def resolv() -> str:
    """The host's resolv.conf, with the name server that leads to the host's."""
    kept = [line for line in _host_lines() if line.split()[:1] in (["search"], ["options"])]
    return "\n".join([f"nameserver {NAME_SERVER}", *kept, ""])


def _host_lines() -> list[str]:
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []
