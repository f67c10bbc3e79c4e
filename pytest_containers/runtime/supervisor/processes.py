"""Children of the supervisor: their streams, their start, and how they ended."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Mapping
from typing import Any

from pytest_containers.linux import mount
from pytest_containers.linux.files import open_in_root
from pytest_containers.linux.numbers import NR
from pytest_containers.linux.process import (
    CLONE_NEWPID,
    number_in_proc,
    pidfd_kill,
    read_proc,
    setns,
    wait_exit,
)
from pytest_containers.linux.program import Failure, Program
from pytest_containers.linux.spawn import Child, spawn
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.tasks import Future

_TIOCGPTPEER, _TIOCSPTLCK, _TIOCSWINSZ = 0x5441, 0x40045431, 0x5414
_PF_EXITING = 0x4  # proc(5): flags in /proc/PID/stat
_PTMX = os.makedev(5, 2)


class Process:
    """A child and its end.

    It is *starting*, then it *runs* (`started` is done, with None) or has *failed* (with the
    failure), and then it has *ended* (`ended` is done): the loop moves it on, by the descriptors
    of the child.

    Args:
        loop: Runs it.
        child: As `spawn` made it; owned from now on.
        watch_start: False leaves `started` to the end, and saves the loop a wake-up.

    Attributes:
        started: Done with None when the program runs, or with the failure.
        ended: Done with the exit code as a shell reports it, after `started`.
        exit_code: None until it has ended.
    """

    def __init__(self, loop: Loop, child: Child, *, watch_start: bool = True) -> None:
        self._loop = loop
        self._child = child
        self.pid: int = child.pid
        self.started: Future[Failure | None] = Future()
        self.ended: Future[int] = Future()
        self.exit_code: int | None = None
        if watch_start:
            loop.add_reader(child.status_fd, self._on_status)
        loop.add_reader(child.pidfd, self._on_end)

    @property
    def pidfd(self) -> int:
        """To signal it and to enter its namespaces; -1 once it has ended."""
        return self._child.pidfd

    @property
    def has_executed(self) -> bool:
        """True from its execve on, or once it has failed before."""
        return self.started.done or self._child.is_through

    def kill(self, signum: int) -> bool:
        """Send a signal; False when it has ended."""
        return self.exit_code is None and pidfd_kill(self._child.pidfd, signum)

    def open_root(self) -> int:
        """Open its root directory, with all that is mounted there.

        Raises:
            OSError: It has ended.
        """
        return os.open(f"{self.folder}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    @property
    def folder(self) -> str:
        """Its directory in ``/proc``, where it has another number if that is not the run's own.

        Raises:
            OSError: It has ended.
        """
        return f"/proc/{number_in_proc(self.pidfd)}"

    def _on_status(self, *, ended: bool = False) -> None:
        self._loop.remove_reader(self._child.status_fd)
        self.started.set(self._child.outcome(ended=ended))

    def _on_end(self) -> None:
        if not self.started.done:
            self._on_status(ended=True)
        code = wait_exit(self.pid)
        if code is None:
            return
        self.exit_code = code
        self._loop.remove_reader(self._child.pidfd)
        self._child.close()
        self.ended.set(code)


def spawn_inside(
    program: Program, pidfd: int, own_pid_ns: int, runner: str, cgroup_fd: int | None = None
) -> Child:
    """Start a child in the pid namespace of the process behind `pidfd`, and in a cgroup.

    Raises:
        ProcessLookupError: That process has ended.
    """
    setns(pidfd, CLONE_NEWPID)
    try:
        return spawn(program, runner=runner, cgroup_fd=cgroup_fd)
    except OSError as error:
        # The kernel says ENOMEM where a namespace is losing its PID 1 (alloc_pid), which is before
        # the end of that process can be seen by its pidfd.
        if error.errno == errno.ENOMEM and _is_exiting(pidfd):
            raise ProcessLookupError(errno.ESRCH, "the container's PID 1 has ended") from None
        raise
    finally:
        setns(own_pid_ns, CLONE_NEWPID)


def signal_all(loop: Loop, init: Process, signum: int, own_pid_ns: int, runner: str) -> None:
    """Send a signal to all processes in the pid namespace of `init`, but to that itself.

    Raises:
        ProcessLookupError: It has ended.
    """
    program = Program()
    program.add("signal all", NR["kill"], -1, signum, ignore=True)
    program.add("end", NR["exit_group"], 0)
    child = spawn_inside(program, init.pidfd, own_pid_ns, runner)
    Process(loop, child)
    child.outcome()


def _is_exiting(pidfd: int) -> bool:
    """True if a process has ended or is about to."""
    try:
        stat = read_proc(f"/proc/{number_in_proc(pidfd)}/stat")
        flags = int(stat.rpartition(")")[2].split()[6])
    except OSError:  # it was reaped
        return True
    return bool(flags & _PF_EXITING)


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
        """Make a terminal of which `ptmx` is the outer end; takes it over."""
        fcntl.ioctl(ptmx, _TIOCSPTLCK, struct.pack("=i", 0))
        slave = fcntl.ioctl(ptmx, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        if owner != (0, 0):
            os.fchown(slave, owner[0], -1)
        return cls((slave, os.dup(slave), os.dup(slave)), (-1, ptmx, -1))

    def parameters(self) -> dict[str, int]:
        """Return the inner ends as parameters of `Program.bind`."""
        return dict(zip(("stdin", "stdout", "stderr"), self.inner, strict=True))

    def close_inner(self) -> None:
        """Close the inner ends, after the start: the program has its own."""
        for fd in self.inner:
            _close(fd)
        self.inner = (-1, -1, -1)

    def close_outer(self) -> None:
        """Close the outer ends, if they were not handed over."""
        for fd in self.outer:
            _close(fd)
        self.outer = (-1, -1, -1)

    def close(self) -> None:
        """Close what is left."""
        self.close_inner()
        self.close_outer()

    def hand_over_outer(self) -> tuple[int, int, int]:
        """Return the outer ends; they are the caller's now."""
        outer, self.outer = self.outer, (-1, -1, -1)
        return outer

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _close(fd: int) -> None:
    if fd >= 0:
        with contextlib.suppress(OSError):
            os.close(fd)


