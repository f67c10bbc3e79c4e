"""Run a command of the host with the ids of containers."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from pytest_containers.linux.process import CLONE_NEWNS, CLONE_NEWUSER
from pytest_containers.model.errors import StartError
from pytest_containers.runtime import identity
from pytest_containers.runtime.launcher import namespaces
from pytest_containers.runtime.wire.faults import FaultError


def unshare(command: Sequence[str]) -> int:
    """Run a command as root of a user namespace with the ids of containers.

    Root has all ids already, so its command replaces this process.

    Returns:
        The exit code, as a shell reports it.

    Raises:
        StartError: The kernel refuses the namespace.
    """
    if os.geteuid() == 0:
        _execute(command)
    reader, writer = os.pipe2(os.O_CLOEXEC)

    def child(granted: identity.Identity) -> NoReturn:
        os.close(writer)
        os.read(reader, 1)  # until it has its ids
        if granted.mode != "single":
            os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        _execute(command)

    try:
        pid, _, granted = namespaces.clone(CLONE_NEWUSER | CLONE_NEWNS, identity.choose(), child)
    except FaultError as error:
        raise StartError(f"unshare: {error.fault.message}") from None
    if granted.mode == "single":
        sys.stderr.write(f"unshare: there are no other ids than yours: {granted.reason}\n")
    # The terminal sends these to the command as well.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _execute(command: Sequence[str]) -> NoReturn:
    sys.stdout.flush()
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        sys.stderr.write(f"unshare: {shlex.quote(command[0])}: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)
