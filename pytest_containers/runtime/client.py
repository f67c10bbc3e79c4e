"""The test process's end of the connection to the supervisor."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from pytest_containers import errors
from pytest_containers.errors import ContainersError, RunLostError, WaitTimeoutError, hide_frames
from pytest_containers.runtime.channel import Channel, ChannelClosed, Frame

__tracebackhide__ = hide_frames


class Request:
    """A request on its way; its answers come in order."""

    __slots__ = ("answers", "id")

    def __init__(self, number: int) -> None:
        self.id: int = number
        self.answers: deque[Frame] = deque()


class Client:
    """A connection to the run, shared by all threads of this process.

    There is no thread of its own: of the threads that wait, one reads for all. A process that was
    forked from this one must not use it: it is told so.

    Args:
        channel: Connected.
        errors_fd: What the run's processes wrote to their standard error, for the last words.
    """

    def __init__(self, channel: Channel, errors_fd: int = -1) -> None:
        self._channel = channel
        self._errors_fd = errors_fd
        self._pid = os.getpid()
        self._requests: dict[int, Request] = {0: Request(0)}
        self._next_id = 1
        self._condition = threading.Condition()
        self._send_lock = threading.Lock()
        self._reading = False
        self._lost: str | None = None
        self._facts: dict[str, Any] | None = None
        self._refused: ContainersError | None = None
        self._greeting = threading.Lock()

    @property
    def facts(self) -> dict[str, Any]:
        """What the run is like; waits until it is ready.

        Raises:
            UnsupportedError: This machine does not permit it; with the reason and the fix.
        """
        if self._facts is None:
            # There is one such answer, whoever of those that begin at once reads it.
            with self._greeting:
                if self._facts is None:
                    self._facts = self._greeted()
        return self._facts

    def _greeted(self) -> dict[str, Any]:
        if self._refused is not None:
            raise self._refused
        with self._condition:
            request = self._requests.get(0)
        if request is None:
            raise RunLostError(self._last_words())
        try:
            facts: dict[str, Any] = self.receive(request).body["ok"]
        except ContainersError as error:
            self._refused = error
            raise
        return facts

    @property
    def lost(self) -> bool:
        """Whether the run is known to be gone."""
        return self._lost is not None

    def call(
        self,
        op: str,
        *,
        blob: bytes = b"",
        fds: Sequence[int] = (),
        within_s: float | None = None,
        **body: Any,
    ) -> Frame:
        """Ask and wait for the one answer.

        Raises:
            ContainersError: What the run says went wrong.
            WaitTimeoutError: No answer `within_s` seconds; the request was given up.
        """
        request = self.start(op, blob=blob, fds=fds, **body)
        return self.receive(request, within_s=within_s)

    def start(self, op: str, *, blob: bytes = b"", fds: Sequence[int] = (), **body: Any) -> Request:
        """Ask; the answers are had from `receive`."""
        self._check_process()
        if self._facts is None:
            _ = self.facts
        with self._condition:
            request = Request(self._next_id)
            self._next_id += 1
            self._requests[request.id] = request
        try:
            with self._send_lock:
                self._channel.send({"op": op, "id": request.id, **body}, fds, blob)
        except ChannelClosed:
            self._lose()
            raise RunLostError(self._last_words()) from None
        return request

    def receive(
        self, request: Request, *, within_s: float | None = None, last: bool = True
    ) -> Frame:
        """Wait for the next answer to `request`.

        Args:
            within_s: How long; the request is given up when it passes.
            last: Whether no further answer is expected.
        """
        deadline = None if within_s is None else time.monotonic() + within_s
        try:
            frame = self._wait(request, deadline)
        except BaseException:
            self._abandon(request)
            raise
        if frame is None:
            self._abandon(request)
            raise WaitTimeoutError(f"no answer within {within_s} s", timeout_s=within_s)
        failed = "error" in frame.body
        if last or failed:
            with self._condition:
                self._requests.pop(request.id, None)
        if failed:
            raise error_of(frame.body["error"])
        return frame

    def poll(self, request: Request, timeout_s: float) -> bool:
        """Whether an answer to `request` comes within `timeout_s`; the request stays."""
        frame = self._wait(request, time.monotonic() + timeout_s)
        if frame is None:
            return False
        with self._condition:
            request.answers.appendleft(frame)
        return True

    def _wait(self, request: Request, deadline: float | None) -> Frame | None:
        """The next frame for `request`; as a reader for everybody, or by one that reads."""
        while True:
            with self._condition:
                while not request.answers and self._reading and self._lost is None:
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return None
                    self._condition.wait(left)
                if request.answers:
                    return request.answers.popleft()
                if self._lost is not None:
                    raise RunLostError(self._last_words())
                self._reading = True
            try:
                if not self._read_one(deadline):
                    return None
            finally:
                with self._condition:
                    self._reading = False
                    self._condition.notify_all()

    def _read_one(self, deadline: float | None) -> bool:
        """Take in one frame; False when the time was up first."""
        sock = self._channel.sock
        try:
            while not self._channel.pending():
                if deadline is not None:
                    left = deadline - time.monotonic()
                    sock.settimeout(max(left, 0.0001))
                try:
                    self._channel.read_available()
                except TimeoutError:
                    return False
                finally:
                    if deadline is not None:
                        sock.settimeout(None)
            frame = self._channel.receive()
        except (ChannelClosed, OSError):
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

    def _abandon(self, request: Request) -> None:
        with self._condition:
            self._requests.pop(request.id, None)
            frames, request.answers = list(request.answers), deque()
        for frame in frames:
            for fd in frame.fds:
                os.close(fd)
        with contextlib.suppress(ContainersError):
            if self._lost is None and request.id:
                self.tell("cancel", request=request.id)

    def tell(self, op: str, **body: Any) -> None:
        """Ask without an interest in the answer; a run that is gone is fine."""
        with self._condition:
            number = self._next_id
            self._next_id += 1
        try:
            with self._send_lock:
                self._channel.send({"op": op, "id": number, **body})
        except ChannelClosed:
            self._lose()

    def _lose(self) -> None:
        with self._condition:
            self._lost = "lost"
            self._condition.notify_all()

    def _last_words(self) -> str:
        said = ""
        if self._errors_fd >= 0:
            size = os.fstat(self._errors_fd).st_size
            text = os.pread(self._errors_fd, 4096, max(size - 4096, 0)).decode(errors="replace")
            said = text.strip().rpartition("\n")[2]
        return (
            "the run of containers is gone: its supervisor was killed or failed"
            + (f" ({said})" if said else "")
            + "; all its containers went with it"
        )

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise ContainersError(
                "containers belong to the process that started them; this one was forked from it "
                "and cannot use them. Make an Engine here, or ask the parent"
            )

    @property
    def ours(self) -> bool:
        """Whether this process made the connection, rather than a parent before a fork."""
        return self._pid == os.getpid()

    def close(self) -> None:
        """End the connection; the run removes all that this process had in it."""
        if self._pid == os.getpid():
            self._lose()
        self._channel.close()
        if self._errors_fd >= 0:
            os.close(self._errors_fd)
            self._errors_fd = -1


def error_of(fault: Sequence[Any]) -> ContainersError:
    """The exception for a `Fault` from the wire."""
    kind, message, data = fault
    cls = getattr(errors, kind, ContainersError)
    if not (isinstance(cls, type) and issubclass(cls, ContainersError)):
        cls = ContainersError
    if "refused" in data:
        from pytest_containers.runtime import probe

        message = probe.explain(data["refused"], data["errno"], data["what"])
    error: ContainersError = cls(message, **data)
    return error
