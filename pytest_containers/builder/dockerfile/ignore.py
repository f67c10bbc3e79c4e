"""Patterns of ``.dockerignore`` and ``--exclude``: the last that matches a path decides."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pytest_containers.builder.dockerfile.globs import WILDCARDS, PatternError, path_matcher

_BLANKS = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009"
    "\u200a\u2028\u2029\u202f\u205f\u3000"
)
"""What Go trims; `str.strip` takes the separators of ASCII as well."""


class _Pattern(NamedTuple):
    """A pattern of the file.

    Attributes:
        glob: Cleaned, without ``!``.
        excludes: Whether what it matches is left out.
        matches: True for the paths that it matches.
        fixed: Its leading components without wildcards.
    """

    glob: str
    excludes: bool
    matches: Callable[[str], bool]
    fixed: tuple[str, ...]


class Patterns:
    """Patterns that decide which paths of a tree are left out.

    Paths are relative, with ``/`` between names. What is below an excluded directory is excluded
    as well, unless a later pattern with ``!`` matches it.

    Raises:
        ValueError: A pattern is not understood; with the end of a sentence.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._patterns = [pattern for line in lines if (pattern := _pattern(line)) is not None]
        self._bits = [(1 << index, pattern) for index, pattern in enumerate(self._patterns)]
        self._exceptions = [pattern for pattern in self._patterns if not pattern.excludes]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def matches(self, path: str, above: int = 0) -> int:
        """Return which patterns match `path` or a directory above it, as bits.

        Args:
            above: The same of the directory that it is in; 0 at the top.
        """
        matched = above
        for bit, pattern in self._bits:
            if not matched & bit and pattern.matches(path):
                matched |= bit
        return matched

    def excludes(self, matches: int) -> bool:
        """Return whether a path with these `matches` is left out."""
        return bool(matches) and self._patterns[matches.bit_length() - 1].excludes

    def excludes_path(self, path: str) -> bool:
        """Return whether `path` is left out, with all directories above it taken into account."""
        matches = 0
        for end in [index for index, letter in enumerate(path) if letter == "/"] + [len(path)]:
            matches = self.matches(path[:end], matches)
        return self.excludes(matches)

    def may_include_below(self, folder: str) -> bool:
        """Return whether an exception may include a path below an excluded directory again."""
        parts = tuple(folder.split("/"))
        return any(
            not pattern.fixed or _share_beginning(pattern.fixed, parts)
            for pattern in self._exceptions
        )


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


def _share_beginning(parts: tuple[str, ...], other_parts: tuple[str, ...]) -> bool:
    return all(a == b for a, b in zip(parts, other_parts, strict=False))


def _pattern(line: str) -> _Pattern | None:
    glob = line.strip(_BLANKS)
    excludes = not glob.startswith("!")
    glob = glob.removeprefix("!").strip(_BLANKS)
    if not glob:
        if not excludes:
            raise ValueError("'!' has no pattern")
        return None
    glob = posixpath.normpath(glob).lstrip("/")
    if glob in (".", ""):
        # No path is called so; an exception all the same lets every directory be looked into.
        return None if excludes else _Pattern(glob, excludes, lambda _: False, ())
    fixed = []
    for part in glob.split("/"):
        if set(part) & (WILDCARDS | {"^"}):
            break
        fixed.append(part)
    try:
        return _Pattern(glob, excludes, path_matcher(glob), tuple(fixed))
    except PatternError as error:
        shown = line.strip(_BLANKS)
        raise ValueError(f"the pattern {shown!r} is not understood: {error}") from None
