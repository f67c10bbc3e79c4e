"""Which processes the kernel kills first when memory is short (proc_pid_oom_score_adj(5)).

``process.oomScoreAdj``: children inherit it from the supervisor, which has it for a moment. A child
cannot set it itself: until its execve it is not dumpable, and so its file in /proc belongs to the
host's root. The supervisor's own was opened when it was.

Without it, a container's processes come before the test process: they get more once they have had
their execve, since until then they share the supervisor's memory, and the kernel sets the value of
all processes that share one. Most programs that tests start have ended before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pytest_containers.linux.process import number_in_proc
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.loop import Batch, Loop

if TYPE_CHECKING:
    from pytest_containers.runtime.supervisor.processes import Process


def open_own() -> int:
    """Open the value of this process, before it changes its credentials; -1 if that fails."""
    try:
        return os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return -1


_ABOVE_OURS, _HIGHEST = 500, 1000
_SOON_S = 0.02


class OomScore:
    """The supervisor's oom_score_adj.

    Args:
        loop: Tells when a program has run for a while.
        fd: From `open_own`.
    """

    def __init__(self, loop: Loop, fd: int) -> None:
        self._fd = fd
        self._started: Batch[Process] = Batch(loop, _SOON_S, self._raise_all)
        own = _HIGHEST if fd < 0 else int(os.pread(fd, 16, 0))
        self._raised = str(min(own + _ABOVE_OURS, _HIGHEST)).encode()
        self._is_highest = own >= _HIGHEST

    def raise_soon(self, program: Process) -> None:
        """Have the kernel kill a program before the test process, if it still runs in a moment."""
        self._started.add(program)

    def _raise_all(self, programs: list[Process]) -> None:
        for program in programs:
            if program.exit_code is not None:
                continue
            if program.has_executed:
                self._raise_for(program.pidfd)
            else:
                self._started.add(program)

    def _raise_for(self, pidfd: int) -> None:
        """Have the kernel kill a process, and what it has started, before the test process."""
        pids: list[int] = []
        if not self._is_highest:
            with suppress(OSError):  # it has ended
                pids = [number_in_proc(pidfd)]
        while pids:
            pid = pids.pop()
            with suppress(OSError):  # it has ended
                _write(f"/proc/{pid}/oom_score_adj", self._raised)
                # Started in the moment before, they have not inherited it.
                pids += map(int, _read(f"/proc/{pid}/task/{pid}/children").split())

    @contextmanager
    def inherited(self, process: Mapping[str, Any], runner: str) -> Iterator[str]:
        """Give the children that are started meanwhile the value of a process object.

        Args:
            process: The process object.
            runner: The run's.

        Yields:
            The runner to start the child with. A child in the supervisor's memory would be given
            the old value together with the supervisor (__set_oom_adj in the kernel).

        Raises:
            FaultError: The kernel does not permit the value.
        """
        score = process.get("oomScoreAdj")
        if score is None:
            yield runner
            return
        try:
            own = os.pread(self._fd, 16, 0)
            os.pwrite(self._fd, str(score).encode(), 0)
        except OSError as error:
            raise FaultError(
                "StartError",
                f"oom_score_adj {score}: {error.strerror}; only the host's root may choose one "
                "below that of the tests",
                errno=error.errno,
            ) from None
        try:
            yield "python"
        finally:
            os.pwrite(self._fd, own, 0)


def _write(path: str, value: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)
