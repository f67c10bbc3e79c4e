"""From physical lines to logical ones: directives, comments, continuations, heredocs."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pytest_containers.builder.dockerfile.errors import DockerfileError, at_line
from pytest_containers.builder.dockerfile.expand import (
    ExpansionError,
    next_word,
    unquoted,
    word_spans,
)

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*\Z")
_DIRECTIVES = ("syntax", "escape", "check")
_HEREDOC = re.compile(r"(\d*)<<(-?)([^<]*)\Z")
_WITH_HEREDOC = re.compile(r"\s*(?:ONBUILD\s+)*(?:RUN|COPY|ADD)\s", re.IGNORECASE)
_BEFORE_A_NAME = re.compile(r"\d*<<-?\Z")
_RUNS = re.compile(r"\s*(?:ONBUILD\s+)*RUN\s", re.IGNORECASE)
_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)
MAX_LINE_BYTES = 65_535


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A document below an instruction.

    Attributes:
        name: Its terminator, without quotes.
        body: Its lines, as they are written.
        expand: Whether variables in it are replaced: its name was not quoted.
        chomp: Whether leading tabs go: it was written ``<<-``.
        line: Of its first line, from 1.
    """

    name: str
    body: str
    expand: bool
    chomp: bool
    line: int

    @property
    def content(self) -> str:
        """The body as a program sees it."""
        if not self.chomp:
            return self.body
        return _LEADING_TABS.sub("", self.body)


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
        """Return ``(line, column)``, from 1, of an offset in `text`."""
        index = max(0, bisect_right(self.starts, offset) - 1)
        line, column = self.places[index]
        return line, column + offset - self.starts[index]


