"""What keeps containers after their test process has ended, and what others do with them."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pytest_containers.runtime.wire.message import Descriptor, Message, Operation


class KeptFacts(Message):
    """What the run itself does not know of a container.

    Attributes:
        test: The node id of the test that it was started for.
        ports: Where its ports are, such as ``5432/tcp at 127.0.0.1:40001``.
        kept_at: When the test process gave it away, in seconds since the epoch.
        process: The OCI process object of its program, for `Exec`.
    """

    name: str
    image: str
    test: str
    command: Sequence[str]
    ports: Sequence[str]
    kept_at: float
    process: Mapping[str, Any]


class RunKept(Message):
    """The answer to `KeepRun`.

    Attributes:
        first: False if another process of the run has asked before; nothing has changed then.
    """

    first: bool


class KeepRun(Operation[RunKept]):
    """Let the run outlive its test process if there are kept containers at that time.

    Attributes:
        keep_s: How long, from the end of the test process.
        most: How many containers are kept; the oldest one goes first.
        listener: A listening Unix socket, by which other processes of the user reach the run.
        directory: The directory that the socket is in; the launcher removes it at the end.
        name: Its name there.
    """

    keep_s: float
    most: int
    listener: Descriptor
    directory: Descriptor
    name: str


class KeepContainer(Operation[None]):
    """Show a container of the caller to other processes, and keep it when the caller ends.

    Its network and the networks that it reaches are kept with it.

    Attributes:
        stay: False shows it only, as long as it lives anyway.
    """

    raises: ClassVar[tuple[str, ...]] = ("NotRunningError", "ContainersError")

    container: str
    facts: KeptFacts
    stay: bool = True


class KeptState(Message):
    """A container as `ListKept` tells of it.

    Attributes:
        state: As in `ContainerState`.
        kept: False if it ends with its test.
    """

    id: str
    facts: KeptFacts
    state: str
    exit_code: int | None
    ip: str
    kept: bool


class KeptStates(Message):
    """The containers of a run that are shown, the oldest first.

    Attributes:
        ends_in_s: When the run ends; None while its test process lives.
    """

    containers: Sequence[KeptState]
    ends_in_s: float | None


class ListKept(Operation[KeptStates]):
    """List the containers that are kept or shown."""


class DropKept(Operation[None]):
    """Remove a kept container, and what only it needs; the run ends with the last one.

    Attributes:
        container: Its id; empty for all.
    """

    raises: ClassVar[tuple[str, ...]] = ("NotRunningError",)

    container: str
