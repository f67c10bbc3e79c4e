"""Users of a container: names and ids from the ``/etc/passwd`` and ``/etc/group`` of its root.

The files belong to the image and are not to be trusted: they are opened below the root, must be
regular, and only their first part is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pytest_containers.linux.files import open_in_root
from pytest_containers.runtime.messages import FaultError

_MAX_BYTES = 4 << 20
_MAX_ID = 0xFFFFFFFE


class User(NamedTuple):
    """Whose a process is; ids of the container."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def resolve(root_fd: int, user: str, extra_groups: Sequence[str] = ()) -> User:
    """Find a user.

    Args:
        root_fd: The root file system.
        user: ``""``, ``"name"``, ``"1000"``, ``"name:group"`` … All digits are an id, never a
            name. A user without a group gets the one of passwd and those that list the user.
        extra_groups: More groups, names or numbers.

    Raises:
        FaultError: There is no such user or group.
    """
    wanted, _, wanted_group = (user or "0").partition(":")
    entries = list(_entries(root_fd, "/etc/passwd", 7))
    uid, gid, name, home = _find_user(entries, wanted)
    groups = (
        list(_entries(root_fd, "/etc/group", 4)) if wanted_group or name or extra_groups else []
    )
    found: list[int] = []
    if wanted_group:
        gid = _find_group(groups, wanted_group)
    elif name:
        found = [int(row[2]) for row in groups if name in row[3].split(",") and row[2].isdecimal()]
    found += [_find_group(groups, group) for group in extra_groups]
    return User(uid, gid, tuple(dict.fromkeys(found)), home)


def _find_user(entries: Sequence[Sequence[str]], wanted: str) -> tuple[int, int, str, str]:
    column, number = (2, _number(wanted, "user")) if wanted.isdecimal() else (0, 0)
    for row in entries:
        if not (row[2].isdecimal() and row[3].isdecimal()):
            continue
        if (int(row[2]) == number) if column else (row[0] == wanted):
            return int(row[2]), int(row[3]), row[0], row[5]
    if not column:
        raise FaultError(
            "StartError",
            f"user {wanted!r} is not in the container's /etc/passwd; use one that is, or a number",
            user=wanted,
        )
    return number, 0, "", "/"


def _find_group(entries: Sequence[Sequence[str]], wanted: str) -> int:
    if wanted.isdecimal():
        return _number(wanted, "group")
    for row in entries:
        if row[0] == wanted and row[2].isdecimal():
            return int(row[2])
    raise FaultError(
        "StartError",
        f"group {wanted!r} is not in the container's /etc/group; use one that is, or a number",
        group=wanted,
    )


def _number(text: str, what: str) -> int:
    number = int(text) if len(text) < 12 else _MAX_ID + 1
    if number > _MAX_ID:
        raise FaultError("StartError", f"{what} {text} is beyond the largest id, {_MAX_ID}")
    return number


def _entries(root_fd: int, path: str, fields: int) -> Iterator[list[str]]:
    try:
        fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return
        text = file.read(_MAX_BYTES)
    for line in text.decode("utf-8", "replace").splitlines():
        row = line.split(":")
        if len(row) >= fields:
            yield row