def new_terminal(
    options: str, process: Mapping[str, Any], owner: tuple[int, int]
) -> tuple[int, Streams]:
    """Make a devpts, and in it the terminal of a container's first program.

    Args:
        options: The mount options of the devpts.
        process: The process object of the program.
        owner: Its uid and gid.

    Returns:
        The devpts, still to be mounted, and the streams of the program.
    """
    devpts, ptmx = _new_devpts(options)
    try:
        _set_window_size(ptmx, process)
        return devpts, Streams.terminal(ptmx, owner)
    except BaseException:
        os.close(devpts)
        raise


def _set_window_size(ptmx: int, process: Mapping[str, Any]) -> None:
    """Give a terminal the ``consoleSize`` of its process object."""
    size = process.get("consoleSize") or {}
    if size:
        packed = struct.pack("=4H", size.get("height", 0), size.get("width", 0), 0, 0)
        fcntl.ioctl(ptmx, _TIOCSWINSZ, packed)


def _new_devpts(options: str) -> tuple[int, int]:
    """Make a devpts and its ptmx."""
    pairs = [option.partition("=") for option in options.split(",") if option]
    fd = mount.new_mount(
        "devpts",
        [(name, value or None) for name, _, value in pairs],
        mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NOEXEC,
    )
    try:
        return fd, os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=fd)
    except BaseException:
        os.close(fd)
        raise


def open_ptmx(root_fd: int) -> int:
    """Open a new terminal of a running container.

    Raises:
        FaultError: Its ``/dev/pts/ptmx`` is not what it should be (CVE-2025-52565).
    """
    place = open_in_root(root_fd, "/dev/pts/ptmx", os.O_PATH)
    try:
        # Before it is opened, which takes 45 seconds where a file has a lease (fcntl(2)).
        if os.fstat(place).st_rdev != _PTMX:
            raise FaultError("ExecError", "the container's /dev/pts/ptmx is not a terminal device")
        return os.open(f"/proc/self/fd/{place}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(place)
