"""`Container.exec`: the caller's end of the streams."""

from __future__ import annotations

import os
import select
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_containers.engines.native.config import text_of
from pytest_containers.engines.protocol import ExecResult
from pytest_containers.errors import ExecError, SpecError, WaitTimeoutError, hide_frames
from pytest_containers.runtime.client import Client

__tracebackhide__ = hide_frames

_SIGKILL = 9


def run(
    client: Client,
    container_id: str,
    name: str,
    process: Mapping[str, Any],
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
) -> ExecResult:
    """See `Container.exec`.

    Args:
        process: The OCI process object of the container, which this one follows.
    """
    args = shlex.split(command) if isinstance(command, str) else list(command)
    if not args:
        raise SpecError(f"exec in container {name!r}: the command is empty")
    for word in args:
        if not isinstance(word, str):
            raise SpecError(f"exec in container {name!r}: {word!r} is not text; every word must be")
    blob = _process(process, args[:1], workdir, env, tty)
    data = input.encode() if isinstance(input, str) else input
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    request = client.start(
        "exec", container=container_id, user=user, groups=[], args=args,
        stdin=data is not None and not tty, blob=blob,
    )  # fmt: skip
    frame = client.receive(request, last=False)
    fds = frame.fds
    if tty:
        outputs, timed_out = _terminal(fds[0], data, deadline)
    elif data is None:
        outputs, timed_out = communicate(-1, b"", fds, deadline)
    else:
        outputs, timed_out = communicate(fds[0], data, fds[1:], deadline)
    code = None
    if not timed_out:
        left = None if deadline is None else max(deadline - time.monotonic(), 0.001)
        code = _wait(client, request, left)
    if code is None:
        client.call("exec_signal", exec=request.id, signum=_SIGKILL)
        client.receive(request)
        raise WaitTimeoutError(
            f"exec {shlex.join(args)} in container {name!r}: it did not end within "
            f"{timeout_s} s and was killed",
            timeout_s=timeout_s, stdout=outputs[0], stderr=outputs[1],
        )  # fmt: skip
    shown = [output.decode(errors="replace") if text else output for output in outputs]
    result = ExecResult(args, code, *shown)
    if check and code:
        raise _failed(result, name, outputs)
    return result


def _wait(client: Client, request: Any, left: float | None) -> int | None:
    """The exit code, or None when the time is up; the request stays."""
    if left is None:
        return int(client.receive(request).body["ok"])
    if not client.poll(request, left):
        return None
    return int(client.receive(request).body["ok"])


def _process(
    process: Mapping[str, Any],
    args: Sequence[str],
    workdir: str | None,
    env: Mapping[str, str] | None,
    tty: bool,
) -> bytes:
    own = {key: process[key] for key in ("capabilities", "noNewPrivileges", "rlimits", "cwd")
           if key in process}  # fmt: skip
    variables = dict(item.split("=", 1) for item in process["env"])
    variables.update(env or {})
    own |= {"args": list(args), "env": [f"{key}={value}" for key, value in variables.items()]}
    if workdir is not None:
        own["cwd"] = workdir
    if tty:
        own["terminal"] = True
    return text_of(own)


def communicate(
    stdin: int, data: bytes, readers: Sequence[int], deadline: float | None
) -> tuple[list[bytes], bool]:
    """Write `data`, read everything; closes all descriptors.

    Returns:
        What was read, and whether the time was up first.
    """
    poll = select.poll()
    collected = {fd: bytearray() for fd in readers}
    waiting = set(readers)
    view = memoryview(data)
    for fd in readers:
        poll.register(fd, select.POLLIN)
    if stdin >= 0:
        os.set_blocking(stdin, False)
        poll.register(stdin, select.POLLOUT)
    try:
        while waiting:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return [bytes(collected[fd]) for fd in readers], True
            for fd, _ in poll.poll(None if left is None else left * 1000):
                if fd == stdin:
                    view = _feed(stdin, view)
                    if not view:
                        poll.unregister(stdin)
                        os.close(stdin)
                        stdin = -1
                    continue
                chunk = os.read(fd, 1 << 16)
                collected[fd] += chunk
                if not chunk:
                    poll.unregister(fd)
                    waiting.discard(fd)
    finally:
        for fd in (stdin, *readers):
            if fd >= 0:
                os.close(fd)
    return [bytes(collected[fd]) for fd in readers], False


def _feed(stdin: int, view: memoryview) -> memoryview:
    """Write a part; what is left, nothing when the program does not read any more."""
    try:
        return view[os.write(stdin, view[: 1 << 16]) :]
    except BlockingIOError:
        return view
    except BrokenPipeError:
        return view[:0]


def _terminal(fd: int, data: bytes | None, deadline: float | None) -> tuple[list[bytes], bool]:
    """Talk through a terminal until its program is gone (EIO)."""
    collected = bytearray()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    try:
        if data:
            os.write(fd, data)
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return [bytes(collected), b""], True
            if not poll.poll(None if left is None else left * 1000):
                continue
            try:
                chunk = os.read(fd, 1 << 16)
            except OSError:
                chunk = b""
            if not chunk:
                return [bytes(collected), b""], False
            collected += chunk
    finally:
        os.close(fd)


def _failed(result: ExecResult, name: str, outputs: Sequence[bytes]) -> ExecError:
    said = (outputs[1] or outputs[0]).decode(errors="replace").strip().splitlines()
    return ExecError(
        f"exec {shlex.join(result.args)} in container {name!r}: it ended with exit code "
        f"{result.returncode}" + (f": {said[-1]}" if said else ""),
        args_=list(result.args), returncode=result.returncode, stdout=result.stdout,
        stderr=result.stderr,
    )  # fmt: skip
