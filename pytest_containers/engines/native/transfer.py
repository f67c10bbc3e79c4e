"""Copies between host and container: the end of the tar streams in this process.

The other end is a job in the user namespace of the run (`runtime.jobs.copies`), which can access
the files of all users of the container. On this end, all files belong to the caller.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pytest_containers.engines.copies import CopyThread, goal_of, host_writer, raise_first
from pytest_containers.engines.native.jobs import call_job
from pytest_containers.model.errors import ContainersError, WaitTimeoutError, hide_frames
from pytest_containers.runtime.copying.packer import pack_tree
from pytest_containers.runtime.copying.receive import write_copy
from pytest_containers.runtime.jobs import (
    PACK_TREE,
    UNPACK_TREE,
    Nothing,
    PackTree,
    UnpackTree,
)

if TYPE_CHECKING:
    from pytest_containers.runtime.wire.client import Client
    from pytest_containers.runtime.wire.operations.job import Job

__tracebackhide__ = hide_frames

_A = TypeVar("_A")


def copy_in(client: Client, container_id: str, name: str, source: Path, target: str) -> None:
    """Copy from the host into a container; see `Container.copy_in`."""
    doing = f"copy of {source} to {target} in container {name!r}"
    if not os.path.lexists(source):
        raise ContainersError(f"{doing}: {source} does not exist", path=str(source))
    reader, writer = os.pipe2(os.O_CLOEXEC)

    def pack() -> None:
        with open(writer, "wb") as file:
            # A link is copied as a link.
            top = os.open(source, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                pack_tree(top, file)
            finally:
                os.close(top)

    packing = CopyThread(pack)
    args = UnpackTree(path=target, name=source.resolve().name)
    unpacking = _failure_of(client, container_id, UNPACK_TREE, args, reader, doing)
    raise_first(doing, packing.failure(), unpacking)


def copy_out(client: Client, container_id: str, name: str, source: str, target: Path) -> None:
    """Copy from a container to the host; see `Container.copy_out`."""
    doing = f"copy of {source} in container {name!r} to {target}"
    goal = goal_of(source, target, doing)
    reader, writer = os.pipe2(os.O_CLOEXEC)

    def unpack() -> None:
        try:
            with host_writer(goal) as copy:
                write_copy(reader, copy)
        finally:
            os.close(reader)

    unpacking = CopyThread(unpack)
    args = PackTree(path=source)
    packing = _failure_of(client, container_id, PACK_TREE, args, writer, doing)
    raise_first(doing, packing, unpacking.failure())


def _failure_of(
    client: Client, container_id: str, job: Job[_A, Nothing], args: _A, fd: int, doing: str
) -> ContainersError | None:
    """Run the other end of a copy, and return why it failed.

    Args:
        fd: Its end of the pipe, which is taken over: this end has to see when it is closed.
    """
    try:
        call_job(client, job, args, [fd], root_of=container_id, doing=doing)
    except WaitTimeoutError:  # of a stopped process: the other end of the pipe does not hear of it
        raise
    except ContainersError as error:
        return error
    finally:
        os.close(fd)
    return None
