"""Start a child that runs a `Program`."""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
import select
import struct
from collections.abc import Sequence

from pytest_containers.linux import stubs
from pytest_containers.linux.duplicates import duplicate_above
from pytest_containers.linux.numbers import NR
from pytest_containers.linux.program import (
    BLOCK_AT,
    HEADER_SIZE,
    NOT_RUN,
    RECEIVERS_AT,
    RESULT_AT,
    STEP_SIZE,
    Failure,
    Program,
)

CLONE_VM, CLONE_PIDFD, CLONE_VFORK = 0x100, 0x1000, 0x4000
CLONE_CLEAR_SIGHAND, CLONE_INTO_CGROUP = 0x100000000, 0x200000000
SIGCHLD = 17
_SIG_SETMASK = 2
_WALL = 0x40000000

_PIDFD_AT, _OLD_MASK_AT, _FULL_MASK_AT, _CLONE_ARGS_AT = 8, 16, 24, 32
_CLONE_ARGS_SIZE = 88
_STATUS_FD_LEAST = 100

_word = struct.Struct("=q")
_words = struct.Struct("=7q")
_header = struct.Struct("=3q11Q")
_EXECS = (NR.get("execve"), NR.get("execveat"))
_ENDS = (*_EXECS, NR.get("exit_group"), NR.get("exit"))
_NOT_FOUND = (2, 20)  # ENOENT, ENOTDIR

# PyDLL: the interpreter lock is not let go of in a call, so a child has it.
_syscall = ctypes.PyDLL(None, use_errno=True).syscall
_syscall.argtypes = [ctypes.c_long] + [ctypes.c_void_p] * 6
_syscall.restype = ctypes.c_long

Block = bytearray | mmap.mmap

_abandoned: list[tuple[int, Block, Program]] = []
"""The memory of abandoned children, which may still be walking it."""

_stub: stubs.Entry | None = None
_stub_memory: mmap.mmap | None = None
_stub_works: bool | None = None


class Child:
    """A process that `spawn` started. Owns its descriptors and the memory that it walks.

    Dropping or closing it early is safe: the memory stays until the child is through. It does
    not end the process and does not reap it.

    Attributes:
        pid: Its number in the parent's pid namespace.
        pidfd: Readable once it has ended.
        status_fd: Readable (end of file) once `outcome` will not block.
    """

    __slots__ = ("_block", "_block_at", "_finished", "_program", "pid", "pidfd", "status_fd")

    def __init__(
        self, pid: int, pidfd: int, status_fd: int, block: Block, program: Program
    ) -> None:
        self.pid: int = pid
        self.pidfd: int = pidfd
        self.status_fd: int = status_fd
        self._block = block
        self._block_at = _address(block)
        self._program = program
        self._finished = False

    def outcome(self, *, ended: bool = False) -> Failure | None:
        """Return None if the program got to its execve (or to an exit of its own), else why not.

        Waits for that if `status_fd` is not readable yet. A child that the kernel kills within
        execve counts as one that got there; its exit status tells.

        Args:
            ended: The child has ended. Then there is nothing to wait for: others may have opened
                the status descriptor of the second program (proc_pid_fd(5)) and keep it.
        """
        if not self._finished:
            # Of the second program, which others may control: one read never waits for them.
            readable = not ended or _at_eof(self.status_fd)
            report = os.read(self.status_fd, 1 << 16) if readable else b""
            self._finished = True
            if report and not self._take_report(report):
                return Failure(0, "the second program", 0)
        (address,) = _word.unpack_from(self._block, 0)
        offset = address - self._block_at - HEADER_SIZE
        step = offset // STEP_SIZE if address else 0
        labels = self._program.labels
        if step == len(labels):  # off the end: the last step was one whose errors are ignored
            step -= 1
        result = self.result(step)
        if result is None:
            return None if self._number(step) in _ENDS else Failure(step, labels[step], 0)
        if self._number(step) in _EXECS:
            step = self._telling_attempt(step)
            result = self.result(step)
        return Failure(step, labels[step], -(result or 0))

    @property
    def is_through(self) -> bool:
        """True if `outcome` will not block."""
        return self._finished or _at_eof(self.status_fd)

    def result(self, step: int) -> int | None:
        """The result of step number `step`: a value, or a negative errno; None if not run."""
        (result,) = _word.unpack_from(self._block, HEADER_SIZE + step * STEP_SIZE + RESULT_AT)
        return None if result == NOT_RUN else int(result)

    def close(self) -> None:
        """Close the descriptors. Safe to call twice."""
        if self.pidfd < 0:
            return
        pidfd, self.pidfd = self.pidfd, -1
        status_fd, self.status_fd = self.status_fd, -1
        os.close(pidfd)
        if self._finished or _at_eof(status_fd):
            os.close(status_fd)
        else:
            _abandoned.append((status_fd, self._block, self._program))

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _take_report(self, block: bytes) -> bool:
        """Look at the program that the first one has executed, which has failed.

        Returns:
            False for what is no such report.
        """
        successor = self._program.successor
        if successor is None or len(block) != HEADER_SIZE + STEP_SIZE * (len(successor) + 1):
            return False
        (address,) = _word.unpack_from(block, 0)
        step, rest = divmod(address - BLOCK_AT - HEADER_SIZE, STEP_SIZE)
        if rest or not 0 <= step <= len(successor):
            return False
        self._program, self._block, self._block_at = successor, bytearray(block), BLOCK_AT
        return True

    def _number(self, step: int) -> int:
        (number,) = _word.unpack_from(self._block, HEADER_SIZE + step * STEP_SIZE)
        return int(number)

    def _telling_attempt(self, last: int) -> int:
        """The first of a row of failed execve steps that found a file; else the last."""
        first = last
        while first and self._number(first - 1) in _EXECS:
            first -= 1
        for step in range(first, last + 1):
            if -(self.result(step) or 0) not in _NOT_FOUND:
                return step
        return last


