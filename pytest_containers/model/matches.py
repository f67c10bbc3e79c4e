"""Matches of a text or a regular expression in output that arrives in pieces.

A piece may end within a character, a line or a match. Time is linear in the length of the output:
what has been searched is dropped, except for the last line (all of the end, for a pattern over
lines), of which at most `LONGEST_MATCH` characters are kept.
"""

from __future__ import annotations

import codecs
import io
import re
from abc import ABC, abstractmethod

LONGEST_MATCH = 1 << 14
"""The length of a match that is found wherever the pieces end, in characters."""


class Matches(ABC):
    """The number of matches in one stream."""

    def __init__(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        # A terminal ends lines with "\r\n", and programs overwrite a line after "\r".
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)

    def feed(self, data: bytes) -> int:
        """Add output, and return the number of matches so far."""
        return self._search(self._decoder.decode(data))

    @abstractmethod
    def _search(self, added: str) -> int:
        """Search the output again, with its new part."""


class TextMatches(Matches):
    """The number of times that a text comes, also over lines."""

    def __init__(self, literal: str) -> None:
        super().__init__()
        self._literal = literal
        self._end = ""
        self._count = 0

    def _search(self, added: str) -> int:
        unread = self._end + added
        self._count += unread.count(self._literal)
        after = unread.rpartition(self._literal)[2]
        kept = len(self._literal) - 1
        self._end = after[-kept:] if kept else ""
        return self._count


class RegexMatches(Matches):
    """The number of matches of a regular expression.

    Args:
        pattern: Matched within each line; over lines if it contains a line break or has
            `re.DOTALL`, and then ``^`` and ``$`` are the begin and the end of a line as well.
    """

    def __init__(self, pattern: re.Pattern[str]) -> None:
        super().__init__()
        source, flags = pattern.pattern, pattern.flags
        breaks = "\\n" in source or ("\n" in source and not flags & re.VERBOSE)
        self._over_lines = breaks or bool(flags & re.DOTALL)
        self._pattern = re.compile(source, flags | re.MULTILINE) if self._over_lines else pattern
        self._rest = ""
        self._start = 0  # what stands before it in the rest was searched: context for ^ and \b
        self._count = 0

    def _search(self, added: str) -> int:
        self._rest += added
        if not self._over_lines and "\n" in added:
            lines, _, last = self._rest.rpartition("\n")
            for line in lines.split("\n"):
                self._count += self._matches(line)
                self._start = 0
            self._rest = last
        if len(self._rest) > 2 * LONGEST_MATCH:
            self._shorten()
        # Matches in the rest may still become longer: they are counted again with the next piece.
        return self._count + self._matches(self._rest)

    def _matches(self, line: str) -> int:
        return sum(1 for _ in self._pattern.finditer(line, self._start))

    def _shorten(self) -> None:
        end = max(len(self._rest) - LONGEST_MATCH, 1)
        start = self._start
        for match in self._pattern.finditer(self._rest, self._start):
            if match.end() > end:
                break
            self._count += 1
            start = match.end()
        start = max(start, end)
        self._rest, self._start = self._rest[start - 1 :], 1


def matches_of(text_or_regex: str | re.Pattern[str]) -> Matches:
    """Return a search for a text or a regular expression, for one stream."""
    if isinstance(text_or_regex, str):
        return TextMatches(text_or_regex)
    return RegexMatches(text_or_regex)
