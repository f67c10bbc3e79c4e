"""Patterns of ``.dockerignore`` and ``--exclude``: the last that matches a path decides."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from typing import NamedTuple

_WILD = frozenset("*?[\\")


class _Pattern(NamedTuple):
    """One pattern.

    Attributes:
        text: Cleaned, without ``!``.
        excludes: Whether what it matches is left out.
        fixed: Its leading components without wildcards.
    """

    text: str
    excludes: bool
    regex: re.Pattern[str]
    fixed: tuple[str, ...]


class Patterns:
    """Which paths of a tree are left out.

    Paths are relative, with ``/`` between names. What is below an excluded directory is excluded
    as well, unless a later pattern with ``!`` matches it.

    Raises:
        ValueError: A pattern is not understood; with the end of a sentence.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._patterns = [made for line in lines if (made := _pattern(line)) is not None]
        self._bits = [(1 << at, one) for at, one in enumerate(self._patterns)]
        self._exceptions = [one for one in self._patterns if not one.excludes]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def matches(self, path: str, above: int = 0) -> int:
        """Which patterns match `path` or a directory above it, as bits.

        Args:
            above: The same of the directory that it is in; 0 at the top.
        """
        found = above
        for bit, pattern in self._bits:
            if not found & bit and pattern.regex.fullmatch(path):
                found |= bit
        return found

    def excludes(self, matches: int) -> bool:
        """Whether something with these `matches` is left out."""
        return bool(matches) and self._patterns[matches.bit_length() - 1].excludes

    def excludes_path(self, path: str) -> bool:
        """Whether `path` is left out, whatever is known of the directories above it."""
        matches = 0
        for end in [at for at, letter in enumerate(path) if letter == "/"] + [len(path)]:
            matches = self.matches(path[:end], matches)
        return self.excludes(matches)

    def may_include_below(self, folder: str) -> bool:
        """Whether something below an excluded directory may have been included again."""
        parts = tuple(folder.split("/"))
        return any(not one.fixed or _share_beginning(one.fixed, parts) for one in self._exceptions)


def ignore_file(data: bytes) -> Patterns:
    """Read a ``.dockerignore``.

    Raises:
        ValueError: See `Patterns`; the message begins with the line's number.
    """
    # Only these end a line; str.splitlines knows more. A "\r" goes with the blanks around.
    lines = data.decode("utf-8-sig", "surrogateescape").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            _pattern("" if line.startswith("#") else line)
        except ValueError as error:
            raise ValueError(f"{number}: {error}") from None
    return Patterns(line for line in lines if not line.startswith("#"))


def _share_beginning(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return all(a == b for a, b in zip(one, other, strict=False))


def _pattern(line: str) -> _Pattern | None:
    text = line.strip()
    excludes = not text.startswith("!")
    text = text.removeprefix("!").strip()
    if not text:
        if not excludes:
            raise ValueError("'!' has no pattern")
        return None
    text = posixpath.normpath(text).lstrip("/")
    if text == ".":
        return None if excludes else _Pattern(text, excludes, re.compile("(?!)"), ())
    fixed = []
    for part in text.split("/"):
        if _WILD & set(part):
            break
        fixed.append(part)
    try:
        return _Pattern(text, excludes, glob_regex(text), tuple(fixed))
    except re.error as error:
        raise ValueError(f"the pattern {line.strip()!r} is not understood: {error}") from None


def glob_regex(pattern: str) -> re.Pattern[str]:
    """``*`` and ``?`` within a name, ``**`` across any number of directories, ``[…]``, ``\\``."""
    found, at = "", 0
    while at < len(pattern):
        letter = pattern[at]
        at += 1
        if letter == "*" and pattern[at : at + 1] == "*":
            at += 1
            if pattern[at : at + 1] == "/":
                at += 1
            found += ".*" if at == len(pattern) else "(?:.*/)?"
        elif letter in "*?":
            found += "[^/]*" if letter == "*" else "[^/]"
        elif letter == "[":
            end = pattern.find("]", at + 1)
            if end < 0:
                raise re.error("a '[' is not closed")
            letters = re.sub(r"([\[&~|])", r"\\\1", pattern[at:end])
            found += f"[{letters}]"
            at = end + 1
        elif letter == "\\" and at < len(pattern):
            found += re.escape(pattern[at])
            at += 1
        else:
            found += re.escape(letter)
    return re.compile(found, re.DOTALL)
