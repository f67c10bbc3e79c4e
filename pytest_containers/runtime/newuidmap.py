"""newuidmap(1) and newgidmap(1): whether they may be expected to work, and why they did not.

They are programs with privileges, which containers and mounts take from programs in several ways.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

_NUMBERS = {"DAC_OVERRIDE": 1, "SETGID": 6, "SETUID": 7, "SYS_ADMIN": 21, "SETFCAP": 31}
"""capabilities(7), without the import of `linux.process` that test processes do not need."""
PROGRAMS = ("newuidmap", "newgidmap")
FOR_ROOT = ("SETUID", "SETGID", "SETFCAP")
"""What root needs to write maps; SETFCAP where its own id is in them."""
_FOR_SETUID_PROGRAMS = ("DAC_OVERRIDE", "SETUID", "SETGID", "SYS_ADMIN")
"""The programs run as root, who neither owns the namespace nor ``/proc/PID/uid_map``."""


class Refusal(NamedTuple):
    """Why an identity cannot be had.

    Attributes:
        reason: A clause.
        remedy: What helps, in the imperative.
    """

    reason: str
    remedy: str


_NOT_INSTALLED = Refusal(
    "newuidmap is not installed (apt install uidmap)", "install the package uidmap"
)
_NO_NAME = Refusal(
    "the user has no name, and newuidmap wants one", "add a line for the user to /etc/passwd"
)
NO_PRIVILEGES = Refusal(
    "newuidmap gets no privileges here (no_new_privs, or a file system mounted nosuid), so the "
    "subordinate ids of the user cannot be used",
    "permit privilege escalation (in Docker without no-new-privileges), or run the tests as the "
    "container's root",
)
_NOT_SETUID = Refusal(
    "newuidmap has neither the set-user-id bit nor file capabilities (copies of a root file "
    "system lose them), so the subordinate ids of the user cannot be used",
    "install the package uidmap again",
)


def certain_refusal(user_name: str) -> Refusal | None:
    """Return what makes newuidmap useless here without a doubt, or None."""
    paths = [find(program) for program in PROGRAMS]
    if None in paths:
        return _NOT_INSTALLED
    if not user_name:
        return _NO_NAME
    if _status("NoNewPrivs") == "1":
        return NO_PRIVILEGES
    if any(os.statvfs(path).f_flag & os.ST_NOSUID for path in paths if path):
        return NO_PRIVILEGES
    return None


def is_certain() -> bool:
    """True if the programs have all that they can be in need of."""
    return all(map(_is_setuid, PROGRAMS)) and not missing_capabilities(
        "CapBnd", _FOR_SETUID_PROGRAMS
    )


def likely_refusal(error: OSError | None = None) -> Refusal:
    """Return why one of the programs failed, after `certain_refusal` found nothing.

    Args:
        error: What came of it.
    """
    if not all(_is_setuid(program) or _has_capabilities(program) for program in PROGRAMS):
        return _NOT_SETUID
    # With file capabilities and in builds with libcap they keep the user's id and need less.
    missing = missing_capabilities("CapBnd", _FOR_SETUID_PROGRAMS)
    if missing:
        return Refusal(
            f"newuidmap is refused in a container without {' and '.join(missing)}, so the "
            "subordinate ids of the user cannot be used",
            "run the tests as the container's root, or start the container with "
            f"{add_flags(missing)}",
        )
    words = f" ({error.strerror})" if error is not None else ""
    return Refusal(
        f"newuidmap is refused{words}", "set PYTEST_CONTAINERS_IDENTITY=single to do without it"
    )


def missing_capabilities(field: str, names: Sequence[str]) -> list[str]:
    """Return those of `names` that a set of this process lacks.

    Args:
        field: The set, as proc(5) names it: ``CapEff``, ``CapBnd``.
        names: Without ``CAP_``, which the answer has.
    """
    mask = int(_status(field) or "0", 16)
    return [f"CAP_{name}" for name in names if not mask >> _NUMBERS[name] & 1]


def add_flags(names: Sequence[str]) -> str:
    """Return the flags of Docker and Podman that add capabilities."""
    return "`" + " ".join(f"--cap-add {name.removeprefix('CAP_')}" for name in names) + "`"


def find(program: str) -> str | None:
    """A program's path: the scrubbed environment has no PATH, so the usual places."""
    for folder in ("/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin", "/usr/sbin"):
        path = f"{folder}/{program}"
        if os.access(path, os.X_OK):
            return path
    return None


def _is_setuid(program: str) -> bool:
    path = find(program)
    if path is None:
        return False
    status = os.stat(path)
    return bool(status.st_mode & stat.S_ISUID) and status.st_uid == 0


def _has_capabilities(program: str) -> bool:
    path = find(program)
    try:
        return path is not None and bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def _status(field: str) -> str:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == field:
                return value.strip()
    return ""
