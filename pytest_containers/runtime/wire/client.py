"""The test process's end of the connection to the supervisor."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from pytest_containers.model import errors
from pytest_containers.model.errors import (
    ContainersError,
    RunLostError,
    WaitTimeoutError,
    hide_frames,
)
from pytest_containers.runtime.wire.channel import Channel, ChannelClosed, Frame
from pytest_containers.runtime.wire.faults import Fault
from pytest_containers.runtime.wire.message import (
    TOLD,
    Message,
    Operation,
    pack_request,
    unpack_answer,
)
from pytest_containers.runtime.wire.operations.run import RunFacts, StartRun

__tracebackhide__ = hide_frames

_ERRORS_BYTES = 1 << 14
_PATIENCE_S = 5.0
"""How long without an answer until the processes of the run are looked at."""
_FATAL = "Fatal Python error: "
_FAILED = " has failed: "
_UNMAPPED = "failed to map segment from shared object"
_A = TypeVar("_A")
_M = TypeVar("_M", bound=Message)


class Request(Generic[_A]):
    """A request on its way; its answers come in order."""

    __slots__ = ("answers", "id", "kind")

    def __init__(self, number: int, kind: type[Operation[_A]]) -> None:
        self.id: int = number
        self.kind: type[Operation[_A]] = kind
        self.answers: deque[Frame] = deque()


class Client:
    """A connection to the run, shared by all threads of this process.

    It has no thread of its own: one of the waiting threads reads for all. A process that was forked
    from this one cannot use it; an error says so.

    Args:
        channel: Connected.
        errors_fd: What the run's processes wrote to their standard error, for the last words.

    Attributes:
        errors_fd: The same; -1 for none.
        trace_fds: A file for the processes' lines (`trace`), or nothing.
    """

    trace_fds: Sequence[int] = ()

    def __init__(self, channel: Channel, errors_fd: int = -1) -> None:
        self._channel = channel
        seconds = int(_PATIENCE_S)
        patience = struct.pack("@ll", seconds, int((_PATIENCE_S - seconds) * 1_000_000))
        channel.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        self.errors_fd: int = errors_fd
        self._pid = os.getpid()
        self._requests: dict[int, Request[Any]] = {0: Request(0, StartRun)}
        self._next_id = 1
        self._condition = threading.Condition()
        self._send_lock = threading.Lock()
        self._reading = False
        self._lost = False
        self._deaf: OSError | None = None
        self._facts: RunFacts | None = None
        self._refused: ContainersError | None = None
        self._greeting = threading.Lock()

    @property
    def facts(self) -> RunFacts:
        """The facts of the run; waits until it is ready.

        Raises:
            UnsupportedError: This machine does not permit it; with the reason and the fix.
        """
        if self._facts is None:
            # The answer comes once, however many threads wait for it.
            with self._greeting:
                if self._facts is None:
                    self._facts = self._greeted()
        return self._facts

    @property
    def known_facts(self) -> RunFacts | None:
        """The facts of the run if they have been waited for, else None."""
        return self._facts

    def _greeted(self) -> RunFacts:
        if self._refused is not None:
            raise self._refused
        with self._condition:
            request = self._requests.get(0)
        if request is None:
            raise self.run_lost()
        try:
            facts: RunFacts = self.receive(request)
        except ContainersError as error:
            self._refused = error
            raise
        return facts

    @property
    def lost(self) -> bool:
        """True if the run is known to be gone."""
        return self._lost

    def is_lost(self) -> bool:
        """Look whether the run is gone; a run that is not ready yet is not."""
        if not self._lost and self._facts is not None and self._pid == os.getpid():
            poll = select.poll()
            poll.register(self._channel.sock, 0)
            if poll.poll(0):  # it hung up
                self._lose()
        return self._lost

    def call(self, operation: Operation[_A], *, within_s: float | None = None) -> _A:
        """Ask and wait for the answer, whose descriptors are the caller's.

        Raises:
            ContainersError: The request was refused.
            WaitTimeoutError: No answer `within_s` seconds; the request was given up. Or none for
                long, and a process of the run is stopped (SIGSTOP).
        """
        return self.receive(self.start(operation), within_s=within_s)

    def start(self, operation: Operation[_A]) -> Request[_A]:
        """Send a request; `receive` waits for its answer. The caller keeps its descriptors."""
        self._check_process()
        if self._facts is None:
            _ = self.facts
        with self._condition:
            request = Request(self._next_id, type(operation))
            self._next_id += 1
            self._requests[request.id] = request
        try:
            self._send(operation, request.id)
        except ChannelClosed:
            self._lose()
            raise self.run_lost() from None
        return request

    def _send(self, operation: Operation[Any], number: int) -> None:
        body, fds, blob = pack_request(operation, number)
        try:
            with self._send_lock:
                self._channel.send(body, fds, blob)
        except ChannelClosed:
            raise
        except OSError as error:
            raise ContainersError(
                f"{type(operation).__name__}: the request cannot be sent: {error.strerror}",
                errno=error.errno,
            ) from error

    def receive(
        self, request: Request[_A], *, within_s: float | None = None, last: bool = True
    ) -> _A:
        """Wait for the answer to `request`.

        Args:
            within_s: How long; the request is given up when it passes.
            last: False if `receive_last` will be called for a second answer.
        """
        answer: _A = self._receive(request, request.kind.answer, within_s, last=last)
        return answer

    def receive_last(self, request: Request[Any], kind: type[_M]) -> _M:
        """Wait for the second answer to `request`, which is a `kind` (`Operation.last`)."""
        answer: _M = self._receive(request, kind, None, last=True)
        return answer

    def _receive(
        self, request: Request[Any], kind: type, within_s: float | None, *, last: bool
    ) -> Any:
        deadline = None if within_s is None else time.monotonic() + within_s
        try:
            frame = self._wait(request, deadline)
        except BaseException:
            self._abandon(request)
            raise
        if frame is None:
            self._abandon(request)
            raise WaitTimeoutError(f"no answer within {within_s} s", timeout_s=within_s)
        answer = unpack_answer(request.kind.__name__, kind, *frame)
        if last or isinstance(answer, Fault):
            with self._condition:
                self._requests.pop(request.id, None)
        if isinstance(answer, Fault):
            raise self._with_last_words(error_of(answer))
        return answer

    def _with_last_words(self, error: ContainersError) -> ContainersError:
        """Add why a process of the run has ended; the other that tells of it cannot know."""
        if isinstance(error, RunLostError):
            words = last_words(self._errors())
            if _FAILED in words and words not in error.message:
                return RunLostError.from_data(f"{error.message}: {words}", error.data)
        return error

    def _wait(self, request: Request[Any], deadline: float | None) -> Frame | None:
        """Return the next frame for `request`; read for all threads if no other thread does."""
        while True:
            with self._condition:
                while not request.answers and self._reading and not self._lost:
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return None
                    self._condition.wait(left)
                if request.answers:
                    return request.answers.popleft()
                if self._lost:
                    raise self.run_lost()
                self._reading = True
            try:
                if not self._read_one(deadline):
                    return None
            finally:
                with self._condition:
                    self._reading = False
                    self._condition.notify_all()

    def _read_one(self, deadline: float | None) -> bool:
        """Read one frame; return False if the time was up first."""
        try:
            while not self._channel.pending():
                if not self._read_some(deadline):
                    return False
            frame = self._channel.receive()
        except ChannelClosed:
            self._lose()
            return True
        except ContainersError:
            raise
        except OSError as error:  # no memory or descriptors left; a part of an answer is gone
            self._deaf = error
            with contextlib.suppress(OSError):
                self._channel.sock.shutdown(socket.SHUT_RDWR)
            self._lose()
            return True
        with self._condition:
            request = self._requests.get(frame.body.get("id", -1))
            if request is not None:
                request.answers.append(frame)
        if request is None:
            for fd in frame.fds:
                os.close(fd)
        return True

    def _read_some(self, deadline: float | None) -> bool:
        """Read what is there, or comes; return False if the time was up first.

        Raises:
            WaitTimeoutError: A process of the run has been stopped for a while.
        """
        suspects: set[tuple[str, int]] = set()
        if deadline is None:
            # The socket has a time limit of its own (SO_RCVTIMEO): one system call, not three.
            try:
                self._channel.read_available()
            except BlockingIOError:
                suspects = self._halted()
            else:
                return True
        if not self._await_data(deadline, suspects):
            return False
        self._channel.read_available()
        return True

    def _halted(self) -> set[tuple[str, int]]:
        """Return the processes of the run that are stopped."""
        from pytest_containers.runtime.wire.halted import halted

        return set(halted(self.errors_fd)) if self.errors_fd >= 0 else set()

    def _await_data(self, deadline: float | None, suspects: set[tuple[str, int]]) -> bool:
        poll = select.poll()
        poll.register(self._channel.sock, select.POLLIN)
        while True:
            left_s = _PATIENCE_S
            if deadline is not None:
                left_s = min(max(deadline - time.monotonic(), 0), left_s)
            if poll.poll(math.ceil(left_s * 1000)):
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False
            now = self._halted()
            if stopped := suspects & now:
                raise _halted(sorted(stopped))
            suspects = now

    def _abandon(self, request: Request[Any]) -> None:
        with self._condition:
            self._requests.pop(request.id, None)
            frames, request.answers = list(request.answers), deque()
        for frame in frames:
            for fd in frame.fds:
                os.close(fd)
        with contextlib.suppress(ContainersError):
            if not self._lost and request.id:
                from pytest_containers.runtime.wire.operations.session import Cancel

                self.tell(Cancel(request=request.id))

    def tell(self, operation: Operation[Any]) -> None:
        """Send an operation that is not answered; a run that is gone is no error."""
        try:
            self._send(operation, TOLD)
        except ChannelClosed:
            self._lose()

    def _lose(self) -> None:
        with self._condition:
            self._lost = True
            self._condition.notify_all()

    def run_lost(self) -> RunLostError:
        """Return the error for a run that is gone, with its processes' last words."""
        words = last_words(self._errors())
        if not words:
            began = self._facts is not None
            words = "its supervisor was killed" if began else "it ended at its start without a word"
        if self._deaf is not None:
            words = f"its answer cannot be read: {self._deaf.strerror}"
        error = RunLostError(
            f"the run of containers is gone: {words}; all its containers went with it"
        )
        if self._deaf is not None:
            error.errno = self._deaf.errno
        for note in self._last_notes():
            error.add_note(note)
        return error

    def _last_notes(self) -> list[str]:
        """Notes for the error of a run that is gone."""
        errors = self._errors()
        return [f"What its processes wrote to standard error:\n{errors}"] if "\n" in errors else []

    def _errors(self) -> str:
        """The end of what the run's processes have written to standard error."""
        if self.errors_fd < 0:
            return ""
        try:
            size = os.fstat(self.errors_fd).st_size
            words = os.pread(self.errors_fd, _ERRORS_BYTES, max(size - _ERRORS_BYTES, 0))
        except OSError:  # it explains an error, and is none itself
            return ""
        return words.decode(errors="replace").strip()

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise ContainersError(
                "containers belong to the process that started them; this one was forked from it "
                "and cannot use them. Make an Engine here, or ask the parent"
            )

    @property
    def ours(self) -> bool:
        """True if this process made the connection, rather than a parent before a fork."""
        return self._pid == os.getpid()

    def close(self) -> None:
        """End the connection; the run removes what belongs to this process."""
        if self._pid == os.getpid():
            if not self._lost:
                self._report_defects()
            self._lose()
        self._channel.close()
        if self.errors_fd >= 0:
            os.close(self.errors_fd)
            self.errors_fd = -1

    def _report_defects(self) -> None:
        """Log defects of the run, since some were met for no request."""
        errors = self._errors()
        if "a defect of pytest-containers" in errors:
            import logging

            log = logging.getLogger("pytest_containers")
            log.error("the run of containers had a defect; please report it:\n%s", errors)


