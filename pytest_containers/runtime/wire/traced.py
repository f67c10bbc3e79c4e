"""A client that writes what it asks to the file of ``--containers-debug``."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any

from pytest_containers.model.errors import ContainersError, SettingsError, hide_frames
from pytest_containers.runtime.wire.channel import Channel
from pytest_containers.runtime.wire.client import Client, Request
from pytest_containers.runtime.wire.message import TOLD, Operation
from pytest_containers.runtime.wire.trace import Trace, about, open_trace, tail

__tracebackhide__ = hide_frames


class TracedClient(Client):
    """As `Client`; a run that is lost comes with the last lines of the file.

    Args:
        path: The file.

    Raises:
        SettingsError: It cannot be written.
    """

    def __init__(self, channel: Channel, errors_fd: int, path: str) -> None:
        super().__init__(channel, errors_fd)
        self._trace = _open(path)
        self.trace_fds: Sequence[int] = [self._trace.fd]
        self._path = path
        self._begun: dict[int, tuple[float, str]] = {}

    def _send(self, operation: Operation[Any], number: int) -> None:
        subject = about(vars(operation))
        if number != TOLD:
            self._begun[number] = (time.monotonic(), subject)
        self._trace.write(type(operation).__name__, number, 0.0, f"{subject} asked")
        super()._send(operation, number)

    def _receive(
        self, request: Request[Any], kind: type, within_s: float | None, *, last: bool
    ) -> Any:
        began, subject = self._begun.get(request.id, (time.monotonic(), ""))
        outcome = "given up"
        if last:
            self._begun.pop(request.id, None)
        try:
            answer = super()._receive(request, kind, within_s, last=last)
            outcome = "answered"
            return answer
        except ContainersError as error:
            outcome = f"{type(error).__name__}: {error.message}"
            raise
        finally:
            duration_s = time.monotonic() - began
            with contextlib.suppress(OSError):  # closed: at the end of the process
                self._trace.write(
                    request.kind.__name__, request.id, duration_s, f"{subject} {outcome}"
                )

    def _last_notes(self) -> list[str]:
        return [*super()._last_notes(), f"The last lines of {self._path}:\n{tail(self._path)}"]

    def close(self) -> None:
        """Close the client and its trace; see `Client.close`."""
        super().close()
        os.close(self._trace.fd)


def _open(path: str) -> Trace:
    try:
        return open_trace(path, f"test {os.getpid()}")
    except OSError as error:
        raise SettingsError(
            f"debug file {path}: {error.strerror}; name a file that can be written",
            source="debug",
            value=path,
        ) from None
