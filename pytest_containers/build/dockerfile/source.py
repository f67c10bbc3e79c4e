"""From physical lines to logical ones: directives, comments, continuations, heredocs."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_containers.build.dockerfile.errors import DockerfileError, at_line
from pytest_containers.build.dockerfile.expand import (
    ExpansionError,
    next_word,
    unquoted,
    word_spans,
)

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*\Z")
_DIRECTIVES = ("syntax", "escape", "check")
_HEREDOC = re.compile(r"(\d*)<<(-?)([^<]*)\Z")
_WITH_HEREDOC = re.compile(r"\s*(?:ONBUILD\s+)*(?:RUN|COPY|ADD)\s", re.IGNORECASE)
_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)
MAX_LINE_BYTES = 65_535


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A document below an instruction.

    Attributes:
        name: Its terminator, without quotes.
        text: Its lines, as they are written.
        expand: Whether variables in it are replaced: its name was not quoted.
        chomp: Whether leading tabs go: it was written ``<<-``.
        line: Of its first line, from 1.
    """

    name: str
    text: str
    expand: bool
    chomp: bool
    line: int

    @property
    def content(self) -> str:
        """Its text as a program sees it."""
        if not self.chomp:
            return self.text
        return _LEADING_TABS.sub("", self.text)


@dataclass(frozen=True, slots=True)
class Line:
    """A logical line: an instruction with what continues it.

    Attributes:
        text: Joined, without line ends and comments.
        line, end_line: The physical ones, from 1.
        heredocs: In the order of their names.
        starts: Offsets in `text` at which physical lines begin.
        places: ``(line, column)`` of each.
    """

    text: str
    line: int
    end_line: int
    heredocs: tuple[Heredoc, ...]
    starts: tuple[int, ...]
    places: tuple[tuple[int, int], ...]

    def place(self, offset: int) -> tuple[int, int]:
        """``(line, column)``, from 1, of an offset in `text`."""
        index = max(0, bisect_right(self.starts, offset) - 1)
        line, column = self.places[index]
        return line, column + offset - self.starts[index]


