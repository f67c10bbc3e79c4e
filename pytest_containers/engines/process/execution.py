"""`Container.exec` of the process engine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from pytest_containers.engines.exec_results import exec_result
from pytest_containers.engines.native.execution import Conversation
from pytest_containers.engines.process.run import Init
from pytest_containers.model.command import exec_words
from pytest_containers.model.errors import hide_frames
from pytest_containers.model.results import ExecResult
from pytest_containers.runtime.wire.operations.containers import ExecStarted

__tracebackhide__ = hide_frames

_SIGKILL, _LATE_S = 9, 0.1


def run(
    init: Init,
    name: str,
    command: Sequence[str] | str,
    fields_of: Callable[[Sequence[str]], dict[str, Any]],
    *,
    input: str | bytes | None,
    check: bool,
    text: bool,
    tty: bool,
    timeout_s: float | None,
) -> ExecResult:
    """Run a program in a container; see `Container.exec`.

    Args:
        fields_of: Returns the description of the program.
    """
    args = exec_words(command, name)
    data = input.encode() if isinstance(input, str) else input
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    theirs, ours = streams(has_input=data is not None, tty=tty)
    ended, at_end = os.pipe()
    try:
        fields = {**fields_of(args), "tty": tty}
        program = init.spawn(fields, theirs, lambda: os.close(at_end))
    except BaseException:
        for fd in (*ours, ended, at_end):
            os.close(fd)
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    started = ExecStarted(pid=program.pid, ended=ended, streams=ours)
    with Conversation(started, data, tty=tty) as conversation:
        in_time = conversation.copy_until(lambda: conversation.program_ended, deadline)
        if not in_time:
            init.kill(program, _SIGKILL)
        program.ended.wait()
        conversation.drain()
        conversation.copy_until(lambda: conversation.streams_ended, time.monotonic() + _LATE_S)
    code = program.code
    assert code is not None
    return exec_result(
        args, code, conversation.outputs, name, check=check, text=text,
        late_s=None if in_time else timeout_s,
    )  # fmt: skip


def streams(*, has_input: bool, tty: bool) -> tuple[list[int], list[int]]:
    """Return the streams of the program, and their other ends."""
    if tty:
        ours, theirs = os.openpty()
        return [theirs, os.dup(theirs), os.dup(theirs)], [ours]
    pipes = [os.pipe(), os.pipe()]
    outputs, inputs = [pipe[1] for pipe in pipes], [pipe[0] for pipe in pipes]
    if not has_input:
        return [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), *outputs], inputs
    reader, writer = os.pipe()
    return [reader, *outputs], [writer, *inputs]
