"""Patterns of names and paths, with the rules of Docker's own matchers.

There are two. A source of COPY is compared as Go's ``filepath.Match`` does. A line of
``.dockerignore`` must have that syntax, too, but is turned into a regular expression of RE2 nearly
letter by letter, so that some of these mean more in it than the syntax says: ``^`` anchors, ``\\d``
is a digit, and a wildcard in brackets ends them. Builds depend on that, so it is the same here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

WILDCARDS = frozenset("*?[\\")
_ESCAPED = frozenset(".+()|{}$")
_PERL_CLASSES = {
    "d": "0-9", "s": r"\t\n\f\r ", "w": "0-9A-Za-z_",
}  # fmt: skip
_ASSERTIONS = {"A": r"\A", "z": r"\Z", "b": r"(?a:\b)", "B": r"(?a:\B)"}
_CONTROLS = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_POSIX_CLASSES = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "ascii": r"\x00-\x7f", "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f", "digit": "0-9", "graph": "!-~", "lower": "a-z", "print": " -~",
    "punct": r"!-/:-@\[-`{-~", "space": r"\t-\r ", "upper": "A-Z", "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}  # fmt: skip


class PatternError(ValueError):
    """A pattern that is not understood; the message says what is wrong with it."""


def name_regex(pattern: str) -> re.Pattern[str]:
    """Return what matches a name: ``*``, ``?``, ``[a-z]``, ``[^a]`` and ``\\``.

    Raises:
        PatternError: The pattern is not understood.
    """
    parts, position = [""], 0
    while position < len(pattern):
        letter = pattern[position]
        position += 1
        if letter == "*":
            parts.append("")
        elif letter == "?":
            parts[-1] += "[^/]"
        elif letter == "[":
            brackets, position = _read_class(pattern, position)
            parts[-1] += brackets
        else:
            if letter == "\\":
                letter, position = _escaped_letter(pattern, position)
            parts[-1] += re.escape(letter)
    return re.compile(wildcards(parts, "[^/]"), re.DOTALL)


def wildcards(parts: Sequence[str], letter: str) -> str:
    """Return what matches parts of fixed sizes, in this order, with any letters in between.

    Each part is looked for once: where the first is, the rest fits if it does anywhere. With plain
    ``.*`` a pattern of many wildcards takes longer than anybody waits (`re` goes back for each).

    Args:
        parts: Regular expressions.
        letter: The one for what may stand in between.
    """
    if len(parts) == 1:
        return parts[0]
    first, *middle, last = parts
    found = "".join(f"(?>{letter}*?{part})" for part in middle if part)
    return f"{first}{found}{letter}*{last}"


def path_matcher(pattern: str) -> Callable[[str], bool]:
    """Return whether a pattern of ``.dockerignore`` matches a path.

    ``**`` stands for any number of directories, and for any beginning or end of a path.

    Raises:
        PatternError: The pattern is not understood.
    """
    name_regex(pattern)  # whatever is not right for a name is not right at all
    if not set(pattern) & WILDCARDS and "]" not in pattern:
        return pattern.__eq__
    beginning, ending = pattern.removesuffix("**"), pattern.removeprefix("**")
    if ending != pattern and _is_plain(ending):
        if ending.startswith("/"):
            return lambda path: path == ending[1:] or path.endswith(ending)
        return lambda path: path.endswith(ending)
    if beginning != pattern and _is_plain(beginning):
        return lambda path: path.startswith(beginning)
    regex = re.compile(_Re2(_as_re2(pattern)).python())
    return lambda path: regex.fullmatch(path) is not None


def _is_plain(pattern: str) -> bool:
    return not set(pattern) & WILDCARDS and "]" not in pattern


def _as_re2(pattern: str) -> str:
    """Return the regular expression that Docker makes of a pattern."""
    regex, position = "", 0
    while position < len(pattern):
        letter = pattern[position]
        position += 1
        if letter == "*" and pattern[position : position + 1] == "*":
            position += 1
            position += pattern[position : position + 1] == "/"
            regex += ".*" if position == len(pattern) else "(.*/)?"
        elif letter in "*?":
            regex += "[^/]*" if letter == "*" else "[^/]"
        elif letter in _ESCAPED:
            regex += f"\\{letter}"
        elif letter == "\\":
            regex += f"\\{pattern[position]}"
            position += 1
        else:
            regex += letter
    return regex


# ------------------------------------------------------------------ Go's syntax


def _read_class(pattern: str, position: int) -> tuple[str, int]:
    """Read what follows a ``[``; return it for `re`, and the place behind its ``]``."""
    negated = pattern[position : position + 1] == "^"
    position += negated
    ranges = ""
    while not (ranges and pattern[position : position + 1] == "]"):
        low, position = _class_letter(pattern, position)
        high = low
        if pattern[position : position + 1] == "-":
            high, position = _class_letter(pattern, position + 1)
        # A range that ends before it begins contains nothing.
        ranges += _range(low, high) if low <= high else _NOTHING
    if set(ranges) == set(_NOTHING):
        return ("[^/]" if negated else "(?!)"), position + 1
    return f"[{'^/' if negated else ''}{ranges.replace(_NOTHING, '')}]", position + 1


_NOTHING = "\0"


def _class_letter(pattern: str, position: int) -> tuple[str, int]:
    letter = pattern[position : position + 1]
    if letter in ("-", "]"):
        raise PatternError(f"{letter!r} in brackets needs a backslash before it")
    if letter == "\\":
        letter, position = _escaped_letter(pattern, position + 1)
        position -= 1
    if not pattern[position + 1 :]:
        raise PatternError("a '[' is not closed")
    return letter, position + 1


def _escaped_letter(pattern: str, position: int) -> tuple[str, int]:
    if position >= len(pattern):
        raise PatternError("it ends with a backslash")
    return pattern[position], position + 1


def _range(low: str, high: str) -> str:
    return _letter(low) if low == high else f"{_letter(low)}-{_letter(high)}"


def _letter(letter: str) -> str:
    return f"\\U{ord(letter):08x}"


# -------------------------------------------------------------------------- RE2


class _Re2:
    """A translator of the part of RE2's language that patterns become."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._position = 0

    def _next(self) -> str:
        if self._position >= len(self._source):
            raise PatternError("a '[' is not closed")
        self._position += 1
        return self._source[self._position - 1]

    def python(self) -> str:
        """Return the same for `re`."""
        regex = ""
        while self._position < len(self._source):
            letter = self._next()
            if letter == "[":
                regex += self._brackets()
            elif letter == "\\":
                regex += self._escape()
            else:
                regex += letter if letter in ".*?()^" else re.escape(letter)
        return regex

    def _escape(self) -> str:
        letter = self._next()
        if letter in _ASSERTIONS:
            return _ASSERTIONS[letter]
        if letter.lower() in _PERL_CLASSES:
            return f"[{'^' if letter.isupper() else ''}{_PERL_CLASSES[letter.lower()]}]"
        return _letter(self._escaped(letter))

    def _escaped(self, letter: str) -> str:
        if letter in _CONTROLS:
            return _CONTROLS[letter]
        if not letter.isascii() or letter.isalnum():
            raise PatternError(f"a backslash before {letter!r} means nothing")
        return letter

    def _brackets(self) -> str:
        negated = self._source[self._position : self._position + 1] == "^"
        self._position += negated
        contents = ""
        while not (contents and self._source[self._position : self._position + 1] == "]"):
            contents += self._group() or self._letters()
        self._position += 1
        return f"[{'^' if negated else ''}{contents}]"

    def _group(self) -> str:
        """Read ``[:alpha:]`` or ``\\d``; return nothing where there is none."""
        rest = self._source[self._position :]
        if match := re.match(r"\[:(\^?)(.*?):\]", rest):
            self._position += match.end()
            if match[2] not in _POSIX_CLASSES:
                raise PatternError(f"there are no letters called {match[0]}")
            return _complement(_POSIX_CLASSES[match[2]]) if match[1] else _POSIX_CLASSES[match[2]]
        if match := re.match(r"\\([dswDSW])", rest):
            self._position += match.end()
            letters = _PERL_CLASSES[match[1].lower()]
            return _complement(letters) if match[1].isupper() else letters
        return ""

    def _letters(self) -> str:
        low = self._one_letter()
        high = low
        rest = self._source[self._position : self._position + 2]
        if rest.startswith("-") and rest[1:] not in ("", "]"):
            self._position += 1
            high = self._one_letter()
            if high < low:
                raise PatternError(f"the range {low}-{high} is the wrong way round")
        return _range(low, high)

    def _one_letter(self) -> str:
        letter = self._next()
        return self._escaped(self._next()) if letter == "\\" else letter


def _complement(letters: str) -> str:
    """Return the letters that are not among some of ASCII, as the inside of brackets."""
    regex = re.compile(f"[{letters}]")
    others = [chr(code) for code in range(128) if not regex.match(chr(code))]
    return "".join(map(_letter, others)) + r"\x80-\U0010ffff"
