"""Jobs of the run itself (see `wire.operations.job`): trees in and out of containers, scratch."""

from pytest_containers.runtime.wire.message import Message
from pytest_containers.runtime.wire.operations.job import Job


class Nothing(Message):
    """No argument, or no result."""


class PackTree(Message):
    """Which file or tree of a container is packed."""

    path: str


class UnpackTree(Message):
    """The place in a container where a tree is unpacked.

    Attributes:
        path: If it is a directory, the tree goes into it.
        name: Of the tree in that directory.
    """

    path: str
    name: str


_COPIES = "pytest_containers.runtime.jobs.copies"

PACK_TREE: Job[PackTree, Nothing] = Job(_COPIES, "pack", PackTree, Nothing)
"""Descriptors: the container's root, and a pipe that the tar is written to."""

UNPACK_TREE: Job[UnpackTree, Nothing] = Job(_COPIES, "unpack", UnpackTree, Nothing)
"""Descriptors: the container's root, and a pipe that the tar comes from."""

CLEAR: Job[Nothing, Nothing] = Job(
    "pytest_containers.runtime.jobs.scratch", "clear", Nothing, Nothing
)
"""Delete everything in a directory, whose descriptor it gets."""

GIVE_TO_CALLER: Job[Nothing, Nothing] = Job(
    "pytest_containers.runtime.jobs.owners", "give_to_caller", Nothing, Nothing
)
"""Descriptors: directories whose files become the caller's."""
