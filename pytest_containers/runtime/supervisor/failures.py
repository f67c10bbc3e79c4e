"""Sentences for steps of a child that have failed."""

from __future__ import annotations

import errno

from pytest_containers.linux.program import Failure
from pytest_containers.runtime.wire.faults import Fault

_NOT_FOUND = (errno.ENOENT, errno.ENOTDIR)
_NOT_ENTERED = {
    errno.ENOENT: "is a link that leads nowhere",  # all else was made
    errno.ENOTDIR: "is not a directory in the container",
    errno.EACCES: "may not be entered: it belongs to a user who is not in the container",
}


def explain(failure: Failure, doing: str) -> Fault:
    """Put the failure of a child into a sentence, with its cause as the caller sees it.

    Args:
        failure: The step that failed.
        doing: Operation and object: ``"start of container 'db'"``.
    """
    label = failure.label
    words = label if isinstance(label, tuple) else (label,)
    if words[0] == "execute":
        return _execute(failure, str(words[1]), doing)
    if words[0] == "working directory" and failure.errno in _NOT_ENTERED:
        cause = _NOT_ENTERED[failure.errno]
        return Fault(
            "StartError",
            f"{doing}: working directory {words[1]!r} {cause}",
            {"exit_code": None, "errno": failure.errno},
        )
    if words[0] == "enter the container" and failure.errno == errno.ESRCH:
        return Fault("NotRunningError", f"{doing}: the container has just ended", {})
    if words[0] == "limit" and failure.errno == errno.EPERM:
        return Fault(
            "StartError",
            f"{doing}: {failure}; a hard limit cannot be raised above the caller's own",
            {"exit_code": None, "errno": failure.errno},
        )
    if words[0] == "bind mount" and failure.errno == errno.EINVAL:
        # move_mount(2) says no more.
        return Fault(
            "StartError",
            f"{doing}: {failure}; one is a directory and the other is not",
            {"exit_code": None, "errno": failure.errno},
        )
    return Fault("StartError", f"{doing}: {failure}", {"exit_code": None, "errno": failure.errno})


def _execute(failure: Failure, program: str, doing: str) -> Fault:
    if failure.errno in _NOT_FOUND:
        code = 127
        cause = (
            "is not there (or its interpreter is not)"
            if "/" in program
            else ("was not found in the container's PATH")
        )
    elif failure.errno == errno.ENOEXEC:
        code = 126
        cause = (
            "is not a program of this machine's kind: wrong architecture, or a script without #!"
        )
    else:
        code = 126
        cause = f"cannot be executed: {failure.cause}"
    return Fault(
        "StartError",
        f"{doing}: command {program!r} {cause}",
        {"exit_code": code, "errno": failure.errno},
    )
