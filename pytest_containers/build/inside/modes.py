"""``--chmod``: octal, or symbolic as chmod(1) takes it."""

from __future__ import annotations

import re
from collections.abc import Callable

Change = Callable[[int, bool], int]
"""``(permissions, whether it is a directory)`` to permissions."""
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)\Z")
_ACTION = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_BITS = {"r": 4, "w": 2, "x": 1}
_SHIFTS = {"u": 6, "g": 3, "o": 0}


def parse_chmod(text: str) -> Change | None:
    """What a ``--chmod`` does to a mode; None if it is empty.

    Raises:
        ValueError: It is not understood.
    """
    if not text:
        return None
    if re.fullmatch(r"0*[0-7]{1,4}", text):
        mode = int(text, 8)
        return lambda _, __: mode
    clauses = []
    for clause in text.split(","):
        match = _CLAUSE.match(clause)
        if match is None:
            raise ValueError(f"{text!r} is not a mode: expected 755, or u=rwX,go=rX")
        clauses.append((match[1] or "a", _ACTION.findall(match[2])))

    def change(mode: int, folder: bool) -> int:
        for who, actions in clauses:
            for operator, permissions in actions:
                mode = _apply(mode, who, operator, permissions, folder=folder)
        return mode

    return change


def _apply(mode: int, who: str, operator: str, permissions: str, *, folder: bool) -> int:
    whom = "ugo" if "a" in who else who
    bits = cleared = 0
    for one in whom:
        shift = _SHIFTS[one]
        cleared |= 7 << shift
        bits |= _permissions(mode, permissions, folder=folder) << shift
    if "s" in permissions:
        bits |= (0o4000 if "u" in whom else 0) | (0o2000 if "g" in whom else 0)
    if "t" in permissions:
        bits |= 0o1000
    if operator == "=":
        return (mode & ~cleared) | bits
    return mode | bits if operator == "+" else mode & ~bits


def _permissions(mode: int, permissions: str, *, folder: bool) -> int:
    if permissions in _SHIFTS:
        return mode >> _SHIFTS[permissions] & 7
    found = 0
    for letter in permissions:
        if letter == "X":
            found |= 1 if folder or mode & 0o111 else 0
        else:
            found |= _BITS.get(letter, 0)
    return found