def spawn(
    program: Program,
    *,
    flags: int = 0,
    runner: str = "auto",
    vfork: bool = False,
    set_tid: Sequence[int] = (),
    cgroup_fd: int | None = None,
    exit_signal: int = SIGCHLD,
) -> Child:
    """Start a child that runs `program`; does not wait for it.

    The child starts with all signals blocked and all handlers gone (see
    `Program.reset_signals`), and with a copy of the descriptor table, in which one close-on-exec
    descriptor tells the parent of the execve: number 100 or higher, or the parameter `STATUS_FD`.
    A program that closes descriptors must keep that one.

    Both runners behave alike but for this: with the stub the child shares the parent's memory
    until its execve. So a change of credentials in it makes the *parent* not dumpable too
    (prctl(2), PR_SET_DUMPABLE).

    Args:
        program: Ends in execve or exit_group.
        flags: Namespaces (CLONE_NEW…), of clone3(2).
        runner: ``"stub"``, ``"python"``, or ``"auto"``: the stub where it works.
        vfork: Return only when the child has exec'ed or died.
        set_tid: Wanted pids, innermost namespace first.
        cgroup_fd: Start in this cgroup (v2, Linux 5.7).
        exit_signal: What the parent gets when the child ends; 0: nothing, and wait with __WALL.

    Raises:
        OSError: clone3 failed (EPERM, ENOSYS, ENOSPC, EUSERS, EAGAIN, ENOMEM …), or a
            descriptor could not be made. Nothing is left behind.
        ValueError: The program is empty or has unbound parameters.

    Thread safety: with the Python runner no other thread may run, as for fork(2).
    """
    if not program.labels:
        raise ValueError("a program without steps")
    if _abandoned:
        _sweep()
    entry = _entry(runner)
    status_fds = _status_pipe()
    try:
        return _spawn(
            program,
            entry,
            status_fds,
            flags,
            vfork=vfork,
            set_tid=set_tid,
            cgroup_fd=cgroup_fd,
            exit_signal=exit_signal,
        )
    except BaseException:
        os.close(status_fds[0])
        raise
    finally:
        os.close(status_fds[1])


def _spawn(
    program: Program,
    entry: stubs.Entry | None,
    status_fds: tuple[int, int],
    flags: int,
    *,
    vfork: bool,
    set_tid: Sequence[int],
    cgroup_fd: int | None,
    exit_signal: int,
) -> Child:
    image = program.image(status_fds[1])
    block: Block = image
    if entry is None:
        # Shared, so that the parent sees the results.
        block = mmap.mmap(-1, len(image))
        block[:] = image
    address = _address(block)
    tids = struct.pack(f"={len(set_tid)}i", *set_tid)
    tids_memory = (ctypes.c_char * len(tids)).from_buffer_copy(tids)
    flags |= CLONE_PIDFD | CLONE_CLEAR_SIGHAND
    flags |= CLONE_VM if entry is not None else 0
    flags |= CLONE_VFORK if vfork else 0
    flags |= CLONE_INTO_CGROUP if cgroup_fd is not None else 0
    _header.pack_into(
        block,
        _PIDFD_AT,
        -1,
        0,
        -1,
        flags,
        address + _PIDFD_AT,
        0,
        0,
        exit_signal,
        0,
        0,
        0,
        ctypes.addressof(tids_memory) if set_tid else 0,
        len(set_tid),
        cgroup_fd or 0,
    )
    # Blocked before anything is made: a handler that raises then finds all of it in the Child.
    _syscall(
        NR["rt_sigprocmask"], _SIG_SETMASK, address + _FULL_MASK_AT, address + _OLD_MASK_AT, 8, 0, 0
    )
    try:
        return _clone(program, entry, block, address, status_fds[0])
    finally:
        _syscall(NR["rt_sigprocmask"], _SIG_SETMASK, address + _OLD_MASK_AT, 0, 8, 0, 0)


