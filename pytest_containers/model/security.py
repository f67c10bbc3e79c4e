"""`ContainerSpec.security_opt`: Docker's option of that name, of which ``seccomp=`` is known."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from pytest_containers.model.errors import SpecError, hide_frames

__tracebackhide__ = hide_frames

_SECCOMP = "seccomp="
_UNCONFINED = "leave it out: no such module confines containers here"
_OTHER_OPTIONS = {
    "apparmor": _UNCONFINED, "label": _UNCONFINED,
    "no-new-privileges": "pass no_new_privileges=True",
}  # fmt: skip


def seccomp_option(options: Sequence[str]) -> str:
    """Return what ``seccomp=`` says in `ContainerSpec.security_opt`; empty without it.

    Raises:
        SpecError: An option is not known, or ``seccomp=`` is there twice or says nothing.
    """
    values = []
    for option in options:
        if not option.startswith(_SECCOMP):
            way_out = _OTHER_OPTIONS.get(
                re.split("[=:]", option)[0],
                "there are 'seccomp=unconfined' and 'seccomp=PROFILE.json'",
            )
            raise SpecError(f"security_opt {option!r} is not supported; {way_out}")
        values.append(option.removeprefix(_SECCOMP))
    if len(values) > 1 or "" in values:
        raise SpecError(f"security_opt {list(options)!r}: one profile is needed")
    return values[0] if values else ""


def absolute_profiles(
    options: Sequence[str], folder: str | os.PathLike[str] = "."
) -> tuple[str, ...]:
    """Return `ContainerSpec.security_opt` with absolute paths of profiles.

    Args:
        options: As they were given, right or wrong.
        folder: What relative paths are relative to.
    """
    return tuple(_absolute_profile(option, folder) for option in options)


def _absolute_profile(option: str, folder: str | os.PathLike[str]) -> str:
    path = option.removeprefix(_SECCOMP)
    if path == option or path in ("", "unconfined", "builtin") or path.startswith("{"):
        return option
    return _SECCOMP + os.path.abspath(os.path.join(folder, os.path.expanduser(path)))
