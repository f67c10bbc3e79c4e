"""Unforeseen exceptions, and how they reach the request that they concern.

A process of the run works for requests. While a handler runs, `context.owner` is its `Call`; the
loop stores the owner with every callback that is registered, and a peer with every request. So an
exception in a callback reaches the test that is waiting, and nothing else ends.

Most are defects of this project. The machine can fail anywhere as well, when it has no memory or
no descriptors left, its disk is full or broken, or a filter forbids a call: that is told as what
it is.
"""

from __future__ import annotations

import errno
import os
import sys
from types import TracebackType
from typing import Protocol

from pytest_containers.runtime.wire.faults import Fault

_OURS = frozenset({errno.EBADF, errno.EFAULT, errno.EINVAL, errno.ENOTCONN, errno.ENOTSOCK})
"""What the kernel says of a call that makes no sense, whatever the machine is like."""
_UNMAPPED = "failed to map segment"  # dlopen(3), which drops the errno
_OF_IMPORTS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
_PARENT = __file__.removesuffix("pytest_containers/runtime/wire/defects.py")


class Owner(Protocol):
    """A request that defects are reported to."""

    def broken(self, error: Exception) -> None:
        """Report `error`, and answer the request with it if that is still possible."""


class ProcessContext:
    """The name of this process and the request it works for. One of a kind: there are no threads.

    Attributes:
        process: Name of the process, for messages.
        owner: The request that is being worked on; None for none.
    """

    __slots__ = ("owner", "process")

    def __init__(self) -> None:
        self.process: str = "test process"
        self.owner: Owner | None = None


context: ProcessContext = ProcessContext()


def defect(operation: str, error: BaseException, process: str = "") -> Fault:
    """The fault for an unforeseen exception, with its traceback as a note.

    Args:
        operation: Name of the operation that failed.
        process: The process it failed in; this one unless said.
    """
    where = process or context.process
    notes = (f"In the {where}:\n{traceback(error)}",)
    code = of_machine(error)
    if code:
        place = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        words = os.strerror(code)
        cause = f"{place}{words}"
        if isinstance(error, ImportError):
            cause = str(error) if words in str(error) else f"{error}: {words}"
        return Fault(
            "ContainersError", f"{operation} in the {where}: {cause}", {"errno": code}, notes
        )
    sentence = f"a defect of pytest-containers in the {where}: {operation}: {summary(error)}"
    return Fault("ContainersError", sentence, {}, notes)


def of_machine(error: BaseException) -> int:
    """Return the errno of an exception that tells of the machine, not of a defect; else 0."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, ImportError):  # of the dynamic linker, as text
        if _UNMAPPED in str(error):
            return errno.ENOMEM
        return next((code for code in _OF_IMPORTS if os.strerror(code) in str(error)), 0)
    if isinstance(error, OSError) and error.errno not in _OURS:
        return error.errno or 0
    return 0


def report(operation: str, error: BaseException) -> None:
    """Write a defect to standard error, where the test process finds it when the run is lost."""
    sys.stderr.write(f"{traceback(error)}{defect(operation, error).message}\n")
    sys.stderr.flush()


def failed(error: BaseException) -> None:
    """Write the last words of a process that ends by an exception."""
    sys.stderr.write(f"{traceback(error)}the {context.process} has failed: {summary(error)}\n")
    sys.stderr.flush()


def summary(error: BaseException) -> str:
    """Class and message of an exception."""
    message = str(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def traceback(error: BaseException) -> str:
    """The traceback of an exception, and of those it came from.

    The module of that name cannot be used: the supervisor sees no files of the host, neither the
    module nor the source lines.
    """
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = f"{traceback(earlier)}then:\n" if earlier is not None else ""
    frames = "".join(_frames(error.__traceback__))
    return f"{before}Traceback (most recent call last):\n{frames}{summary(error)}\n"


def _frames(trace: TracebackType | None) -> list[str]:
    lines = []
    while trace is not None:
        code = trace.tb_frame.f_code
        path = code.co_filename.removeprefix(_PARENT)
        lines.append(f'  File "{path}", line {trace.tb_lineno}, in {code.co_qualname}\n')
        trace = trace.tb_next
    return lines
