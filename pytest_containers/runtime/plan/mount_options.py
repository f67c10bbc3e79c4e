"""Options of mounts, as runtime-spec config.md#linux-mount-options lists them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pytest_containers.linux.mount import (
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_STRICTATIME,
)
from pytest_containers.runtime.wire.faults import FaultError

_MOUNT_ATTR_NODIRATIME, _MOUNT_ATTR_NOSYMFOLLOW = 0x80, 0x200000
_ATIME = 0x70
"""All bits that say when access times are written (MOUNT_ATTR__ATIME)."""

FLAGS: dict[str, int] = {
    "ro": MS_RDONLY, "nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC,
    "strictatime": MS_STRICTATIME, "relatime": 1 << 21, "noatime": 1 << 10,
    "nodiratime": 1 << 11, "nosymfollow": 1 << 8, "sync": 1 << 4, "dirsync": 1 << 7,
    "lazytime": 1 << 25, "iversion": 1 << 23, "mand": 1 << 6, "silent": 1 << 15,
    **dict.fromkeys((
        "rw", "suid", "dev", "exec", "atime", "diratime", "symfollow", "async", "nolazytime",
        "noiversion", "nomand", "loud", "norelatime", "nostrictatime", "defaults",
        "bind", "rbind", "private", "rprivate",
    ), 0),
}  # fmt: skip
"""Flags of mount(2) by option. Those of 0 are what a new mount is anyway."""

_SET: dict[str, tuple[int, int]] = {
    "ro": (MOUNT_ATTR_RDONLY, 0), "rw": (0, MOUNT_ATTR_RDONLY),
    "nosuid": (MOUNT_ATTR_NOSUID, 0), "suid": (0, MOUNT_ATTR_NOSUID),
    "nodev": (MOUNT_ATTR_NODEV, 0), "dev": (0, MOUNT_ATTR_NODEV),
    "noexec": (MOUNT_ATTR_NOEXEC, 0), "exec": (0, MOUNT_ATTR_NOEXEC),
    "noatime": (MOUNT_ATTR_NOATIME, _ATIME), "atime": (0, _ATIME), "relatime": (0, _ATIME),
    "norelatime": (0, _ATIME), "strictatime": (MOUNT_ATTR_STRICTATIME, _ATIME),
    "nostrictatime": (0, _ATIME),
    "nodiratime": (_MOUNT_ATTR_NODIRATIME, 0), "diratime": (0, _MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (_MOUNT_ATTR_NOSYMFOLLOW, 0), "symfollow": (0, _MOUNT_ATTR_NOSYMFOLLOW),
}  # fmt: skip
"""Attributes of mount_setattr(2) that an option sets and clears; with ``r`` before it, also of
the mounts below."""

RECURSIVE: Mapping[str, str] = {f"r{name}": name for name in _SET}
_OF_BINDS = {"bind", "rbind", "private", "rprivate", "defaults", "mapped"}
_NEVER = {
    **dict.fromkeys(
        ("shared", "rshared", "slave", "rslave", "unbindable", "runbindable"),
        "mounts are private: none of the host's appears later, and none goes back",
    ),
    **dict.fromkeys(("idmap", "ridmap"), "files keep the owners that the run's map gives them"),
    "remount": "there is nothing mounted before",
    "tmpcopyup": "a tmpfs begins empty",
}


class MountAttributes(NamedTuple):
    """Attributes to set and to clear, of a mount or of all mounts of a tree."""

    add: int
    clear: int
    recursive: bool


def is_bind(entry: Mapping[str, Any]) -> bool:
    """True if a mount is a bind: it says so, or an option does (its type is a dummy then)."""
    options = entry.get("options") or ()
    return entry.get("type", "bind") == "bind" or "bind" in options or "rbind" in options


def check(entry: Mapping[str, Any], where: str) -> None:
    """Refuse options that would do nothing.

    Raises:
        FaultError: ``SpecError``, with the option.
    """
    kind = entry.get("type", "bind")
    for option in entry.get("options") or ():
        reason = _NEVER.get(option, "")
        if not reason and is_bind(entry) and not _is_for_bind(option):
            reason = "it is no option of a bind"
        if not reason and kind in ("volume", "image") and not option.startswith(("name=", "path=")):
            reason = "" if _is_for_bind(option) else "it is no option of such a mount"
        if reason:
            raise FaultError(
                "SpecError",
                f"{where}.options: {option!r} is not supported: {reason}",
                field=f"{where}.options".removeprefix("OCI config "),
            )


def _is_for_bind(option: str) -> bool:
    return option in _SET or option in RECURSIVE or option in _OF_BINDS


def attributes(options: Iterable[str]) -> list[MountAttributes]:
    """Return what the options of a bind say of its attributes, but for ``ro`` and ``rw``.

    First those of all mounts of its tree, then those of the topmost.
    """
    changes: dict[bool, tuple[int, int]] = {}
    for option in options:
        recursive = option in RECURSIVE
        name = RECURSIVE.get(option, option)
        if name not in _SET or option in ("ro", "rw"):
            continue
        add, clear = _SET[name]
        old_add, old_clear = changes.get(recursive, (0, 0))
        # The last option of a kind counts, as for mount(8).
        changes[recursive] = (old_add & ~clear | add, old_clear & ~add | clear)
    return [
        MountAttributes(*_whole_atime(*changes[recursive]), recursive)
        for recursive in (True, False)
        if recursive in changes
    ]


def _whole_atime(add: int, clear: int) -> tuple[int, int]:
    """The kernel wants all bits of access times cleared where one of them is set."""
    return add, clear | _ATIME if (add | clear) & _ATIME else clear
