"""Functions that run as root of the run's user namespace, in the host's mount namespace.

What unpacks layers, deletes them, or copies trees in and out of containers needs the ids of the
run's user namespace and the caller's view of files. Each job is a fork of the launcher, dies with
it, and answers with one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from pytest_containers.linux import process
from pytest_containers.runtime.launcher.identity import Identity
from pytest_containers.runtime.loop import Loop
from pytest_containers.runtime.messages import Fault, fault

Done = Callable[[Any], None]


class Jobs:
    """Starts jobs and collects their results."""

    def __init__(self, loop: Loop, userns_fd: int, identity: Identity) -> None:
        self._loop = loop
        self._userns_fd = userns_fd
        self._identity = identity

    def start(
        self,
        function: str,
        args: dict[str, Any],
        fds: Sequence[int],
        search_path: Sequence[str],
        done: Done,
    ) -> None:
        """Run ``"module:name"`` with ``(args, fds)``; takes the descriptors over.

        Args:
            search_path: Where the function's package may be found beside our own.
            done: Gets what the function returned, or a `Fault`.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            self._child(parent, writer, function, args, fds, search_path)
        os.close(writer)
        for fd in fds:
            os.close(fd)
        collected = bytearray()

        def read() -> None:
            data = os.read(reader, 1 << 16)
            if data:
                collected.extend(data)
                return
            self._loop.remove_reader(reader)
            os.close(reader)
            _, status = os.waitpid(pid, 0)
            done(_result(bytes(collected), status, function))

        self._loop.add_reader(reader, read)

    def _child(
        self,
        parent: int,
        writer: int,
        function: str,
        args: dict[str, Any],
        fds: Sequence[int],
        search_path: Sequence[str],
    ) -> NoReturn:
        code = 1
        try:
            process.die_with_parent(parent)
            # Before the ids change: the run's root may not be able to read our own packages.
            sys.path.extend(path for path in search_path if path not in sys.path)
            module, _, name = function.partition(":")
            __import__(module)
            process.setns(self._userns_fd, process.CLONE_NEWUSER)
            if self._identity.mode != "single":
                os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            process.die_with_parent(parent)
            os.umask(0o022)
            answer: dict[str, Any] = {"ok": getattr(sys.modules[module], name)(args, list(fds))}
            code = 0
        except BaseException as error:  # noqa: BLE001 - the parent tells
            answer = {"error": _describe(error)}
        try:
            with open(writer, "wb") as file:
                file.write(json.dumps(answer).encode())
        finally:
            os._exit(code)


def _describe(error: BaseException) -> list[Any]:
    kind = type(error).__name__
    data = getattr(error, "data", {})
    if isinstance(error, OSError) and not data:
        kind, data = "OSError", {"errno": error.errno}
    return [kind, str(error), data if isinstance(data, dict) else {}]


def _result(collected: bytes, status: int, function: str) -> Any:
    try:
        answer = json.loads(collected)
    except ValueError:
        return fault("ContainersError", f"{function} ended with status {status} and said nothing")
    if "error" in answer:
        return Fault(*answer["error"])
    return answer["ok"]
