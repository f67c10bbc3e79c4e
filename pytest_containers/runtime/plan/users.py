"""Users of a container: names and ids from the ``/etc/passwd`` and ``/etc/group`` of its root.

The files belong to the image and are not to be trusted: they are opened below the root, must be
regular, and only their first part is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pytest_containers.linux.files import open_in_root
from pytest_containers.runtime.wire.faults import FaultError

_MAX_BYTES = 4 << 20
_MAX_ID = 0xFFFFFFFE
_MAX_DIGITS = 20  # of 64 bits; int() refuses some thousands


class ProcessUser(NamedTuple):
    """The ids of a process, as the container sees them, and its home directory.

    `groups` are all its groups, the primary one first, as a login would set them.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def resolve(root_fd: int, user: str, extra_groups: Sequence[str] = ()) -> ProcessUser:
    """Find a user.

    Args:
        root_fd: The root file system.
        user: ``""``, ``"name"``, ``"1000"``, ``"name:group"``, ``":group"`` (of root) … All
            digits are an id, never a name. A user without a group gets the one of passwd and those
            that list the user.
        extra_groups: More groups, names or numbers.

    Raises:
        FaultError: There is no such user or group.
    """
    user_name, _, group_name = user.partition(":")
    uid, gid, name, home = _find_user(_entries(root_fd, "/etc/passwd", 7), user_name or "0")
    rows = list(_entries(root_fd, "/etc/group", 4)) if group_name or name or extra_groups else []
    groups: list[int] = []
    if group_name:
        gid = _find_group(rows, group_name)
    elif name:
        groups = [int(row[2]) for row in rows if name in row[3].split(",") and _is_short(row[2])]
    groups += [_find_group(rows, group) for group in extra_groups]
    return ProcessUser(uid, gid, tuple(dict.fromkeys([gid, *groups])), home)


def of_process(root_fd: int, process: Mapping[str, Any]) -> ProcessUser | None:
    """Return the user of an OCI process object, or None where that names none.

    Raises:
        FaultError: As `resolve`.
    """
    user = process.get("user") or {}
    groups = user.get("additionalGids") or ()
    if not groups and "uid" not in user and "gid" not in user:
        return None
    ids = f"{user.get('uid') or 0}:{user.get('gid') or 0}"
    resolved = resolve(root_fd, ids, [str(group) for group in groups])
    return resolved._replace(groups=tuple(groups))  # these and no others


def _find_user(entries: Iterable[Sequence[str]], user: str) -> tuple[int, int, str, str]:
    column, number = (2, _number(user, "user")) if _is_id(user) else (0, 0)
    for row in entries:
        if not column and row[0] != user:
            continue
        if not (_is_short(row[2]) and _is_short(row[3])):
            continue
        if not column or int(row[2]) == number:
            return int(row[2]), int(row[3]), row[0], row[5]
    if not column:
        raise FaultError(
            "StartError",
            f"user {user!r} is not in the container's /etc/passwd; use one that is, or a number",
            user=user,
        )
    return number, 0, "", "/"


def _find_group(entries: Sequence[Sequence[str]], group: str) -> int:
    if _is_id(group):
        return _number(group, "group")
    for row in entries:
        if row[0] == group and _is_short(row[2]):
            return int(row[2])
    raise FaultError(
        "StartError",
        f"group {group!r} is not in the container's /etc/group; use one that is, or a number",
        group=group,
    )


def _is_id(field: str) -> bool:
    return field.isascii() and field.isdecimal()  # other scripts have decimal digits too


def _is_short(field: str) -> bool:
    """True for an id in a file: as many digits as any number has that is compared with one."""
    return len(field) <= _MAX_DIGITS and _is_id(field)


def _number(digits: str, kind: str) -> int:
    number = int(digits) if len(digits) < 12 else _MAX_ID + 1
    if number > _MAX_ID:
        raise FaultError("StartError", f"{kind} {digits} is beyond the largest id, {_MAX_ID}")
    return number


def _entries(root_fd: int, path: str, fields: int) -> Iterator[list[str]]:
    try:
        fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return
        contents = file.read(_MAX_BYTES)
    for line in contents.decode("utf-8", "replace").splitlines():
        if line.count(":") >= fields - 1:
            yield line.split(":")
