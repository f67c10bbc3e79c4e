"""What an init does to itself, in the order in which the kernel permits it."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from pytest_containers.linux import landlock, notify
from pytest_containers.linux.process import (
    CAPABILITIES,
    PR_CAPBSET_DROP,
    PR_SET_NO_NEW_PRIVS,
    prctl,
)

_KEPT = frozenset(
    {
        "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
        "NET_BIND_SERVICE", "AUDIT_WRITE", "SETFCAP",
    }
)  # fmt: skip
"""Docker's capabilities without those that lead out: SYS_CHROOT, MKNOD, NET_RAW."""
RIGHTS: dict[str, int] = {
    "read": landlock.READ, "write": landlock.WRITE, "device": landlock.DEVICE,
}  # fmt: skip


def confine(view: dict[str, Any]) -> int:
    """Confine this process and its descendants to a view; return the listener of its traps.

    Args:
        view: ``rules``, pairs of a path and a member of `RIGHTS`; ``root``, the new root
            directory or null; ``single``, true if it has one user id.

    Raises:
        OSError: With the step that failed as file name.
    """
    step = "landlock"
    try:
        with landlock.Ruleset() as ruleset:
            for path, rights in view["rules"]:
                ruleset.allow(path, RIGHTS[rights])
            if view["root"] is not None:
                step = "chroot"
                os.chroot(view["root"])
                os.chdir("/")
            if not view["single"]:
                step = "drop capabilities"
                _drop_capabilities()
            step = "no_new_privs"
            prctl(PR_SET_NO_NEW_PRIVS, 1)
            step = "landlock"
            ruleset.restrict()
        step = "seccomp listener"
        return notify.install(notify.traps(chown_succeeds=view["single"]))
    except OSError as error:
        raise OSError(error.errno, error.strerror, step) from None


def _drop_capabilities() -> None:
    for number, name in enumerate(CAPABILITIES):
        if name not in _KEPT:
            with contextlib.suppress(OSError):  # unknown to this kernel
                prctl(PR_CAPBSET_DROP, number)
