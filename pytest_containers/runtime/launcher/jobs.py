"""Functions that run as root of the run's user namespace, in the host's mount namespace.

Unpacking layers, deleting them, and copying trees in and out of containers needs the ids of the
run's user namespace and the caller's view of files. Each job is a fork of the launcher, dies with
it, and answers with one JSON object.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from pytest_containers.linux import process
from pytest_containers.runtime.identity import Identity
from pytest_containers.runtime.wire.defects import context, defect, traceback
from pytest_containers.runtime.wire.dispatch import fail
from pytest_containers.runtime.wire.faults import Fault, FaultError, fault, received
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.message import close_all, fields_of, unpack
from pytest_containers.runtime.wire.operations.host import StartJob
from pytest_containers.runtime.wire.operations.job import JobResult, argument_type

_UNWRITTEN = 100
"""Added to the errno in the exit code of a job that could not write its result."""
Done = Callable[[JobResult | Fault], None]
_DEFECTS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError,
    NotImplementedError, RecursionError, SystemError, TypeError,
)  # fmt: skip


class Jobs:
    """Starts jobs and collects their results.

    Args:
        fail_in: As in `StartRun`.
    """

    def __init__(
        self, loop: Loop, userns_fd: int, identity: Identity, fail_in: Sequence[str] = ()
    ) -> None:
        self._loop = loop
        self._fail_in = fail_in
        self._userns_fd = userns_fd
        self._identity = identity

    def start(self, job: StartJob, done: Done) -> None:
        """Start a job; takes its descriptors over.

        Args:
            done: Gets what the function returned, or a `Fault`.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            self._child(parent, writer, job)
        os.close(writer)
        close_all(job.descriptors)
        collected = bytearray()

        def read() -> None:
            data = os.read(reader, 1 << 16)
            if data:
                collected.extend(data)
                return
            self._loop.remove_reader(reader)
            os.close(reader)
            _, status = os.waitpid(pid, 0)
            done(_result(bytes(collected), status, job.function))

        self._loop.add_reader(reader, read)

    def _child(self, parent: int, writer: int, job: StartJob) -> NoReturn:
        code = 1
        try:
            process.die_with_parent(parent)
            context.process = "job"
            # Before the ids change: the run's root may not be able to read our own packages.
            sys.path.extend(path for path in job.search_path if path not in sys.path)
            function = _function(job.function)
            process.setns(self._userns_fd, process.CLONE_NEWUSER)
            if self._identity.mode != "single":
                os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            process.die_with_parent(parent)
            os.umask(0o022)
            if f"job/{job.function}" in self._fail_in:
                function = fail
            answer: dict[str, Any] = {"ok": _run(function, job)}
            code = 0
        except BaseException as error:  # noqa: BLE001 - goes to the parent
            answer = {"error": _describe(job.function, error)}
        try:
            with open(writer, "wb") as file:
                file.write(json.dumps(answer, default=fields_of).encode())
        except OSError as error:
            code = _UNWRITTEN + (error.errno or 0)
        finally:
            os._exit(code)


def _function(name: str) -> Callable[[Any, list[int]], Any]:
    module, _, attribute = name.partition(":")
    __import__(module)
    function: Callable[[Any, list[int]], Any] = getattr(sys.modules[module], attribute)
    return function


def _run(function: Callable[[Any, list[int]], Any], job: StartJob) -> Any:
    kind = argument_type(function)
    args = job.args if kind is None else unpack(kind, dict(job.args))
    return function(args, list(job.descriptors))


def _describe(function: str, error: BaseException) -> Fault:
    if isinstance(error, FaultError):
        return error.fault
    kind, data = type(error).__name__, getattr(error, "data", None)
    if isinstance(data, dict):  # an error of ours, raised on purpose
        return Fault(kind, str(error), data)
    if isinstance(error, OSError):
        return Fault("OSError", str(error), {"errno": error.errno})
    if isinstance(error, _DEFECTS):
        return defect(function, error)
    # Of a library that reads what came from outside: the input is odd, or there is a defect.
    return Fault(kind, str(error), {}, (f"In the job {function}:\n{traceback(error)}",))


def _result(collected: bytes, status: int, function: str) -> JobResult | Fault:
    try:
        answer = json.loads(collected)
    except ValueError:
        return fault("ContainersError", f"{function} {_end(status)}")
    if "error" in answer:
        return received(answer["error"])
    return JobResult(result=answer["ok"])


def _end(status: int) -> str:
    """Say how a job ended that has no result."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    if code > _UNWRITTEN:
        return f"could not write its result: {os.strerror(code - _UNWRITTEN)}"
    return f"ended with exit code {code} and without a result"
