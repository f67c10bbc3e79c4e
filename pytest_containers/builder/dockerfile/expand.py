"""Words as a shell reads them: quotes, escapes and variables.

The forms are those that the Dockerfile reference lists: ``$x``, ``${x}``, ``:-`` ``-`` ``:+`` ``+``
``:?`` ``?`` ``#`` ``##`` ``%`` ``%%`` ``/`` ``//``. Positional and special parameters are empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pytest_containers.builder.dockerfile.globs import wildcards

_BLANK = " \t\v\f\r\n"
_SPECIAL = "@*#?-$!0"
_MODIFIERS = "-+?#%/"


class ExpansionError(ValueError):
    """A word that is not understood.

    Attributes:
        offset: The place of the error in `content`.
        content: The word, or the whole document.
    """

    def __init__(self, message: str, offset: int, content: str) -> None:
        super().__init__(message)
        self.offset = offset
        self.content = content


def expand_word(word: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """Replace variables and remove quotes; one word stays one, whatever is in it."""
    return "".join(piece for piece, _ in _WordReader(word, variables, escape).pieces())


def expand_text(document: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """Replace variables in a document: quotes mean nothing in it."""
    reader = _WordReader(document, variables, escape, quotes=False)
    return "".join(piece for piece, _ in reader.pieces())


def expand_words(line: str, variables: Mapping[str, str], escape: str = "\\") -> list[str]:
    """Split into words; values that stand outside quotes are split as well."""
    words: list[str] = []
    open_word = False
    for piece, splits in _WordReader(line, variables, escape).pieces():
        parts = re.split(rf"[{_BLANK}]+", piece) if splits else [piece]
        for index, part in enumerate(parts):
            if index:
                open_word = False
            if part or not splits:
                if open_word:
                    words[-1] += part
                else:
                    words.append(part)
                open_word = True
    return words


def unquoted(word: str, escape: str = "\\") -> str:
    """Return a word without its quotes and escapes; a dollar is a letter."""
    return "".join(piece for piece, _ in _WordReader(word, None, escape).pieces())


def word_spans(line: str, escape: str = "\\") -> list[tuple[int, int]]:
    """Return where the words of a line begin and end, with their quotes and escapes.

    Raises:
        ExpansionError: A quote is not closed.
    """
    spans: list[tuple[int, int]] = []
    offset = 0
    while span := next_word(line, offset, escape):
        spans.append(span)
        offset = span[1]
    return spans


def next_word(line: str, offset: int, escape: str = "\\") -> tuple[int, int] | None:
    """Return where the next word from `offset` on begins and ends; None behind the last word.

    Raises:
        ExpansionError: A quote in it is not closed.
    """
    while offset < len(line) and line[offset] in _BLANK:
        offset += 1
    if offset >= len(line):
        return None
    start = offset
    quote = ""
    opened = offset
    while offset < len(line) and (quote or line[offset] not in _BLANK):
        letter = line[offset]
        if letter == escape and quote != "'":
            offset += 1  # whatever follows is a letter of the word
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote, opened = letter, offset
        offset += 1
    if quote:
        raise ExpansionError(f"the quote {quote} is not closed", opened, line)
    return start, min(offset, len(line))


def is_number(word: str) -> bool:
    """Return whether a word is a number: `str.isdigit` takes ``²``, too, and `int` has a limit."""
    return re.fullmatch("[0-9]{1,18}", word) is not None


class _WordReader:
    """A reader that expands a word, or a document, piece by piece.

    Args:
        variables: None reads a dollar as a letter.
        quotes: Whether quotes mean something.
    """

    def __init__(
        self, content: str, variables: Mapping[str, str] | None, escape: str, *, quotes: bool = True
    ) -> None:
        self._content = content
        self._variables = variables
        self._escape = escape
        self._quotes = quotes
        self._position = 0

    def _peek(self) -> str:
        return self._content[self._position : self._position + 1]

    def _next(self) -> str:
        letter = self._peek()
        self._position += 1
        return letter

    def _fail(self, message: str, offset: int | None = None) -> ExpansionError:
        return ExpansionError(message, self._position if offset is None else offset, self._content)

    def pieces(self, stop: str = "", *, raw: bool = False) -> list[tuple[str, bool]]:
        """Read ``(text, whether blanks in it end a word)`` pairs, up to and including `stop`.

        Args:
            raw: Whether escapes stay: in a pattern they mean something themselves.
        """
        pieces: list[tuple[str, bool]] = []
        while letter := self._peek():
            if letter == stop:
                self._position += 1
                return pieces
            if letter == "$" and self._variables is not None:
                pieces.append((self._dollar(), True))
            elif letter == "'" and self._quotes:
                pieces.append((self._single(), False))
            elif letter == '"' and self._quotes:
                pieces.append((self._double(), False))
            elif letter == self._escape:
                self._position += 1
                follows = self._next()
                pieces.append(((letter if raw else "") + follows, False))
            else:
                pieces.append((self._next(), True))
        if stop:
            raise self._fail(f"expected {stop!r} before the end")
        return pieces

    def _single(self) -> str:
        start = self._position
        end = self._content.find("'", start + 1)
        if end < 0:
            raise self._fail("the quote ' is not closed", start)
        self._position = end + 1
        return self._content[start + 1 : end]

    def _double(self) -> str:
        start = self._position
        self._position += 1
        letters = ""
        while letter := self._peek():
            if letter == '"':
                self._position += 1
                return letters
            if letter == "$" and self._variables is not None:
                letters += self._dollar()
                continue
            self._position += 1
            if letter == self._escape and self._peek() in ('"', "$", self._escape):
                letter = self._next()
            letters += letter
        raise self._fail('the quote " is not closed', start)

    def _name(self) -> str:
        start = self._position
        first = self._peek()
        if first.isdecimal():
            while self._peek().isdecimal():
                self._position += 1
        elif first and first in _SPECIAL:
            self._position += 1
        else:
            while (letter := self._peek()) and (letter.isalnum() or letter == "_"):
                self._position += 1
        return self._content[start : self._position]

    def _dollar(self) -> str:
        start = self._position
        self._position += 1
        if self._peek() != "{":
            name = self._name()
            return self._value(name) or "" if name else "$"
        self._position += 1
        name = self._name()
        if not name:
            raise self._fail("expected the name of a variable after ${")
        modifier = self._next()
        if modifier == "}":
            return self._value(name) or ""
        unless_empty = modifier == ":"
        if unless_empty:
            modifier = self._next()
        if not modifier:
            raise self._fail("expected '}' before the end", start)
        if modifier not in _MODIFIERS or (unless_empty and modifier not in "-+?"):
            shown = f"{':' if unless_empty else ''}{modifier}"
            raise self._fail(
                f"the modifier {shown!r} in ${{{name}…}} is not known: expected one of "
                ":- - :+ + :? ? # ## % %% / //",
                self._position - 1,
            )
        value = self._value(name)
        if unless_empty and not value:
            value = None
        if modifier == "/":
            return self._replaced(value or "")
        if modifier in "#%":
            return self._trimmed(value or "", modifier)
        word = self._word("}")
        if modifier == "-":
            return word if value is None else value
        if modifier == "+":
            return "" if value is None else word
        if value is None:
            raise self._fail(
                f"{name}: {word or ('is not set or is empty' if unless_empty else 'is not set')}",
                start,
            )
        return value

    def _word(self, stop: str, *, raw: bool = False) -> str:
        return "".join(piece for piece, _ in self.pieces(stop, raw=raw))

    def _value(self, name: str) -> str | None:
        assert self._variables is not None
        return self._variables.get(name)

    def _trimmed(self, value: str, modifier: str) -> str:
        longest = self._peek() == modifier
        if longest:
            self._position += 1
        pattern = _pattern(self._word("}", raw=True), self._escape)
        sizes: Sequence[int] = range(len(value) + 1)
        for size in reversed(sizes) if longest else sizes:
            part = value[:size] if modifier == "#" else value[len(value) - size :]
            if pattern.fullmatch(part):
                return value[size:] if modifier == "#" else value[: len(value) - size]
        return value

    def _replaced(self, value: str) -> str:
        everywhere = self._peek() == "/"
        if everywhere:
            self._position += 1
        pattern = _pattern(self._word("/", raw=True), self._escape)
        replacement = self._word("}", raw=True)
        last = -1

        def put(match: re.Match[str]) -> str:
            # Where one match ended, `re` finds an empty one as well; shells do not.
            nonlocal last
            before, last = last, match.end()
            return "" if match.start() == match.end() == before else replacement

        return pattern.sub(put, value, count=0 if everywhere else 1)


def _pattern(pattern: str, escape: str) -> re.Pattern[str]:
    """Return a shell's pattern as a regular expression: only ``*`` and ``?`` are special."""
    parts = [""]
    letters = iter(pattern)
    for letter in letters:
        if letter == escape:
            parts[-1] += re.escape(next(letters, escape))
        elif letter == "*":
            parts.append("")
        else:
            parts[-1] += "." if letter == "?" else re.escape(letter)
    return re.compile(wildcards(parts, "."), re.DOTALL)
