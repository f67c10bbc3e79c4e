"""Errors on their way from one process of a run to another.

A request is ``{"op": …, "id": n, …}``. Its answers are ``{"id": n, "ok": …}``, or
``{"id": n, "error": [kind, message, data, notes]}`` with the name of a class of `model.errors`.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any, NamedTuple


class Fault(NamedTuple):
    """An error on its way to the test process.

    Attributes:
        kind: A class of `pytest_containers.model.errors`.
        message: One sentence, as that class takes it.
        data: Its attributes; JSON.
        notes: Notes of the exception: the traceback of a defect.
    """

    kind: str
    message: str
    data: dict[str, Any]
    notes: Sequence[str] = ()


def received(error: object) -> Fault:
    """A `Fault` from its JSON, which may be anything."""
    if type(error) is not list or [type(part) for part in error] != [str, str, dict, list]:
        return Fault("ContainersError", f"an error came that is none: {error!r:.80}", {})
    kind, message, data, notes = error
    return Fault(kind, message, data, tuple(str(note) for note in notes))


class FaultError(Exception):
    """A `Fault` as an exception."""

    def __init__(self, kind: str, message: str, **data: Any) -> None:
        super().__init__(message)
        self.fault: Fault = Fault(kind, message, data)

    @classmethod
    def of(cls, fault: Fault) -> FaultError:
        """The exception for a `Fault`."""
        error = cls(fault.kind, fault.message)
        error.fault = fault
        return error


def fault(kind: str, message: str, **data: Any) -> Fault:
    """A `Fault` with its data as keywords."""
    return Fault(kind, message, data)


def from_os_error(kind: str, doing: str, error: OSError) -> Fault:
    """The fault for an error of the kernel: operation, object and cause."""
    parts = [doing, error.filename, error.strerror or str(error)]
    return Fault(kind, ": ".join(str(part) for part in parts if part), {"errno": error.errno})


def not_encodable(error: UnicodeEncodeError) -> Fault:
    """The fault for a text that the caller or an image gave, and that no bytes stand for."""
    near = error.object[max(error.start - 20, 0) : error.end + 20]
    return Fault("SpecError", f"{near!r} has a half of a surrogate pair, which UTF-8 has not", {})


def tree_refused(path: str, error: OSError, *, recursive: bool) -> FaultError:
    """The error for a tree of the host that cannot be mounted.

    Args:
        path: Its place on the host.
        error: What the kernel said.
        recursive: True if mounts below it would have come along.
    """
    cause = error.strerror or str(error)
    if error.errno == errno.EINVAL and not recursive:
        # mount_namespaces(7): what such a mount hides is not shown to a user namespace below.
        cause = (
            "a mount below it comes from outside of this user namespace, and the kernel shows no "
            "tree without it; unmount it there, or start the outer container without it"
        )
    return FaultError("StartError", f"mount of {path}: {cause}", path=path, errno=error.errno)


def refused(doing: str, error: OSError) -> Fault:
    """The fault for a machine that does not permit a run; `refusals.explain` adds the way out."""
    path = f"{error.filename}: " if error.filename else ""
    data = {"refused": doing, "errno": error.errno, "what": error.filename or ""}
    return Fault("UnsupportedError", f"{doing}: {path}{error.strerror}", data)