class Source:
    """The text of a Dockerfile, and where things in it are.

    Attributes:
        name: In messages.
        directives: ``syntax``, ``escape`` and ``check`` from its top.
        warnings: What it should not do, one sentence each.
    """

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.physical: list[str] = text.removeprefix("\ufeff").splitlines(keepends=True)
        # Only these end a line; str.splitlines knows more.
        if any(not line.endswith("\n") for line in self.physical[:-1]):
            self.physical = re.findall(r"[^\n]*\n|[^\n]+\Z", text.removeprefix("\ufeff"))
        self.warnings: list[str] = []
        self.directives: dict[str, str] = {}
        self._read_directives()
        self.escape: str = self.directives.get("escape", "\\")
        escape = re.escape(self.escape)
        self._continues = re.compile(rf"(?:\A|(?<=[^{escape}])){escape}[ \t]*\Z")

    def error(
        self, message: str, line: int, column: int = 1, *, below: str = ""
    ) -> DockerfileError:
        """An error at a physical place."""
        text = self.physical[line - 1] if 0 < line <= len(self.physical) else ""
        return at_line(message, self.name, line, column, text, below=below)

    def error_at(self, message: str, line: Line, offset: int) -> DockerfileError:
        """An error at an offset in a logical line."""
        return self.error(message, *line.place(offset))

    def _read_directives(self) -> None:
        for number, line in enumerate(self.physical, 1):
            match = _DIRECTIVE.match(line.strip())
            name = match[1].lower() if match else ""
            if match is None or name not in _DIRECTIVES:
                return
            if name in self.directives:
                raise self.error(f"directive {name!r} stands here a second time", number)
            value = match[2]
            if name == "escape" and value not in ("\\", "`"):
                raise self.error(
                    f"escape character {value!r}: expected \\ or `", number, line.find(value) + 1
                )
            self.directives[name] = value

    def lines(self) -> Iterator[Line]:
        """The logical lines that are instructions."""
        at = 0
        while at < len(self.physical):
            at, line = self._logical(at)
            if line is not None:
                yield line

    def _logical(self, at: int) -> tuple[int, Line | None]:
        first = self._text(at)
        start = len(first) - len(first.lstrip())
        first = first.lstrip()
        if not first or first.startswith("#"):
            return at + 1, None
        number = at + 1
        parts, starts, places = [], [0], [(number, start + 1)]
        text, more = self._continued(first)
        parts.append(text)
        length = len(text)
        at += 1
        empty = 0
        while more and at < len(self.physical):
            raw = self._text(at)
            at += 1
            if raw.lstrip().startswith("#"):
                continue
            if not raw.strip():
                empty = empty or at
                continue
            text, more = self._continued(raw)
            starts.append(length)
            places.append((at, 1))
            parts.append(text)
            length += len(text)
        if empty:
            self.warnings.append(
                f"{self.name}:{empty}: an empty line inside an instruction; it will be an error in "
                "future versions of the language"
            )
        whole = "".join(parts)
        if not whole.strip():
            return at, None
        line = Line(whole, number, at, (), tuple(starts), tuple(places))
        if "<<" in whole and _WITH_HEREDOC.match(whole):
            at, heredocs = self._heredocs(line, at)
            line = Line(whole, number, at, heredocs, line.starts, line.places)
        return at, line

    def _text(self, index: int) -> str:
        line = self.physical[index].removesuffix("\n").removesuffix("\r")
        if len(line) > MAX_LINE_BYTES // 4 and len(line.encode(errors="surrogateescape")) > (
            MAX_LINE_BYTES
        ):
            raise self.error(
                f"the line is longer than {MAX_LINE_BYTES} bytes; continue it on the next one "
                f"with {self.escape}", index + 1,
            )  # fmt: skip
        return line

    def _continued(self, text: str) -> tuple[str, bool]:
        """A line without its continuation mark, and whether it had one."""
        match = self._continues.search(text)
        return (text[: match.start()], True) if match else (text, False)

    def _heredocs(self, line: Line, at: int) -> tuple[int, tuple[Heredoc, ...]]:
        found = []
        for name, expand, chomp in heredoc_names(line.text):
            begin = at
            body: list[str] = []
            while True:
                if at >= len(self.physical):
                    raise self.error_at(
                        f"the document <<{name} has no end: expected a line of only {name!r}",
                        line, max(0, line.text.find("<<")),
                    )  # fmt: skip
                raw = self.physical[at]
                at += 1
                ending = raw.removesuffix("\n").removesuffix("\r")
                if (ending.lstrip("\t") if chomp else ending) == name:
                    break
                body.append(raw)
            found.append(Heredoc(name, "".join(body), expand, chomp, begin + 1))
        return at, tuple(found)


def heredoc_names(text: str) -> list[tuple[str, bool, bool]]:
    """``(name, expand, chomp)`` of each heredoc that a line announces.

    The words are a shell's, whatever ``# escape=`` says. Behind a quote without an end there are
    none: it may stand in a comment of the shell's, else whoever reads the line complains of it.
    """
    found = []
    at = 0
    try:
        while span := next_word(text, at):
            at = span[1]
            heredoc = heredoc_name(text[slice(*span)])
            if heredoc is not None:
                found.append(heredoc)
    except ExpansionError:
        pass
    return found


def heredoc_name(word: str) -> tuple[str, bool, bool] | None:
    """The same for one word, with its quotes; None if it announces none."""
    match = _HEREDOC.match(word)
    if match is None or not match[3] or match[1] not in ("", "0"):
        return None
    try:
        spans = word_spans(match[3])
        if len(spans) != 1:
            return None
        word = match[3][slice(*spans[0])]
        name = unquoted(word)
    except ExpansionError:
        return None
    return name, name == word, match[2] == "-"
