"""`Container.exec` and attached streams: programs whose output comes through the daemon."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_containers.engines.docker.api import DaemonRefusal
from pytest_containers.engines.docker.connection import Demultiplexer, Exchange
from pytest_containers.engines.exec_results import KILLED, exec_result
from pytest_containers.model.command import exec_words
from pytest_containers.model.errors import (
    ContainersError,
    NotRunningError,
    StartError,
    hide_frames,
)
from pytest_containers.model.results import ExecResult
from pytest_containers.model.threads import starting_threads

if TYPE_CHECKING:
    from pytest_containers.engines.docker.api import DockerApi

__tracebackhide__ = hide_frames

_MARK = "PYTEST_CONTAINERS_EXEC"
_KILL = (
    'for d in /proc/[0-9]*; do while IFS= read -r e || [ -n "$e" ]; do case $e in *"$0"*) '
    "kill -9 ${d#/proc/};; esac; e=; done < $d/environ; done 2>/dev/null"
)
"""Kills all processes whose environment has the mark; the shell reads over the NULs in it."""
_NOT_STARTED = re.compile(
    rb"OCI runtime exec failed: |Error: (?:runc|crun): |"
    rb"(?:exec failed|unable to start container process): "
)
"""What Docker writes to the output where a program could not run, and Podman to the errors."""
_MISSING = re.compile(
    r"executable file not found|no such file or directory|not found in \$PATH", re.IGNORECASE
)
_LATE_S = 0.1


def run(
    api: DockerApi,
    container_id: str,
    name: str,
    command: Sequence[str] | str,
    *,
    user: str | None,
    workdir: str | None,
    env: Mapping[str, str] | None,
    input: str | bytes | None,
    check: bool,
    text: bool,
    tty: bool,
    timeout_s: float | None,
    make_folder: Callable[[str], None],
) -> ExecResult:
    """Run a program in a container; see `Container.exec`."""
    args = exec_words(command, name)
    variables = [f"{key}={value}" for key, value in (env or {}).items()]
    token = secrets.token_hex(16)
    if timeout_s is not None:
        variables.append(f"{_MARK}={token}")
    doing = f"exec {shlex.join(args)} in container {name!r}"
    if workdir is not None:
        make_folder(workdir)
    data = input.encode() if isinstance(input, str) else input
    body = {
        "Cmd": args, "Env": variables, "User": user or "", "WorkingDir": workdir or "",
        "Tty": tty, "AttachStdin": data is not None, "AttachStdout": True, "AttachStderr": True,
    }  # fmt: skip
    exec_id = _create(api, container_id, name, doing, body)
    exchange = _start(api, exec_id, name, doing, tty)
    outputs = {1: bytearray(), 2: bytearray()}
    with exchange:
        late = _converse(exchange, data, outputs, tty, timeout_s)
    if late:
        kill = {"Cmd": ["/bin/sh", "-c", _KILL, f"{_MARK}={token}"], "User": "0"}
        with contextlib.suppress(ContainersError):
            killer = _create(api, container_id, name, doing, kill)
            api.call(doing, lambda client: client.exec_start(killer, detach=True))
        return exec_result(
            args, KILLED, _pair(outputs), name, check=check, text=text, late_s=timeout_s
        )
    code = _exit_code(api, exec_id, doing)
    output = bytes(outputs[1] or outputs[2])
    if code in (126, 127) and _NOT_STARTED.match(output):
        raise _not_started(doing, output.decode(errors="replace").strip().splitlines()[0], code)
    return exec_result(args, code, _pair(outputs), name, check=check, text=text)


def _pair(outputs: Mapping[int, bytearray]) -> tuple[bytes, bytes]:
    return bytes(outputs[1]), bytes(outputs[2])


def _create(
    api: DockerApi, container_id: str, name: str, doing: str, body: Mapping[str, Any]
) -> str:
    def create(client: Any) -> str:
        response = client._post_json(client._url("/containers/{0}/exec", container_id), data=body)
        return str(client._result(response, True)["Id"])

    try:
        return api.call(doing, create)
    except DaemonRefusal as error:
        raise _refused(error, doing, name) from None


def _start(api: DockerApi, exec_id: str, name: str, doing: str, tty: bool) -> Exchange:
    try:
        return api.exchange(
            doing, "POST", f"/exec/{exec_id}/start", {"Detach": False, "Tty": tty}, upgrade=True
        )
    except DaemonRefusal as error:
        raise _refused(error, doing, name) from None


def _refused(error: DaemonRefusal, doing: str, name: str) -> ContainersError:
    """Return the error for a program that the daemon has not started."""
    words = error.explanation
    if error.status == 404 and "ontainer" in words and "such" in words:
        return NotRunningError(f"{doing}: container {name!r} is gone")
    if "state improper" in words or (error.status == 409 and "not running" in words):
        return NotRunningError(f"{doing}: container {name!r} has ended")
    if error.status == 409:
        return ContainersError(f"{doing}: container {name!r} is paused; unpause it first")
    return _not_started(doing, words, 127 if _MISSING.search(words) else 126)


def _not_started(doing: str, words: str, code: int | None) -> StartError:
    if _MISSING.search(words):
        code = 127
    cause = words.removesuffix(": unknown").rpartition("exec: ")[2] or words
    return StartError(f"{doing}: {cause}", exit_code=code)


def _exit_code(api: DockerApi, exec_id: str, doing: str) -> int:
    """Return the exit code of a program whose streams have ended."""
    end = time.monotonic() + 10.0
    while True:
        facts = api.call(doing, lambda client: client.exec_inspect(exec_id))
        if not facts["Running"] and facts["ExitCode"] is not None:
            return int(facts["ExitCode"])
        if time.monotonic() > end:
            raise ContainersError(f"{doing}: it has closed its output and did not end")
        time.sleep(0.002)


def _converse(
    exchange: Exchange,
    data: bytes | None,
    outputs: Mapping[int, bytearray],
    tty: bool,
    timeout_s: float | None,
) -> bool:
    """Write the input and read the output until the end; return True if the time ran out."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    if data is not None:
        _feed(exchange.sock, data, tty)
    frames = Demultiplexer()
    while True:
        if deadline is not None:
            exchange.sock.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            part = exchange.receive()
        except TimeoutError:
            return True
        except OSError:
            return False
        if not part:
            return False
        if tty:
            outputs[1].extend(part)
            continue
        for stream, output in frames.feed(part):
            outputs[2 if stream == 2 else 1].extend(output)


