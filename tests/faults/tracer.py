"""Run something with all processes below it, and let one system call of one of them go wrong.

A tracer in the manner of strace(1), which counts calls of each process and can fail them or kill
the process that makes them (``--inject``), but cannot tell processes apart. Here a process, and a
thread, is named by its descent: ``0.1.2`` is the second child of the first child of ``0``. So a
point that one pass has recorded is met in another, as far as the program does the same again.

x86_64 only (`SUPPORTED`), Linux 5.3 (PTRACE_GET_SYSCALL_INFO), and by root: it goes on to trace
what changes its credentials.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

SUPPORTED = platform.machine() == "x86_64" and os.geteuid() == 0
_CONT, _SYSCALL, _POKEUSER = 7, 24, 6
_SEIZE, _INTERRUPT, _LISTEN, _GETEVENTMSG, _SYSCALL_INFO = 0x4206, 0x4207, 0x4208, 0x4201, 0x420E
_FORK, _VFORK, _CLONE, _STOP = 1, 2, 3, 128
_OPTIONS = 1 | 1 << _FORK | 1 << _VFORK | 1 << _CLONE | 1 << 20  # TRACESYSGOOD, EXITKILL
_ORIG_RAX, _RAX = 15 * 8, 10 * 8
_ENTRY, _EXIT = 1, 2
_GROUP_STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_WALL = 0x40000000
_GETPPID = 110
"""What the main process calls when it begins."""

_libc = ctypes.CDLL(None, use_errno=True)
_ptrace = _libc.ptrace
_ptrace.argtypes = [ctypes.c_long] * 2 + [ctypes.c_void_p] * 2
_ptrace.restype = ctypes.c_long


class Point(NamedTuple):
    """A system call: the `nth` of its kind (from 1) that a process makes."""

    process: str
    number: int
    nth: int


class Fault(NamedTuple):
    """What is to happen at a point.

    Attributes:
        point: The point.
        errno: The call fails with it, without being made; 0: SIGKILL for its process.
        signum: What the process gets instead of SIGKILL.
    """

    point: Point
    errno: int = 0
    signum: int = signal.SIGKILL


@dataclass(slots=True)
class _Tracee:
    path: str
    children: int = 0
    calls: Counter[int] = field(default_factory=Counter)
    failing: int = 0


@dataclass(slots=True)
class Pass:
    """What came of a pass.

    Attributes:
        points: All calls of all processes, in order, if they were recorded; with the name that the
            process had then.
        met: The point of the fault was reached.
        victim: The name of the process that it struck.
        in_main: It struck the main process, in any thread.
        status: Exit status of the main process, as of waitpid(2); None if it had to be killed.
        seconds: From start to the end of the main process.
        lingered: From the end of the main process to that of the last one below it.
        hung: Names of the processes that were there when the time was up.
    """

    points: list[tuple[Point, str]] = field(default_factory=list)
    met: bool = False
    victim: str = ""
    in_main: bool = False
    status: int | None = None
    seconds: float = 0.0
    lingered: float = 0.0
    hung: list[str] = field(default_factory=list)


class _TimeUp(Exception):
    pass


class Tracer:
    """One pass.

    Args:
        fault: What is to happen; None records all points.
        limit_s: How long the main process may take; it and all below it are killed then.
        linger_s: How long the others may take after its end.
    """

    def __init__(
        self, fault: Fault | None = None, *, limit_s: float = 30.0, linger_s: float = 5.0
    ) -> None:
        self._fault = fault
        self._limit_s = limit_s
        self._linger_s = linger_s
        self._tracees: dict[int, _Tracee] = {}
        self._early: set[int] = set()
        self._main = 0
        self._begun = fault is not None and fault.point.process != "0"
        self._info = ctypes.create_string_buffer(88)
        self.result: Pass = Pass()

    def run(self, work: Callable[[], None]) -> Pass:
        """Run `work` in a child, and return once nothing of it is left."""
        go, begin = os.pipe()
        main = os.fork()
        if main == 0:
            try:
                os.close(begin)
                os.read(go, 1)
                os.close(go)
                os.getppid()
                work()
            finally:
                os._exit(1)
        os.close(go)
        self._main = main
        self._tracees[main] = _Tracee("0")
        _call(_SEIZE, main, 0, _OPTIONS)
        _call(_INTERRUPT, main, 0, 0)
        os.close(begin)
        start = time.monotonic()
        ended = None
        try:
            with _alarm(self._limit_s):
                while ended is None:
                    pid, status = os.waitpid(-1, _WALL)
                    self._handle(pid, status)
                    if pid == main and not os.WIFSTOPPED(status):
                        self.result.status = status
                        ended = time.monotonic()
            self.result.seconds = ended - start
            with _alarm(self._linger_s):
                while self._tracees:
                    self._handle(*os.waitpid(-1, _WALL))
        except _TimeUp:
            self.result.hung = [
                f"{pid} {tracee.path} {_name(pid)} {_where(pid)}"
                for pid, tracee in self._tracees.items()
            ]
        finally:
            self._end_all()
        self.result.lingered = time.monotonic() - (ended or start)
        return self.result

    def _end_all(self) -> None:
        for pid in (*self._tracees, *self._early):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while self._tracees:
            pid, status = os.waitpid(-1, _WALL)
            if os.WIFSTOPPED(status):  # on its way out, or a process that was just made
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    _call(_CONT, pid, 0, 0)
            else:
                self._tracees.pop(pid, None)

    def _handle(self, pid: int, status: int) -> None:
        if not os.WIFSTOPPED(status):
            self._tracees.pop(pid, None)
            self._early.discard(pid)
            return
        tracee = self._tracees.get(pid)
        if tracee is None:  # its parent's event has not been read yet
            self._early.add(pid)
            return
        with contextlib.suppress(ProcessLookupError):  # killed meanwhile
            self._stopped(pid, tracee, os.WSTOPSIG(status), status >> 16)

    def _stopped(self, pid: int, tracee: _Tracee, signum: int, event: int) -> None:
        if event in (_FORK, _VFORK, _CLONE):
            message = ctypes.c_ulong()
            _call(_GETEVENTMSG, pid, 0, ctypes.addressof(message))
            tracee.children += 1
            child = message.value
            self._tracees[child] = _Tracee(f"{tracee.path}.{tracee.children}")
            if child in self._early:
                self._early.discard(child)
                with contextlib.suppress(ProcessLookupError):
                    self._resume(child, self._tracees[child])
            self._resume(pid, tracee)
        elif event == _STOP:
            if signum in _GROUP_STOPS:
                _call(_LISTEN, pid, 0, 0)
            else:
                self._resume(pid, tracee)
        elif event:
            self._resume(pid, tracee)
        elif signum == signal.SIGTRAP | 0x80:
            self._at_call(pid, tracee)
        else:
            self._resume(pid, tracee, signum)

    def _resume(self, pid: int, tracee: _Tracee, signum: int = 0) -> None:
        watched = self._fault is None or (
            tracee.path == self._fault.point.process and (not self.result.met or tracee.failing)
        )
        _call(_SYSCALL if watched else _CONT, pid, 0, signum)

    def _at_call(self, pid: int, tracee: _Tracee) -> None:
        _call(_SYSCALL_INFO, pid, len(self._info), ctypes.addressof(self._info))
        op = self._info.raw[0]
        if op == _ENTRY:
            (number,) = struct.unpack_from("=Q", self._info, 24)
            if not self._begun:  # what the child does until it works is ours
                self._begun = number == _GETPPID
                self._resume(pid, tracee)
                return
            tracee.calls[number] += 1
            point = Point(tracee.path, number, tracee.calls[number])
            if self._fault is None:
                self.result.points.append((point, _name(pid)))
            elif point == self._fault.point and not self.result.met:
                self.result.met = True
                self.result.victim = _name(pid)
                self.result.in_main = os.path.exists(f"/proc/{self._main}/task/{pid}")
                if self._fault.errno:
                    tracee.failing = self._fault.errno
                    _call(_POKEUSER, pid, _ORIG_RAX, -1)
                else:
                    os.kill(pid, self._fault.signum)
        elif op == _EXIT and tracee.failing:
            _call(_POKEUSER, pid, _RAX, -tracee.failing)
            tracee.failing = 0
        self._resume(pid, tracee)


def _call(request: int, pid: int, address: int, data: int) -> None:
    if _ptrace(request, pid, address, data) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"ptrace {request:#x}: {os.strerror(code)}")


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def up(signum: int, frame: object) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return "?"


def _where(pid: int) -> str:
    """What a process waits for: number and arguments of its system call."""
    try:
        with open(f"/proc/{pid}/syscall") as file:
            return " ".join(file.read().split()[:3])
    except OSError:
        return "?"
