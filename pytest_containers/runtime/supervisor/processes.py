"""Children of the supervisor: their streams, their start, and how they ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Callable

from pytest_containers.linux import mount
from pytest_containers.linux.files import open_in_root
from pytest_containers.linux.process import CLONE_NEWPID, pidfd_kill, setns, wait_exit
from pytest_containers.linux.program import Failure, Program
from pytest_containers.linux.spawn import Child, spawn
from pytest_containers.runtime.loop import Loop
from pytest_containers.runtime.messages import FaultError

_TIOCGPTPEER, _TIOCSPTLCK = 0x5441, 0x40045431
_PTMX = os.makedev(5, 2)


class Process:
    """A child and its end.

    Args:
        loop: Runs it.
        child: As `spawn` made it; owned from now on.
        started: Called once with None when the program runs, or with the failure.
        ended: Called once with the exit code as a shell reports it, after `started`.
        promptly: Whether `started` is called as soon as it can be, or right before `ended`, which
            saves a turn of the loop.
    """

    def __init__(
        self,
        loop: Loop,
        child: Child,
        started: Callable[[Failure | None], None],
        ended: Callable[[int], None],
        *,
        promptly: bool = True,
    ) -> None:
        self._loop = loop
        self._child = child
        self._started: Callable[[Failure | None], None] | None = started
        self._ended = ended
        self.pid: int = child.pid
        self.exit_code: int | None = None
        if promptly:
            loop.add_reader(child.status_fd, self._on_status)
        loop.add_reader(child.pidfd, self._on_end)

    @property
    def pidfd(self) -> int:
        """To signal it and to enter its namespaces; -1 once it has ended."""
        return self._child.pidfd

    def kill(self, signum: int) -> bool:
        """Send a signal; False when it has ended."""
        return self.exit_code is None and pidfd_kill(self._child.pidfd, signum)

    def _on_status(self) -> None:
        started, self._started = self._started, None
        self._loop.remove_reader(self._child.status_fd)
        if started is not None:
            started(self._child.outcome())

    def _on_end(self) -> None:
        if self._started is not None:
            self._on_status()
        code = wait_exit(self.pid)
        if code is None:
            return
        self.exit_code = code
        self._loop.remove_reader(self._child.pidfd)
        self._child.close()
        self._ended(code)


def spawn_inside(program: Program, pidfd: int, own_pid_ns: int, runner: str) -> Child:
    """Start a child in the pid namespace of the process behind `pidfd`.

    Raises:
        ProcessLookupError: That process has ended.
    """
    setns(pidfd, CLONE_NEWPID)
    try:
        return spawn(program, runner=runner)
    finally:
        setns(own_pid_ns, CLONE_NEWPID)


class Streams:
    """Both ends of a program's standard streams; what is still owned is closed by `close`.

    Attributes:
        inner: What the program gets as 0, 1, 2.
        outer: The other ends: of stdin (or -1), stdout, stderr (-1 for a terminal).
    """

    def __init__(self, inner: tuple[int, int, int], outer: tuple[int, int, int]) -> None:
        self.inner: tuple[int, int, int] = inner
        self.outer: tuple[int, int, int] = outer

    @classmethod
    def pipes(cls, null_fd: int, owner: tuple[int, int], *, stdin: bool) -> Streams:
        """Pipes which the user `owner` may open again by ``/dev/stderr`` and the like.

        Args:
            null_fd: ``/dev/null``, for a stdin that is not wanted.
            owner: uid and gid.
            stdin: Whether the program gets a pipe to read from.
        """
        opened: list[int] = []
        try:
            for _ in range(3 if stdin else 2):
                opened.extend(os.pipe2(os.O_CLOEXEC))
            ends = opened[:4]
            if owner != (0, 0):
                for fd in opened:
                    os.fchown(fd, *owner)
            inside, outside = (opened[4], opened[5]) if stdin else (os.dup(null_fd), -1)
        except BaseException:
            for fd in opened:
                os.close(fd)
            raise
        return cls((inside, ends[1], ends[3]), (outside, ends[0], ends[2]))

    @classmethod
    def terminal(cls, ptmx: int, owner: tuple[int, int]) -> Streams:
        """A terminal of which `ptmx` is the outer end; takes it over."""
        fcntl.ioctl(ptmx, _TIOCSPTLCK, struct.pack("=i", 0))
        slave = fcntl.ioctl(ptmx, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        if owner != (0, 0):
            os.fchown(slave, owner[0], -1)
        return cls((slave, os.dup(slave), os.dup(slave)), (-1, ptmx, -1))

    def parameters(self) -> dict[str, int]:
        """For `Program.bind`."""
        return dict(zip(("stdin", "stdout", "stderr"), self.inner, strict=True))

    def close_inner(self) -> None:
        """After the start: the program has its own."""
        for fd in self.inner:
            _close(fd)
        self.inner = (-1, -1, -1)

    def close_outer(self) -> None:
        """After they were handed over, or when nobody wants them."""
        for fd in self.outer:
            _close(fd)
        self.outer = (-1, -1, -1)

    def close(self) -> None:
        """Close what is left."""
        self.close_inner()
        self.close_outer()


def _close(fd: int) -> None:
    if fd >= 0:
        with contextlib.suppress(OSError):
            os.close(fd)


def new_devpts(options: str) -> tuple[int, int]:
    """A fresh devpts and its ptmx, for a container whose first program has a terminal."""
    wanted = [option.partition("=") for option in options.split(",") if option]
    fd = mount.new_mount(
        "devpts",
        [(name, value or None) for name, _, value in wanted],
        mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NOEXEC,
    )
    try:
        return fd, os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=fd)
    except BaseException:
        os.close(fd)
        raise


def open_ptmx(root_fd: int) -> int:
    """A new terminal of a running container.

    Raises:
        FaultError: Its ``/dev/pts/ptmx`` is not what it should be (CVE-2025-52565).
    """
    fd = open_in_root(root_fd, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    if os.fstat(fd).st_rdev != _PTMX:
        os.close(fd)
        raise FaultError("ExecError", "the container's /dev/pts/ptmx is not a terminal device")
    return fd
