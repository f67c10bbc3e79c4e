"""The debug file: a line for each request that a process of the run serves.

::

    2026-11-26 11:37:18.563012  supervisor      Run             #3        15.625 ms  name=db …

Time (UTC), process, operation, number of the request, duration, and what it was about. A line is
one write(2) to a descriptor with O_APPEND, so that lines of several processes do not mix. Without
a file nothing here is used: `start` puts `TracedCall` in the place of `Call`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from pytest_containers.runtime.wire import dispatch
from pytest_containers.runtime.wire.defects import context
from pytest_containers.runtime.wire.faults import Fault
from pytest_containers.runtime.wire.message import Message

_SHOWN = ("container", "name", "image", "key", "network", "function", "path", "number", "request")
_TAIL_LINES, _TAIL_BYTES, _TAIL_COLUMNS = 200, 1 << 20, 300


class Trace:
    """A file of such lines.

    Args:
        fd: Open for appending.
        process: Name of the process that writes.
    """

    def __init__(self, fd: int, process: str) -> None:
        self.fd = fd
        self._process = process

    def write(self, operation: str, number: int, duration_s: float, about: str) -> None:
        """Write a line."""
        now = time.time()
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now))
        line = (
            f"{clock}.{int(now % 1 * 1e6):06d}  {self._process:<14}  {operation:<15} #{number:<5}"
            f"{duration_s * 1e3:10.3f} ms  {about.strip()}"
        )
        os.write(self.fd, line.rstrip().replace("\n", "\\n").encode(errors="replace") + b"\n")


def open_trace(path: str, process: str) -> Trace:
    """Begin to write lines to a file.

    Raises:
        OSError: It cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    return Trace(os.open(path, flags, 0o600), process)


def tail(path: str) -> str:
    """The last 200 lines of a file."""
    try:
        with open(path, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - _TAIL_BYTES, 0))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError as error:
        return f"{path}: {error.strerror}"
    return "\n".join(line[:_TAIL_COLUMNS] for line in lines[-_TAIL_LINES:])


def about(fields: Mapping[str, Any]) -> str:
    """The subject of an operation: names and numbers of containers, networks, files.

    Command lines and environments are left out, since they may hold secrets.
    """
    inner = fields.get("request")
    if isinstance(inner, Message):
        inner = vars(inner)
    if isinstance(inner, dict):
        fields = inner
    values = ((name, fields.get(name)) for name in _SHOWN)
    return " ".join(
        f"{name}={_short(value)}" for name, value in values if isinstance(value, str | int)
    )


def _short(value: str | int) -> str:
    return f"{value:.19}" if isinstance(value, str) and value.startswith("sha256:") else str(value)


class TracedCall(dispatch.Call[Any]):
    """A `Call` that writes a line for each answer and step."""

    __slots__ = ("_about", "_began")

    traced = True
    trace: Trace

    def __init__(
        self, sender: dispatch.Sender, number: int, name: str, fields: Mapping[str, Any]
    ) -> None:
        super().__init__(sender, number, name, fields)
        self._began = time.monotonic()
        self._about = about(fields)

    def answer(self, answer: Message | None) -> None:
        """Answer the call and trace that; see `Call.answer`."""
        created = getattr(answer, "id", "")
        self._write(f"{self._about} answered {created}")
        super().answer(answer)

    def refuse(self, reason: Fault) -> None:
        """Refuse the call and trace that; see `Call.refuse`."""
        self._write(f"{self._about} refused: {reason.kind}: {reason.message}")
        super().refuse(reason)

    def step(self, label: str) -> None:
        """Trace a step; see `Call.step`."""
        self._write(f"{self._about} step: {label}")

    def _write(self, event: str) -> None:
        self.trace.write(str(self.name), self.id, time.monotonic() - self._began, event)


def start(fd: int) -> None:
    """Write a line for each request that this process serves from now on."""
    TracedCall.trace = Trace(fd, context.process)
    dispatch.new_call = TracedCall