def stub_available() -> bool:
    """True if machine code can be run here: tried once, with a child that makes a few calls."""
    global _stub, _stub_memory, _stub_works
    if _stub_works is None:
        try:
            _stub, _stub_memory = stubs.load()
            _stub_works = _probe()
        except OSError:
            _stub_works = False
    return _stub_works


def _probe() -> bool:
    program = Program()
    program.add("close", NR["close"], -1, ignore=True)
    program.add("exit", NR["exit_group"], 41)
    global _stub_works
    _stub_works = True
    # No SIGCHLD and __WALL: the parent's handler for children would not know this one.
    with spawn(program, runner="stub", exit_signal=0) as child:
        failure = child.outcome()
        status = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | _WALL)
    return failure is None and status is not None and status.si_status == 41


def _entry(runner: str) -> stubs.Entry | None:
    """The stub, or None for the Python loop."""
    if runner == "python" or (runner == "auto" and not stub_available()):
        return None
    if runner not in ("auto", "stub"):
        raise ValueError(f"no runner {runner!r}: use auto, python or stub")
    if not stub_available():
        raise OSError(errno.ENOSYS, "machine code cannot be run here")
    return _stub


def _status_pipe() -> tuple[int, int]:
    status_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    if write_fd < _STATUS_FD_LEAST:
        # Out of the way of the numbers that a program gives to the new process's descriptors.
        low_fd = write_fd
        try:
            write_fd = duplicate_above(low_fd, _STATUS_FD_LEAST)
        except BaseException:
            os.close(status_fd)
            raise
        finally:
            os.close(low_fd)
    return status_fd, write_fd


def _clone(
    program: Program, entry: stubs.Entry | None, block: Block, address: int, status_fd: int
) -> Child:
    """Make the child."""
    clone_args = address + _CLONE_ARGS_AT
    if entry is not None:
        pid = entry(clone_args, _CLONE_ARGS_SIZE, address)
    else:
        pid = _syscall(NR["clone3"], clone_args, _CLONE_ARGS_SIZE, 0, 0, 0, 0)
        if pid == 0:
            _run(block)
        if pid < 0:
            pid = -ctypes.get_errno()
    if pid < 0:
        (flags,) = _word.unpack_from(block, _CLONE_ARGS_AT)
        raise OSError(-pid, f"clone3 with flags {flags:#x}: {os.strerror(-pid)}")
    (pidfd,) = struct.unpack_from("=i", block, _PIDFD_AT)
    return Child(pid, pidfd, status_fd, block, program)


def _run(block: Block) -> None:
    """The Python runner, in the child; never returns."""
    try:
        gc.disable()  # a collection would close the parent's objects in here
        _walk(block)
    finally:
        os._exit(127)


def _walk(block: Block) -> None:
    """The stubs' work in Python, step for step."""
    address = _address(block)
    offset = HEADER_SIZE
    while True:
        _word.pack_into(block, 0, address + offset)
        result = _syscall(*_words.unpack_from(block, offset))
        if result == -1:
            result = -ctypes.get_errno()
        _word.pack_into(block, offset + RESULT_AT, result)
        (receiver,) = _word.unpack_from(block, offset + RECEIVERS_AT)
        while receiver:
            (following,) = _word.unpack_from(block, receiver)
            _word.pack_into(block, receiver, result)
            receiver = following
        offset += STEP_SIZE
        if -4096 < result < 0:
            bit = -result if -result < 128 else 0
            if not block[offset - 16 + bit // 8] >> bit % 8 & 1:
                return


def _address(block: Block) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(block))


def _at_eof(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _sweep() -> None:
    """Let go of what abandoned children do not need any more."""
    for entry in _abandoned.copy():
        if _at_eof(entry[0]):
            _abandoned.remove(entry)
            os.close(entry[0])
