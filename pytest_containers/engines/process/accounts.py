"""Users of a container, by its own ``/etc/passwd`` and ``/etc/group``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from pytest_containers.model.errors import StartError
from pytest_containers.model.harmless import quoted

_DIGITS, _MOST_IDS = 10, (1 << 32) - 1


class Account(NamedTuple):
    """The ids that a program gets; None keeps those of the caller, who has no others."""

    uid: int | None
    gid: int
    groups: tuple[int, ...]
    home: str


def account_of(passwd: bytes, group_file: bytes, user: str, extra: Sequence[str]) -> Account:
    """Return the ids of a user.

    Args:
        passwd, group_file: The contents of the files of the container.
        user: As in `ContainerSpec.user`; empty is root.
        extra: More groups.

    Raises:
        StartError: The user or a group does not exist, or has an id that is none.
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
    uid = _id(name if row is None else row[2])
    gid = 0 if row is None else _id(row[3])
    home = row[5] if row is not None and len(row) > 5 else "/"
    groups = _rows(group_file)
    if group:
        gid = _group(groups, group)
    members = [_id(each[2]) for each in groups if row and row[0] in each[3].split(",")]
    more = [_group(groups, each) for each in extra]
    return Account(uid, gid, tuple(dict.fromkeys([*(() if group else members), *more])), home)


def _group(rows: Sequence[Sequence[str]], name: str) -> int:
    for row in rows:
        if name in (row[0], row[2]):
            return _id(row[2])
    if name.isdecimal():
        return _id(name)
    raise StartError(f"group {name!r} does not exist in the container", group=name)


def _id(digits: str) -> int:
    """Return an id that setresuid(2) takes.

    Raises:
        StartError: It is none.
    """
    if not digits.isdecimal() or len(digits) > _DIGITS or int(digits) >= _MOST_IDS:
        raise StartError(f"id {quoted(digits, 40)} of the container is not one", user=digits[:40])
    return int(digits)


def _rows(text: bytes) -> list[list[str]]:
    lines = text.decode("utf-8", "replace").split("\n")
    rows = [line.split(":") for line in lines]
    return [row for row in rows if len(row) >= 4 and row[2].isdecimal()]
