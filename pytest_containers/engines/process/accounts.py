"""Users of a container, by its own ``/etc/passwd`` and ``/etc/group``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from pytest_containers.model.errors import StartError


class Account(NamedTuple):
    """The ids that a program gets; None keeps those of the caller, who has no others."""

    uid: int | None
    gid: int
    groups: tuple[int, ...]
    home: str


def account_of(passwd: str, group_file: str, user: str, extra: Sequence[str]) -> Account:
    """Return the ids of a user.

    Args:
        passwd, group_file: The files of the container.
        user: As in `ContainerSpec.user`; empty is root.
        extra: More groups.

    Raises:
        StartError: The user or a group does not exist.
    """
    if os.geteuid() != 0:
        # One id, as with the identity "single": every program is the caller's.
        return Account(None, os.getegid(), (), "")
    name, _, group = user.partition(":")
    name = name or "0"
    rows = _rows(passwd)
    row = next((row for row in rows if name in (row[0], row[2])), None)
    if row is None and not name.isdecimal():
        raise StartError(f"user {name!r} does not exist in the container", user=name)
    uid = int(name) if row is None else int(row[2])
    gid = 0 if row is None else int(row[3])
    home = row[5] if row is not None and len(row) > 5 else "/"
    groups = _rows(group_file)
    if group:
        gid = _group(groups, group)
    members = [int(each[2]) for each in groups if row and row[0] in each[3].split(",")]
    more = [_group(groups, each) for each in extra]
    return Account(uid, gid, tuple(dict.fromkeys([*(() if group else members), *more])), home)


def _group(rows: Sequence[Sequence[str]], name: str) -> int:
    for row in rows:
        if name in (row[0], row[2]):
            return int(row[2])
    if name.isdecimal():
        return int(name)
    raise StartError(f"group {name!r} does not exist in the container", group=name)


def _rows(path: str) -> list[list[str]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            rows = [line.rstrip("\n").split(":") for line in file]
    except OSError:
        return []
    return [row for row in rows if len(row) >= 4 and row[2].isdecimal()]
