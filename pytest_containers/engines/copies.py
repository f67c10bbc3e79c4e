"""Copies as tar streams between two ends of this machine, one of which works on a thread."""

from __future__ import annotations

import errno
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_containers.model.errors import ContainersError, hide_frames
from pytest_containers.model.threads import starting_threads
from pytest_containers.runtime.copying.receive import CopyWriter, sentence_of
from pytest_containers.runtime.copying.tar import TarError

__tracebackhide__ = hide_frames

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class CopyThread:
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


def goal_of(source: str, target: Path, doing: str) -> Path:
    """Return the path of a copy on the host: `target`, or below it if it is a directory.

    Raises:
        ContainersError: Its directory does not exist.
    """
    goal = target / Path(source).name if target.is_dir() else target
    if not goal.parent.is_dir():
        raise ContainersError(f"{doing}: {goal.parent} is not a directory", path=str(goal.parent))
    return goal


@contextmanager
def host_writer(goal: Path) -> Iterator[CopyWriter]:
    """Open the writer of a copy to the host.

    No link is written through, not even one that an earlier copy has made.
    """
    folder = os.open(goal.parent, _FOLDER)
    try:
        # No set-id bits from a container, and directories that their owner can remove.
        yield CopyWriter(
            folder, name="the copy", top=goal.name, mode_mask=0o777, directory_mode=0o700
        )
    finally:
        os.close(folder)


def raise_first(doing: str, packing: Exception | None, unpacking: Exception | None) -> None:
    """Raise what went wrong first: the other end only sees that the stream broke off."""
    error = unpacking if packing is None or _is_broken_pipe(packing) else packing
    error = error or packing
    if error is None:
        return
    if isinstance(error, ContainersError) and error.message.startswith(doing):
        raise error
    if isinstance(error, OSError | tarfile.TarError | TarError | ContainersError):
        words = sentence_of(error) if isinstance(error, OSError) else str(error)
        raise ContainersError(f"{doing}: {words}", errno=getattr(error, "errno", None)) from error
    raise error


def _is_broken_pipe(error: Exception) -> bool:
    return isinstance(error, BrokenPipeError) or getattr(error, "errno", None) == errno.EPIPE
