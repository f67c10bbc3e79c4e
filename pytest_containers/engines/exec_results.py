"""What a caller of `Container.exec` gets: the result of the program, or an error."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pytest_containers.model.errors import ExecError, WaitTimeoutError, hide_frames
from pytest_containers.model.harmless import harmless
from pytest_containers.model.results import ExecResult

__tracebackhide__ = hide_frames

KILLED = 137
"""The exit code of a program that was killed."""


def exec_result(
    args: Sequence[str],
    code: int,
    outputs: Sequence[bytes],
    name: str,
    *,
    check: bool,
    text: bool,
    late_s: float | None = None,
) -> ExecResult:
    """Return the result of a program that has ended.

    Args:
        args: The command.
        code: The exit code.
        outputs: The standard output, and the standard error.
        name: The name of the container.
        check: Raise for another exit code than 0.
        text: Decode the output.
        late_s: The time that it had, if that was too short; None if it was not.

    Raises:
        WaitTimeoutError: It did not end in time.
        ExecError: With `check`, it ended with another exit code than 0.
    """
    doing = f"exec {shlex.join(args)} in container {name!r}"
    shown = [output.decode(errors="replace") if text else output for output in outputs]
    if late_s is not None and code == KILLED:
        raise WaitTimeoutError(
            f"{doing}: it did not end within {late_s} s and was killed",
            timeout_s=late_s,
            exit_code=code,
            stdout=shown[0],
            stderr=shown[1],
        )
    if check and code:
        lines = (outputs[1] or outputs[0]).decode(errors="replace").strip().splitlines()
        raise ExecError(
            f"{doing}: it ended with exit code {code}"
            + (f": {harmless(lines[-1])}" if lines else ""),
            cmd=list(args),
            returncode=code,
            stdout=shown[0],
            stderr=shown[1],
        )
    return ExecResult(args, code, *shown)
