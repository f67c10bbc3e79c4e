"""What the supervisor asks of the launcher, which sees the host."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pytest_containers.runtime.wire.message import Descriptor, Descriptors, Message, Operation
from pytest_containers.runtime.wire.operations.containers import RefusedCount
from pytest_containers.runtime.wire.operations.job import JobResult
from pytest_containers.runtime.wire.operations.starts import ForwardedPort, PortRequest


class HostTree(Message):
    """A directory or file of the host.

    Attributes:
        idmapped: True if its files have the host's owners, which are mapped then.
        recursive: True if mounts below it come along.
        attributes: MOUNT_ATTR_* that the mount gets, and those below it (mount_setattr(2)).
    """

    path: str
    idmapped: bool
    recursive: bool
    attributes: int = 0


class OpenedTree(Message):
    """A tree of the host as it could be had.

    Attributes:
        directory: True if it is a directory.
        below: Where mounts below it belong, relative to it, that had to be made one by one. They
            follow its own in `OpenedTrees.mounts`.
        notes: What it lacks: mounts below it, or the owners of files.
    """

    directory: bool
    below: Sequence[str] = ()
    notes: Sequence[str] = ()


class OpenedTrees(Message):
    """Detached mounts."""

    trees: Sequence[OpenedTree]
    mounts: Descriptors


class OpenTrees(Operation[OpenedTrees]):
    """Make mounts of what the caller may see."""

    raises: ClassVar[tuple[str, ...]] = ("StartError",)

    trees: Sequence[HostTree]


class StartJob(Operation[JobResult]):
    """Run a job (`job.Job`).

    Attributes:
        function: ``module:name``.
        args: Fields of its argument.
        search_path: Where its module may be found beside our own.
        descriptors: Handed to it.
    """

    raises: ClassVar[tuple[str, ...]] = ("ContainersError", "ImageError", "BuildError")

    function: str
    args: Mapping[str, Any]
    search_path: Sequence[str]
    descriptors: Descriptors = ()


class ForwardedPorts(Message):
    """Ports of the host's 127.0.0.1."""

    ports: Sequence[ForwardedPort]


class Forward(Operation[ForwardedPorts]):
    """Listen on ports of 127.0.0.1 for a container: on all of them, or on none.

    Attributes:
        key: To close them by.
        ip: Address of the container.
        ports: What to forward.
        label: The container and its worker of xdist, for whoever wants a port that it has.
    """

    raises: ClassVar[tuple[str, ...]] = ("StartError",)

    key: str
    ip: str
    ports: Sequence[PortRequest]
    label: str


class StopForwarding(Operation[None]):
    """Close the forwarded ports of a container; connections go on until their ends."""

    key: str


class RouteEndpoint(Operation[RefusedCount]):
    """Lead a fixed address (`session.OpenEndpoint`) to a container, or nowhere.

    Attributes:
        ip: Of the container; empty for none.
    """

    key: str
    ip: str
    port: int


class CloseEndpoints(Operation[None]):
    """Listen no more at fixed addresses, and reset their connections."""

    keys: Sequence[str]


class ScratchDirectory(Message):
    """A directory on disk for a writable layer.

    Attributes:
        path: On the host.
        mount: As host root: a mount of it. Else nothing.
    """

    path: str
    mount: Descriptors


class MakeScratch(Operation[ScratchDirectory]):
    """Make a directory for a writable layer."""

    raises: ClassVar[tuple[str, ...]] = ("StartError",)


class RemoveScratch(Operation[None]):
    """Delete such a directory; an unknown one is gone already."""

    path: str


class EgressStarted(Message):
    """A process that connects a container to other machines.

    Attributes:
        pidfd: Its end before the container's is a failure.
        words: A pipe that has the errno of what it could not do, as text, if it ended for that.
    """

    pidfd: Descriptor
    words: Descriptor


class StartEgress(Operation[EgressStarted]):
    """Connect a network namespace to other machines.

    Attributes:
        program: Path of slirp4netns or pasta.
        netns: The namespace.
        alive: A pipe; the process ends when it is closed.
    """

    raises: ClassVar[tuple[str, ...]] = ("StartError",)

    program: str
    netns: Descriptor
    alive: Descriptor


class CgroupFiles(Message):
    """The cgroups of a container.

    Attributes:
        hierarchies: The controllers of each, of version 1; empty for version 2.
        files: For each: the directory that tells what the container uses, and a file to write 0
            to, to join. Of version 2 also the directory to be started in. At the end, those that
            `resets` are for.
        resets: What is written to them before another container has the cgroups, by name.
        reusable: True if a container cannot change them, so that another one can have them.
    """

    hierarchies: Sequence[str]
    files: Descriptors
    resets: Mapping[str, str]
    reusable: bool = False


class MakeCgroup(Operation[CgroupFiles]):
    """Make the cgroups of a container.

    Attributes:
        key: To remove them by.
        resources: Its limits, as an OCI config has them (``linux.resources``).
    """

    raises: ClassVar[tuple[str, ...]] = ("UnsupportedError", "StartError")

    key: str
    resources: Mapping[str, Any]


class RemoveCgroups(Operation[None]):
    """Remove the cgroups of containers that have ended; unknown ones are gone already."""

    keys: Sequence[str]


class ConnectHost(Operation[None]):
    """Join a socket that a container has opened to a port of the host's 127.0.0.1."""

    port: int
    socket: Descriptor


class Outlive(Operation[None]):
    """Live on when the test process ends, until the supervisor has ended.

    Attributes:
        keep_s: How long the supervisor may live after that.
        listener: A listening Unix socket; who connects is passed on (`inside.Admit`).
        directory: The directory that the socket is in; it is removed at the end.
        name: Its name there.
    """

    keep_s: float
    listener: Descriptor
    directory: Descriptor
    name: str
