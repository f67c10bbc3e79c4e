"""What the launcher asks of the supervisor, which is inside the run's namespaces."""

from typing import ClassVar

from pytest_containers.runtime.wire.message import Descriptor, Operation
from pytest_containers.runtime.wire.operations.containers import Connected


class Go(Operation[None]):
    """Begin: the ids of the run are mapped. Comes once and has no answer.

    Attributes:
        memory_bytes: The memory that all containers may use together; None for any.
        cgroups: True if each container needs a cgroup of its own, also without limits.
    """

    memory_bytes: int | None = None
    cgroups: bool = False


class RenewCgroupNamespace(Operation[None]):
    """Make a new cgroup namespace, which begins at the cgroup that the supervisor is in now."""


class Admit(Operation[None]):
    """Serve another process of the user, which has connected to a kept run.

    Attributes:
        socket: Connected to it.
        pidfd: Of it.
    """

    socket: Descriptor
    pidfd: Descriptor


class Dial(Operation[Connected]):
    """Connect to a container from the run's network namespace."""

    raises: ClassVar[tuple[str, ...]] = ("ContainersError",)

    protocol: str
    ip: str
    port: int
