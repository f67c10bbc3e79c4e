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


NEW_FOLDER_MODE = 0o755
"""Of directories that are made on the way, unless an octal mode says otherwise."""
_OCTAL = re.compile(r"0*[0-7]{1,4}")


def octal_mode(chmod: str) -> int:
    """Return the mode of directories that a COPY or ADD with this ``--chmod`` makes."""
    return int(chmod, 8) if _OCTAL.fullmatch(chmod) else NEW_FOLDER_MODE


def parse_chmod(chmod: str) -> Change | None:
    """Return the function by which a ``--chmod`` changes modes; None if it is empty.

    Raises:
        ValueError: It is not understood.
    """
    if not chmod:
        return None
    if _OCTAL.fullmatch(chmod):
        mode = int(chmod, 8)
        return lambda _, __: mode
    clauses = []
    for clause in chmod.split(","):
        match = _CLAUSE.match(clause)
        if match is None:
            raise ValueError(f"{chmod!r} is not a mode: expected 755, or u=rwX,go=rX")
        clauses.append((match[1] or "a", _ACTION.findall(match[2])))

    def change(mode: int, folder: bool) -> int:
        for users, actions in clauses:
            for operator, permissions in actions:
                mode = _apply(mode, users, operator, permissions, folder=folder)
        return mode

    return change


def _apply(mode: int, users: str, operator: str, permissions: str, *, folder: bool) -> int:
    affected = "ugo" if "a" in users else users
    bits = cleared = 0
    for user in affected:
        shift = _SHIFTS[user]
        cleared |= 7 << shift
        bits |= _permissions(mode, permissions, folder=folder) << shift
    if "s" in permissions:
        bits |= (0o4000 if "u" in affected else 0) | (0o2000 if "g" in affected else 0)
    if "t" in permissions:
        bits |= 0o1000
    if operator == "=":
        return (mode & ~cleared) | bits
    return mode | bits if operator == "+" else mode & ~bits


def _permissions(mode: int, permissions: str, *, folder: bool) -> int:
    if permissions in _SHIFTS:
        return mode >> _SHIFTS[permissions] & 7
    bits = 0
    for letter in permissions:
        if letter == "X":
            bits |= 1 if folder or mode & 0o111 else 0
        else:
            bits |= _BITS.get(letter, 0)
    return bits
