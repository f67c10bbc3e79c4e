"""Copies between host and container: the end of the tar streams in this process.

The other end is a job in the user namespace of the run (`runtime.jobs.copies`), which can access
the files of all users of the container. On this end, all files belong to the caller.
"""

from __future__ import annotations

import errno
import os
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pytest_containers.engines.native.jobs import call_job
from pytest_containers.model.errors import ContainersError, WaitTimeoutError, hide_frames
from pytest_containers.model.threads import starting_threads
from pytest_containers.runtime.copying.packer import pack_tree
from pytest_containers.runtime.copying.receive import CopyWriter, sentence_of, write_copy
from pytest_containers.runtime.copying.tar import TarError
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
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


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

    packing = _CopyThread(pack)
    args = UnpackTree(path=target, name=source.resolve().name)
    unpacking = _failure_of(client, container_id, UNPACK_TREE, args, reader, doing)
    _raise_first(doing, packing.failure(), unpacking)


def copy_out(client: Client, container_id: str, name: str, source: str, target: Path) -> None:
    """Copy from a container to the host; see `Container.copy_out`."""
    doing = f"copy of {source} in container {name!r} to {target}"
    goal = target / Path(source).name if target.is_dir() else target
    if not goal.parent.is_dir():
        raise ContainersError(f"{doing}: {goal.parent} is not a directory", path=str(goal.parent))
    reader, writer = os.pipe2(os.O_CLOEXEC)

    def unpack() -> None:
        folder = os.open(goal.parent, _FOLDER)
        try:
            # No set-id bits from a container, and directories that their owner can remove.
            copy = CopyWriter(
                folder, name="the copy", top=goal.name, mode_mask=0o777, directory_mode=0o700
            )
            write_copy(reader, copy)
        finally:
            os.close(folder)
            os.close(reader)

    unpacking = _CopyThread(unpack)
    args = PackTree(path=source)
    packing = _failure_of(client, container_id, PACK_TREE, args, writer, doing)
    _raise_first(doing, packing, unpacking.failure())


class _CopyThread:
    """A thread for this process's end of a copy."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        with starting_threads():
            self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - raised by the caller
            self._failure = error

    def failure(self) -> Exception | None:
        """Wait for its end, and return why it failed."""
        self._thread.join()
        return self._failure


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


def _raise_first(doing: str, packing: Exception | None, unpacking: Exception | None) -> None:
    """Raise what went wrong first: the other end only sees that the stream broke off."""
    error = unpacking if packing is None or _is_broken_pipe(packing) else packing
    error = error or packing
    if error is None:
        return
    if isinstance(error, ContainersError) and error.message.startswith(doing):
        raise error
    if isinstance(error, OSError | tarfile.TarError | TarError | ContainersError):
        words = sentence_of(error) if isinstance(error, OSError) else str(error)
        raise ContainersError(f"{doing}: {words}") from error
    raise error


def _is_broken_pipe(error: Exception) -> bool:
    return isinstance(error, BrokenPipeError) or getattr(error, "errno", None) == errno.EPIPE
