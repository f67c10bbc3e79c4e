"""What crosses the wire between the processes of a run, beside plain facts.

A request is ``{"op": …, "id": n, …}``. Its answers are ``{"id": n, "ok": …}``, or
``{"id": n, "error": [kind, message, data]}`` with the name of a class of `errors`. Most requests
have one answer; which have more, and what travels beside the JSON, stands with each operation in
`supervisor.operations`.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Fault(NamedTuple):
    """An error on its way to the test process.

    Attributes:
        kind: A class of `pytest_containers.errors`.
        message: One sentence, as that class takes it.
        data: Its attributes; JSON.
    """

    kind: str
    message: str
    data: dict[str, Any]


class FaultError(Exception):
    """Raised where a `Fault` has to leave a few functions."""

    def __init__(
        self, kind: str, message: str, facts: dict[str, Any] | None = None, **data: Any
    ) -> None:
        super().__init__(message)
        self.fault: Fault = Fault(kind, message, {**(facts or {}), **data})


def fault(kind: str, message: str, **data: Any) -> Fault:
    """A `Fault` with its data as keywords."""
    return Fault(kind, message, data)


def from_os_error(kind: str, doing: str, error: OSError) -> Fault:
    """What the kernel refused, as one sentence."""
    what = f"{error.filename}: " if error.filename else ""
    return Fault(kind, f"{doing}: {what}{error.strerror}", {"errno": error.errno})


def refused(doing: str, error: OSError) -> Fault:
    """The machine does not permit a run: the test process explains what that means."""
    what = f"{error.filename}: " if error.filename else ""
    data = {"refused": doing, "errno": error.errno, "what": error.filename or ""}
    return Fault("UnsupportedError", f"{doing}: {what}{error.strerror}", data)