def last_words(errors: str) -> str:
    """Return the line that tells why a run ended, of what its processes wrote to standard error.

    It is the last one, unless a process said why it failed, or an interpreter could not even start.
    """
    lines = errors.splitlines()
    fatal = next((line for line in lines if line.startswith(_FATAL)), None)
    if fatal is not None:
        causes = [line for line in lines if "Error: " in line and line[:1].isalpha()]
        words = f"an interpreter could not start: {fatal.removeprefix(_FATAL)}"
        return f"{words} ({causes[-1]})" if causes else words
    told = [line for line in lines if _FAILED in line and line.startswith("the ")]
    words = (told or lines or [""])[-1]
    # Of dlopen(3), which drops the errno.
    return f"{words}: {os.strerror(errno.ENOMEM)}" if words.endswith(_UNMAPPED) else words


def _halted(processes: Sequence[tuple[str, int]]) -> WaitTimeoutError:
    names = " and ".join(f"{name} (process {pid})" for name, pid in processes)
    pids = " ".join(str(pid) for _, pid in processes)
    are = "is" if len(processes) == 1 else "are"
    return WaitTimeoutError(
        f"the run of containers does not answer: {names} {are} stopped, by SIGSTOP or a debugger; "
        f"continue with `kill -CONT {pids}`, and run the tests again",
        timeout_s=2 * _PATIENCE_S,
    )


def error_of(fault: Fault) -> ContainersError:
    """The exception for a `Fault` from the wire."""
    kind, message, data, notes = fault
    cls = getattr(errors, kind, ContainersError)
    if not (isinstance(cls, type) and issubclass(cls, ContainersError)):
        cls = ContainersError
    if "refused" in data and "what" in data:  # as `faults.refused` makes it
        from pytest_containers.runtime import refusals

        message = refusals.explain(data["refused"], data["errno"], data["what"])
    error = cls.from_data(message, data)
    for note in notes:
        error.add_note(note)
    return error
