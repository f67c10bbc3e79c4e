"""The beginning of a run: what a test process asks for, and what it gets."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pytest_containers.runtime.wire.message import Descriptor, Descriptors, Message, Operation


class RunFacts(Message):
    """The facts of a run; the first answer of a supervisor to each test process.

    Attributes:
        identity: The kind of map of ids: ``root``, ``range`` or ``single``.
        identity_reason: Why not more.
        id_map_class: A name for the map of ids: equal names, equal owners on disk.
        runner: What walks the plans of system calls: ``stub`` or ``python``.
        connected: True if the host reaches containers by their addresses.
        connected_reason: Why not.
        features: What this kernel can do.
    """

    identity: str
    identity_reason: str
    id_map_class: str
    runner: str
    connected: bool
    connected_reason: str
    features: Mapping[str, bool]


class StartRun(Operation[RunFacts]):
    """Start supervisor and network helper. The supervisor answers, when it is ready to serve.

    Attributes:
        home: The image store, for what has to be on disk.
        search_path: Directories that may hold pyroute2.
        identity, runner: To get less than possible.
        max_containers: How many containers there may be at a time.
        max_memory_bytes: The memory that all of them may use together.
        network: ``host`` for a run whose containers are in the host's network namespace.
        force_fallback: Use none of the kernel's newer features.
        trace: A file that what the processes do is written to (`trace`), or nothing.
        fail_in: For tests: what has a defect. An operation (``launcher/Forward``), the start of a
            process (``supervisor/start``) or a job (``job/module:function``).
    """

    raises: ClassVar[tuple[str, ...]] = ("UnsupportedError", "StartError", "RunLostError")

    home: str
    search_path: Sequence[str]
    identity: str = "auto"
    runner: str = "auto"
    max_containers: int | None = None
    max_memory_bytes: int | None = None
    network: Literal["private", "host"] = "private"
    force_fallback: bool = False
    fail_in: Sequence[str] = ()
    trace: Descriptors = ()


class RunJoined(Message):
    """A connection to the run of another test process.

    Attributes:
        supervisor: A socket to the supervisor.
        errors: A file with the tracebacks of the run's processes.
    """

    supervisor: Descriptor
    errors: Descriptor


class JoinRun(Operation[RunJoined]):
    """Join the run of the controller of pytest-xdist.

    Attributes:
        label: The process in messages: ``worker gw0``; empty for no worker.
    """

    raises: ClassVar[tuple[str, ...]] = ("ContainersError", "RunLostError")

    label: str = ""