def _feed(sock: socket.socket, data: bytes, tty: bool) -> None:
    def send() -> None:
        with contextlib.suppress(OSError):  # the program has stopped reading
            sock.sendall(data + (b"\x04" if tty else b""))
            if not tty:
                sock.shutdown(socket.SHUT_WR)

    if len(data) < 1 << 15:
        send()
        return
    with starting_threads():
        threading.Thread(target=send, name="pytest-containers input", daemon=True).start()


def attach(
    api: DockerApi, container_id: str, name: str, *, stdin: bool, tty: bool
) -> tuple[Exchange, list[int]]:
    """Attach to a container before its start; return the streams as descriptors.

    Returns:
        The connection, and the descriptors: standard input if it is attached, output and errors,
        or the terminal. The caller owns the descriptors.
    """
    query = f"stream=1&stdout=1&stderr=1&stdin={int(stdin)}"
    exchange = api.exchange(
        f"attachment to container {name!r}",
        "POST",
        f"/containers/{container_id}/attach?{query}",
        upgrade=True,
    )
    ends: dict[int, int] = {}
    streams: list[int] = []
    if stdin:
        reader, writer = os.pipe()
        streams.append(writer)
        _thread(lambda: _pump_in(exchange.sock, reader))
    for number in (1,) if tty else (1, 2):
        reader, ends[number] = os.pipe()
        streams.append(reader)
    _thread(lambda: _pump_out(exchange, ends, tty))
    return exchange, streams


def _thread(work: Callable[[], None]) -> None:
    with starting_threads():
        threading.Thread(target=work, name="pytest-containers stream", daemon=True).start()


def _pump_in(sock: socket.socket, reader: int) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(reader, 1 << 16):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    os.close(reader)


def _pump_out(exchange: Exchange, ends: dict[int, int], tty: bool) -> None:
    frames = Demultiplexer()
    with contextlib.suppress(OSError):
        while data := exchange.receive():
            for stream, part in [(1, data)] if tty else frames.feed(data):
                writer = ends.get(2 if stream == 2 else 1, -1)
                while part and writer >= 0:
                    try:
                        part = part[os.write(writer, part) :]
                    except BrokenPipeError:  # nobody reads it any more
                        os.close(ends.pop(2 if stream == 2 else 1))
                        break
    for writer in ends.values():
        os.close(writer)
    exchange.close()
