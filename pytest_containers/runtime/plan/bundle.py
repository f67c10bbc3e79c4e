"""What an OCI config asks of the run itself, beside what it asks for its container."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_containers.runtime.plan.become_user import Machine
from pytest_containers.runtime.plan.oci import Config
from pytest_containers.runtime.wire.faults import FaultError


def check(config: Config, machine: Machine) -> None:
    """Check that a config can be started in this run.

    Raises:
        FaultError: ``SpecError``: it wants another network or other ids than the run has.
    """
    if machine.host_network and "network" in config.namespaces:
        raise _wrong("linux.namespaces", "'network' is there, and this run has the host's alone")
    if not machine.host_network and "network" not in config.namespaces:
        raise _wrong("linux.namespaces", "'network' is left out, and this run has not the host's")
    for name, own in (("uidMappings", machine.uid_map), ("gidMappings", machine.gid_map)):
        for number, mapping in enumerate(config.linux.get(name) or ()):
            if not _is_part_of(mapping, own):
                ranges = ", ".join(
                    f"{inside} to {inside + count - 1} are {outside} to {outside + count - 1}"
                    for inside, outside, count in own
                )
                raise _wrong(
                    f"linux.{name}[{number}]",
                    f"the map of ids is the run's, where {ranges} of the host; leave it out",
                )


def _is_part_of(mapping: Mapping[str, Any], own: Sequence[tuple[int, int, int]]) -> bool:
    inside, size = mapping.get("containerID", 0), mapping.get("size", 0)
    shift = mapping.get("hostID", 0) - inside
    return any(
        first <= inside and inside + size <= first + count and shift == outside - first
        for first, outside, count in own
    )


def _wrong(field: str, reason: str) -> FaultError:
    return FaultError("SpecError", f"OCI config {field}: {reason}", field=field)
