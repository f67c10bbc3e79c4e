"""`Container.exec`: the streams of the program on the side of the caller."""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_containers.engines.native.config import text_of
from pytest_containers.model.command import exec_words
from pytest_containers.model.errors import hide_frames
from pytest_containers.model.results import ExecResult
from pytest_containers.runtime.wire.operations.containers import (
    Exec,
    ExecStarted,
    ExitCode,
    SignalExec,
)

if TYPE_CHECKING:
    from pytest_containers.runtime.wire.client import Client

__tracebackhide__ = hide_frames

_SIGKILL = 9
_CHUNK_BYTES, _MAX_PIPE_BYTES = 1 << 16, 1 << 20
_LATE_S = 0.1
"""Time to wait for the output of background processes after the end of the program."""
_OF_ONE_PROGRAM = ("args", "env", "terminal")
"""Fields of a process object that another program does not inherit."""


def run(
    client: Client,
    container_id: str,
    name: str,
    process: Mapping[str, Any],
    encoded: dict[tuple[str, bool], bytes],
    command: Sequence[str] | str,
    *,
    user: str | None,
    groups: Sequence[str],
    workdir: str | None,
    env: Mapping[str, str] | None,
    input: str | bytes | None,
    check: bool,
    text: bool,
    tty: bool,
    timeout_s: float | None,
) -> ExecResult:
    """Run a program in a container; see `Container.exec`.

    Args:
        process: The OCI process object of the container, with the defaults.
        encoded: Keeps the process objects of the container's programs as they are sent, by name
            and `tty`, for those without `workdir` and `env`.
    """
    args = exec_words(command, name)
    plain = workdir is None and not env
    blob = encoded.get((args[0], tty)) if plain else None
    if blob is None:
        blob = process_of(process, args[:1], workdir, env, tty)
        if plain:
            encoded[args[0], tty] = blob
    data = input.encode() if isinstance(input, str) else input
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    request = client.start(
        Exec(
            container=container_id,
            user=user,
            groups=groups,
            args=args,
            stdin=data is not None and not tty,
            process=blob,
        )
    )
    started = client.receive(request, last=False)
    with Conversation(started, data, tty=tty) as conversation:
        in_time = conversation.copy_until(lambda: conversation.program_ended, deadline)
        if not in_time:
            client.call(SignalExec(request=request.id, signum=_SIGKILL))
        code = client.receive_last(request, ExitCode).code
        conversation.drain()
        conversation.copy_until(lambda: conversation.streams_ended, time.monotonic() + _LATE_S)
    from pytest_containers.engines.exec_results import exec_result

    return exec_result(
        args, code, conversation.outputs, name, check=check, text=text,
        late_s=None if in_time else timeout_s,
    )  # fmt: skip


def process_of(
    process: Mapping[str, Any],
    args: Sequence[str],
    workdir: str | None,
    env: Mapping[str, str] | None,
    tty: bool,
) -> bytes:
    """Return the OCI process object of a program in a container with the object `process`."""
    own = {key: value for key, value in process.items() if key not in _OF_ONE_PROGRAM}
    changes = [f"{key}={value}" for key, value in (env or {}).items()]  # the last one counts
    own |= {"args": list(args), "env": [*(process.get("env") or ()), *changes]}
    if workdir is not None:
        own["cwd"] = workdir
    if tty:
        own["terminal"] = True
    return text_of(own)


class Conversation:
    """The ends of the streams of a program in this process; a context manager that closes them.

    Args:
        started: The answer to the start; its descriptors change owner.
        data: The standard input of the program.
        tty: True if the streams are a terminal.

    Attributes:
        program_ended: True after the end of the program, even if its streams are still open.
    """

    def __init__(self, started: ExecStarted, data: bytes | None, *, tty: bool) -> None:
        self._ended_fd = started.ended
        self._stdin = started.streams[0] if tty or data is not None else -1
        self._data = memoryview(data or b"")
        readers = started.streams if tty or data is None else started.streams[1:]
        self._collected = {fd: bytearray() for fd in readers}
        self._open = set(readers)
        self._poll = select.poll()
        self.program_ended: bool = False

    @property
    def streams_ended(self) -> bool:
        """True if no process has the output open any more."""
        return not self._open

    @property
    def outputs(self) -> list[bytes]:
        """Standard output and standard error so far."""
        collected = [bytes(output) for output in self._collected.values()]
        return [*collected, b""][:2]

    def copy_until(self, over: Callable[[], bool], deadline: float | None) -> bool:
        """Copy in both directions; return False if the deadline passed first."""
        while not over():
            left_ms = None if deadline is None else (deadline - time.monotonic()) * 1000
            if left_ms is not None and left_ms <= 0:
                return False
            for fd, events in self._poll.poll(left_ms):
                self._serve(fd, events)
        return True

    def drain(self) -> None:
        """Read all output that is in the pipes after the end of the program."""
        for fd in tuple(self._open):
            os.set_blocking(fd, False)
            for _ in range(
                _MAX_PIPE_BYTES // _CHUNK_BYTES
            ):  # background processes may write forever
                if not self._read(fd):
                    break

    def _serve(self, fd: int, events: int) -> None:
        if fd == self._ended_fd:
            self._poll.unregister(fd)
            self.program_ended = True
            return
        if fd in self._open and events & ~select.POLLOUT:
            self._read(fd)
        if fd == self._stdin and events & ~select.POLLIN:
            self._feed()

    def _read(self, fd: int) -> bool:
        """Read a part of the output; return False if there is none."""
        try:
            chunk = os.read(fd, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:  # no program has the terminal open any more
                raise
            chunk = b""
        self._collected[fd] += chunk
        if not chunk:
            self._open.discard(fd)
            self._close(fd)
        return bool(chunk)

    def _feed(self) -> None:
        try:
            self._data = self._data[os.write(self._stdin, self._data[:_CHUNK_BYTES]) :]
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            self._data = self._data[:0]  # the program has stopped reading
        if not self._data:
            self._end_input()

    def _end_input(self) -> None:
        if self._stdin in self._open:  # a terminal, whose output continues
            self._poll.modify(self._stdin, select.POLLIN)
            self._stdin = -1
        else:
            self._close(self._stdin)

    def _close(self, fd: int) -> None:
        self._poll.unregister(fd)
        os.close(fd)
        if fd == self._stdin:
            self._stdin = -1

    def __enter__(self) -> Conversation:
        events = dict.fromkeys((self._ended_fd, *self._open), select.POLLIN)
        if self._stdin >= 0:
            os.set_blocking(self._stdin, False)
            events[self._stdin] = events.get(self._stdin, 0) | select.POLLOUT
        for fd, event in events.items():
            self._poll.register(fd, event)
        return self

    def __exit__(self, *exc: object) -> None:
        for fd in {self._ended_fd, self._stdin, *self._open} - {-1}:
            os.close(fd)
