"""What a test process asks of the supervisor about its session: images, networks, shares, files."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pytest_containers.runtime.wire.message import Blob, Descriptor, Descriptors, Message, Operation
from pytest_containers.runtime.wire.operations.job import JobResult

# ------------------------------------------------------------------------- images


class LayerDirectory(Message):
    """A layer of an image.

    Attributes:
        path: On the host.
        owner: ``caller`` if its files have the host's owners, which are mapped then.
    """

    path: str
    owner: str


class ShownDirectory(Message):
    """A directory of the host that an image shows read-only.

    Attributes:
        source: Path on the host.
        target: Path in the container.
        public: True if its owners have no ids in the container, where only files are readable that
            every user of the host may read.
    """

    source: str
    target: str
    public: bool = False


class ImageDevice(Message):
    """A device node of an image.

    Attributes:
        path: In the container, without a leading slash; links on the way are not followed.
        name: Which device of ``/dev`` it is.
    """

    path: str
    name: str


class AttachImage(Operation[None]):
    """Attach the layers of an image, so that containers can be started from it.

    Attributes:
        key: What `StartRequest.image` calls it.
        layers: The lowest first.
        mounts: What is shown on top of them.
        devices: Where its layers have a socket in place of a device that every container has.
        hold: A lock on the image, which is kept as long as the run lives.
    """

    raises: ClassVar[tuple[str, ...]] = ("ImageError",)

    key: str
    layers: Sequence[LayerDirectory]
    mounts: Sequence[ShownDirectory]
    devices: Sequence[ImageDevice]
    hold: Descriptor


# ------------------------------------------------------------- networks and volumes


class Created(Message):
    """The id of something new."""

    id: str


class CreateNetwork(Operation[Created]):
    """Make a private network.

    Attributes:
        parents: Ids of networks; containers of the new network reach theirs.
    """

    raises: ClassVar[tuple[str, ...]] = ("StartError",)

    parents: Sequence[str]


class RemoveNetwork(Operation[None]):
    """Remove a network, after the last of its containers; an unknown one is gone already."""

    network: str


class VolumeFile(Message):
    """A file that a volume begins with."""

    size_bytes: int
    mode: int
    uid: int
    gid: int


class CreateVolume(Operation[Created]):
    """Make a file system in memory.

    Attributes:
        size_bytes: Its limit; None is half the machine's memory.
        files: Are called by their numbers, from 0.
        contents: Of the files, one after the other.
    """

    raises: ClassVar[tuple[str, ...]] = ("StartError",)

    size_bytes: int | None
    files: Sequence[VolumeFile] = ()
    contents: Blob = b""


class RemoveVolume(Operation[None]):
    """Drop a volume; an unknown one is gone already."""

    volume: str


# ------------------------------------------------------------------------- sharing


class Claim(Message):
    """The state of a shared container.

    Attributes:
        state: ``make``: the caller is to make and publish it. ``made``: `result` is what was
            published. ``failed``: `error` is why it could not be made.
        error: As in the answer of a refused request.
    """

    state: Literal["make", "made", "failed"]
    result: Any = None
    error: Sequence[Any] = ()


class ClaimShare(Operation[Claim]):
    """Wait until a shared container is made, or be the one to make it."""

    key: str


class PublishShare(Operation[None]):
    """Publish a shared container. It and its network outlive the caller from now on.

    Attributes:
        result: Facts for the other test processes.
    """

    raises: ClassVar[tuple[str, ...]] = ("NotRunningError",)

    key: str
    container: str
    network: str
    result: Mapping[str, Any]


class FailShare(Operation[None]):
    """Publish why a shared container could not be made."""

    key: str
    error: Sequence[Any]


# ------------------------------------------------------------------------- files


class Opened(Message):
    """An open file."""

    file: Descriptor


class Open(Operation[Opened]):
    """Open a regular file of a container, also after its end.

    Attributes:
        flags, mode: As open(2) takes them.
    """

    raises: ClassVar[tuple[str, ...]] = ("ContainersError", "NotRunningError")

    container: str
    path: str
    flags: int
    mode: int


class CallJob(Operation[JobResult]):
    """Run a job (`job.Job`) with the run's own descriptors added to the caller's.

    Attributes:
        function, args, search_path: As in `host.StartJob`.
        root_of: A container whose root is the first descriptor.
        upper_of: A container whose upper directory is the first descriptor.
        views: Keys of images whose roots are the last descriptors.
    """

    raises: ClassVar[tuple[str, ...]] = ("ContainersError", "NotRunningError", "ImageError")

    function: str
    args: Mapping[str, Any]
    search_path: Sequence[str]
    root_of: str = ""
    upper_of: str = ""
    views: Sequence[str] = ()
    descriptors: Descriptors = ()


# ------------------------------------------------------------------------- processes


class Adopt(Operation[None]):
    """Serve another test process.

    Attributes:
        socket: Connected to it.
        pidfd: Of it: its containers end with it.
        label: Its name among the test processes: ``worker gw0``.
    """

    socket: Descriptor
    pidfd: Descriptor
    label: str


class Cancel(Operation[None]):
    """Give a request up; it is not answered any more.

    Attributes:
        request: Its number.
    """

    request: int