class Source:
    """The physical and logical lines of a Dockerfile.

    Attributes:
        name: In messages.
        directives: ``syntax``, ``escape`` and ``check`` from its top.
        warnings: What it should not do, one sentence each.
    """

    def __init__(self, content: str, name: str) -> None:
        self.name = name
        self.physical: list[str] = content.removeprefix("\ufeff").splitlines(keepends=True)
        # Only these end a line; str.splitlines knows more.
        if any(not line.endswith("\n") for line in self.physical[:-1]):
            self.physical = re.findall(r"[^\n]*\n|[^\n]+\Z", content.removeprefix("\ufeff"))
        self.warnings: list[str] = []
        self.directives: dict[str, str] = {}
        self._read_directives()
        self.escape: str = self.directives.get("escape", "\\")
        escape = re.escape(self.escape)
        self._continues = re.compile(rf"(?:\A|(?<=[^{escape}])){escape}[ \t]*\Z")

    def error(
        self, message: str, line: int, column: int = 1, *, below: str = ""
    ) -> DockerfileError:
        """Return an error at a physical place."""
        source_line = self.physical[line - 1] if 0 < line <= len(self.physical) else ""
        return at_line(message, self.name, line, column, source_line, below=below)

    def error_at(self, message: str, line: Line, offset: int) -> DockerfileError:
        """Return an error at an offset in a logical line."""
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
        """Yield the logical lines that are instructions."""
        index = 0
        while index < len(self.physical):
            index, line = self._logical(index)
            if line is not None:
                yield line

    def _logical(self, index: int) -> tuple[int, Line | None]:
        first = self._text(index)
        start = len(first) - len(first.lstrip())
        first = first.lstrip()
        if not first or first.startswith("#"):
            return index + 1, None
        number = index + 1
        parts, starts, places = [], [0], [(number, start + 1)]
        part, continues = self._continued(first)
        parts.append(part)
        length = len(part)
        index += 1
        empty = 0
        while continues and index < len(self.physical):
            raw = self._text(index)
            index += 1
            if raw.lstrip().startswith("#"):
                continue
            if not raw.strip():
                empty = empty or index
                continue
            part, continues = self._continued(raw)
            starts.append(length)
            places.append((index, 1))
            parts.append(part)
            length += len(part)
        if empty:
            self.warnings.append(
                f"{self.name}:{empty}: an empty line inside an instruction; it will be an error in "
                "future versions of the language"
            )
        whole = "".join(parts)
        if not whole.strip():
            return index, None
        line = Line(whole, number, index, (), tuple(starts), tuple(places))
        if "<<" in whole and _WITH_HEREDOC.match(whole):
            index, heredocs = self._heredocs(line, index)
            line = Line(whole, number, index, heredocs, line.starts, line.places)
        return index, line

    def _text(self, index: int) -> str:
        line = self.physical[index].removesuffix("\n").removesuffix("\r")
        if len(line) > MAX_LINE_BYTES // 4 and len(line.encode(errors="surrogateescape")) > (
            MAX_LINE_BYTES
        ):
            raise self.error(
                f"the line is longer than {MAX_LINE_BYTES} bytes; continue it on the next one "
                f"with {self.escape}",
                index + 1,
            )
        return line

    def _continued(self, line: str) -> tuple[str, bool]:
        """Return a line without its continuation mark, and whether it had one."""
        match = self._continues.search(line)
        return (line[: match.start()], True) if match else (line, False)

    def _is_end(self, name: str, index: int, *, chomp: bool) -> bool:
        ending = self.physical[index].removesuffix("\n").removesuffix("\r")
        return (ending.lstrip("\t") if chomp else ending) == name

    def _ends(self, name: str, first: int, *, chomp: bool) -> bool:
        """Return whether a document of a name ends at a line, or after it."""
        indices = range(first, len(self.physical))
        return any(self._is_end(name, index, chomp=chomp) for index in indices)

    def _heredocs(self, line: Line, index: int) -> tuple[int, tuple[Heredoc, ...]]:
        documents = []
        announced = heredoc_names(
            line.text, lambda name, chomp: self._ends(name, index, chomp=chomp)
        )
        for name, expand, chomp in announced:
            begin = index
            body: list[str] = []
            while True:
                if index >= len(self.physical):
                    raise self.error_at(
                        f"the document <<{name} has no end: expected a line of only {name!r}",
                        line,
                        max(0, line.text.find("<<")),
                    )
                index += 1
                if self._is_end(name, index - 1, chomp=chomp):
                    break
                body.append(self.physical[index - 1])
            documents.append(Heredoc(name, "".join(body), expand, chomp, begin + 1))
        return index, tuple(documents)


def heredoc_names(line: str, has_end: Callable[[str, bool], bool]) -> list[tuple[str, bool, bool]]:
    """Return ``(name, expand, chomp)`` of each heredoc that a line announces.

    The words are a shell's, whatever ``# escape=`` says. Behind a quote without an end there are
    none: it may stand in a comment of the shell's; otherwise the parser reports it.

    Args:
        has_end: True if a document of a name, with leading tabs or not, ends below the line. A
            shell takes a name after a blank, too, which is only then what is meant.
    """
    heredocs = []
    position = 0
    try:
        while span := next_word(line, position):
            position = span[1]
            before, word = line[: span[0]], line[slice(*span)]
            if before.count("((") > before.count("))"):
                continue  # a shift: $(( 1 << 2 ))
            if _BEFORE_A_NAME.match(word) and _RUNS.match(line):
                name = next_word(line, position)
                heredoc = heredoc_name(word + line[slice(*name)]) if name else None
                if name is None or heredoc is None or not has_end(heredoc[0], heredoc[2]):
                    continue
                position = name[1]
            else:
                heredoc = heredoc_name(word)
            if heredoc is not None:
                heredocs.append(heredoc)
    except ExpansionError:
        pass
    return heredocs


def heredoc_name(word: str) -> tuple[str, bool, bool] | None:
    """Return the same for one word, with its quotes; None if it announces no heredoc."""
    match = _HEREDOC.match(word)
    if match is None or not match[3]:
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
