"""The namespaces of a run: made by a clone, and then given their map of ids from outside."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import NoReturn

from pytest_containers.linux import process
from pytest_containers.runtime import identity as identities
from pytest_containers.runtime.identity import Identity
from pytest_containers.runtime.wire.faults import FaultError, refused


def clone(
    flags: int, identity: Identity, child: Callable[[Identity], NoReturn]
) -> tuple[int, int, Identity]:
    """Start a process in new namespaces whose container root it may become.

    Args:
        flags: The namespaces, as clone(2) names them.
        identity: Of the user namespace.
        child: What the process does; it has to wait until it is told that its ids are there.

    Returns:
        Its pid, a pidfd, and the identity that it has: where `identity` was refused, a single id.

    Raises:
        FaultError: The namespaces or all ids are refused.
    """
    try:
        pid, pidfd = process.clone(flags)
    except OSError as error:
        raise FaultError.of(refused("make the run's namespaces", error)) from None
    if pid == 0:
        child(identity)
    try:
        identities.write_maps(pid, identity)
    except OSError as error:
        # One of the two maps may be there, and is so for good: begin anew.
        process.pidfd_kill(pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
        lesser = identities.after_refusal(identity, error)
        if lesser is None:
            raise FaultError.of(refused("give container users their ids", error)) from None
        return clone(flags, lesser, child)
    return pid, pidfd, identity
