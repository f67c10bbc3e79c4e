"""What engines tell about containers: states, health, events, use of resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pytest_containers.model.results import Status

OciStatus = Literal["created", "running", "paused", "stopped"]
HealthStatus = Literal["none", "starting", "healthy", "unhealthy"]
EventKind = Literal["start", "pause", "unpause", "restart", "die", "remove"]


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The health of a container, by the HEALTHCHECK of its image.

    Attributes:
        status: ``"none"`` if the image has no check or the container does not run; ``"starting"``
            if the check failed within the start period of the image.
        exit_code: The exit code of the check; None if it did not run or did not end in time.
        output: The output of the check.
    """

    status: HealthStatus
    exit_code: int | None = None
    output: str = ""


@dataclass(frozen=True, slots=True)
class ContainerReport:
    """The facts of a container at one moment.

    Attributes:
        id, name, command, pid, ip, ip6: The properties of the container.
        image, image_id: The name and the id of its image.
        status, exit_code: Its status and exit code at that moment.
        network: The id of its network; empty without one.
        ports: The address on the host of each ``(number, protocol)`` of its spec.
        started_at: The time of its start, in seconds since the epoch.
        labels: The labels of its image.
        oom_killed: True if the kernel has killed a process of it, over its `mem_limit`.
    """

    id: str
    name: str
    image: str
    image_id: str
    command: Sequence[str]
    status: Status
    exit_code: int | None
    pid: int
    network: str
    ip: str
    ip6: str
    ports: Mapping[tuple[int, str], tuple[str, int]]
    started_at: float
    labels: Mapping[str, str] = field(default_factory=dict)
    oom_killed: bool = False


@dataclass(frozen=True, slots=True)
class Stats:
    """What a container uses, and has used since its start.

    The cgroup of a container with limits counts it. Otherwise it is the sum over the processes at
    this moment, without what ended processes have used, and without files in memory.

    Attributes:
        cpu_s: The time of processors, in seconds.
        memory_bytes: The memory of processes and of files in memory.
        memory_peak_bytes: The largest `memory_bytes`; None without a cgroup (`mem_limit`).
        memory_limit_bytes, pids_limit: The limits; None without.
        pids: The number of processes and threads.
        read_bytes, written_bytes: The bytes from and to disks.
        received_bytes, sent_bytes: The bytes from and to other containers and the host.
    """

    cpu_s: float
    memory_bytes: int
    memory_peak_bytes: int | None
    memory_limit_bytes: int | None
    pids: int
    pids_limit: int | None
    read_bytes: int
    written_bytes: int
    received_bytes: int
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class Refusals:
    """The attempts of a container without egress to reach other machines.

    Attributes:
        count: The number of connections and datagrams that had no route. The kernel counts them,
            and does not say where they were to go.
        names: Names that it looked up and that are none of a container's; the first few.
    """

    count: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OciState:
    """The state of an OCI container (runtime-spec runtime.md#state).

    Attributes:
        id: Of the container.
        status: ``"created"``, ``"running"``, ``"paused"`` or ``"stopped"``.
        pid: Of its process, as this process sees it; 0 once it is stopped.
        bundle: The directory of its bundle.
        oci_version: Of its config.
        annotations: Of its config.
    """

    id: str
    status: OciStatus
    pid: int
    bundle: str
    oci_version: str
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """A change of a container.

    Attributes:
        kind: ``"start"``, ``"pause"``, ``"unpause"``, ``"restart"``, ``"die"``, ``"remove"``.
        container: The id of the container.
        name: The name of the container.
        time: The time in seconds since the epoch.
        exit_code: The exit code, if `kind` is ``"die"``.
    """

    kind: EventKind
    container: str
    name: str
    time: float
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Warmup:
    """A request that the run sends to a container as soon as its log shows a text.

    Attributes:
        text: The text to look for in the output.
        port: The TCP port in the container.
        data: The request in Base64.
    """

    text: str
    port: int
    data: str
