"""What a test process asks of the supervisor about a container."""

from collections.abc import Sequence
from typing import ClassVar

from pytest_containers.runtime.wire.message import Blob, Descriptor, Descriptors, Message, Operation

# ------------------------------------------------------------------------- life


class Exited(Message):
    """The end of a container.

    Attributes:
        code: As a shell reports it.
        complete: True if `output` is all it has written and ever will.
        output: Records as in `LogRecords`.
    """

    code: int
    complete: bool = False
    output: Blob = b""


class WaitExit(Operation[Exited]):
    """Wait for the end of a container."""

    raises: ClassVar[tuple[str, ...]] = ("NotRunningError",)

    container: str


class ContainerState(Message):
    """The state of a container.

    Attributes:
        state: ``created``, ``running``, ``paused`` or ``exited``.
        exit_code: None while it runs.
        oom_killed: True if a process of it was killed for memory.
    """

    state: str
    exit_code: int | None
    oom_killed: bool = False


class ContainerUsage(Message):
    """What a container uses, and has used; None where nothing counts it.

    Attributes:
        cpu_s: Processors' time.
        memory_bytes, memory_peak_bytes: Of its processes, and of its files in memory.
        memory_limit_bytes, pids_limit: Its limits; None without.
        pids: Processes and threads.
        read_bytes, written_bytes: From and to disks.
        received_bytes, sent_bytes: From and to other containers and the host.
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


class ReadUsage(Operation[ContainerUsage]):
    """Read what a container uses."""

    raises: ClassVar[tuple[str, ...]] = ("NotRunningError",)

    container: str


class Inspect(Operation[ContainerState]):
    """Look at a container."""

    raises: ClassVar[tuple[str, ...]] = ("NotRunningError",)

    container: str


class ContainerIds(Message):
    """Ids of containers."""

    ids: Sequence[str]


class ListContainers(Operation[ContainerIds]):
    """List the containers of the caller."""


class Signal(Operation[None]):
    """Send a signal to the program of a container."""

    raises: ClassVar[tuple[str, ...]] = ("NotRunningError",)

    container: str
    signum: int


class ExitCode(Message):
    """The exit code of a program, as a shell reports it."""

    code: int


class Stop(Operation[ExitCode]):
    """Send a signal, wait, then kill; kill at once a program that the kernel keeps it from.

    Attributes:
        timeout_s: The time between the signal and SIGKILL.
    """

    raises: ClassVar[tuple[str, ...]] = ("NotRunningError",)

    container: str
    signum: int
    timeout_s: float


class Pause(Operation[None]):
    """Stop all processes of a container."""

    raises: ClassVar[tuple[str, ...]] = ("NotRunningError",)

    container: str


class Unpause(Operation[None]):
    """Let the processes of a container go on."""

    raises: ClassVar[tuple[str, ...]] = ("NotRunningError",)

    container: str


class Remove(Operation[None]):
    """Kill a container and drop its files; an unknown container is gone already."""

    container: str


# ------------------------------------------------------------------------- programs


class ExecStarted(Message):
    """A program that was started in a container.

    Attributes:
        ended: A pidfd: readable once it has ended, while others may still have its streams open.
        streams: Standard input (if it was asked for), output and error output; or its terminal.
    """

    pid: int
    ended: Descriptor
    streams: Descriptors


class Exec(Operation[ExecStarted]):
    """Run a program in a container; the second answer is its end.

    Attributes:
        user: As in `StartRequest`; None is the container's own.
        stdin: True for a standard input.
        args: The command line; its first word is that of `process`.
        process: An OCI process object.
    """

    last: ClassVar[type] = ExitCode
    raises: ClassVar[tuple[str, ...]] = ("StartError", "ExecError", "NotRunningError")

    container: str
    user: str | None
    groups: Sequence[str]
    stdin: bool
    args: Sequence[str]
    process: Blob


class SignalExec(Operation[None]):
    """Send a signal to a program that was started by `Exec`; one that has ended is ignored.

    Attributes:
        request: Number of the request.
    """

    request: int
    signum: int


class LogRecords(Message):
    """A part of the log.

    Attributes:
        position: Of the next part.
        more: True if there is more, or will be.
        records: As `supervisor.logs.Log.since` makes them.
    """

    position: int
    more: bool
    records: Blob


class ReadLogs(Operation[LogRecords]):
    """Read what a container has written.

    Attributes:
        position: Where to begin.
        wait: True to be answered when there is something, or never will be.
    """

    raises: ClassVar[tuple[str, ...]] = ("NotRunningError",)

    container: str
    position: int
    wait: bool


# ------------------------------------------------------------------------- network


class ContainerPort(Message):
    """A port of a container."""

    number: int
    protocol: str


class Listening(Message):
    """The ports that are still without a listening socket.

    Attributes:
        missing: Empty when all are there.
        elsewhere: Addresses at which missing ports listen, out of reach.
        open: Other ports that are reached.
        exit_code: Of a container that has ended meanwhile.
    """

    missing: Sequence[ContainerPort]
    elsewhere: Sequence[str] = ()
    open: Sequence[ContainerPort] = ()
    exit_code: int | None = None


class WaitListening(Operation[Listening]):
    """Wait until sockets listen on ports of a container.

    Those of `StartRequest.ports` must be reached at its IPv4 address; others may listen anywhere.
    """

    raises: ClassVar[tuple[str, ...]] = ("NotRunningError",)

    container: str
    ports: Sequence[ContainerPort]
    timeout_s: float


class RefusalsRead(Message):
    """The attempts of a container to reach other machines.

    Attributes:
        count: The number of connections and datagrams that had no route.
        names: The first few names that it looked up.
    """

    count: int
    names: Sequence[str]


class ReadRefusals(Operation[RefusalsRead]):
    """Tell what a container has tried to reach of other machines, without a way out."""

    raises: ClassVar[tuple[str, ...]] = ("NotRunningError",)

    container: str


class Connected(Message):
    """A connected socket."""

    socket: Descriptor


class Connect(Operation[Connected]):
    """Connect to a port: from outside if it can be reached so, else on the loopback device."""

    raises: ClassVar[tuple[str, ...]] = ("ContainersError", "NotRunningError", "StartError")

    container: str
    port: int
    protocol: str
    timeout_s: float


class OpenEndpoint(Operation[None]):
    """Listen at a fixed address, which leads nowhere yet.

    Attributes:
        key: To name it by.
        label: Whose it is, for whoever wants the same port.
        bound: A bound socket, or none.
        port: The port of 127.0.0.1 to bind, without a socket.
    """

    raises: ClassVar[tuple[str, ...]] = ("StartError",)

    key: str
    label: str
    bound: Descriptors
    port: int


class RefusedCount(Message):
    """The number of connections that were refused since the last time, without a container."""

    count: int


class PointEndpoint(Operation[RefusedCount]):
    """Lead a fixed address to a container, or nowhere; connections to the last one are reset."""

    raises: ClassVar[tuple[str, ...]] = ("SpecError", "NotRunningError")

    key: str
    container: str | None
    port: int
