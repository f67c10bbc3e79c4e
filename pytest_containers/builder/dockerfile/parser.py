"""From logical lines to instructions."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from pytest_containers.builder.dockerfile import instructions as i
from pytest_containers.builder.dockerfile.errors import DockerfileError
from pytest_containers.builder.dockerfile.expand import (
    ExpansionError,
    is_number,
    next_word,
    unquoted,
    word_spans,
)
from pytest_containers.builder.dockerfile.instructions import Dockerfile, Instruction, StageSource
from pytest_containers.builder.dockerfile.mounts import ignored_keys, parse_mount
from pytest_containers.builder.dockerfile.source import Line, Source, heredoc_name

_BLANKS = " \t\v\f\r"
_KEYWORD = re.compile(r"\s*(\S+)")
_STAGE = re.compile(r"[a-z][a-z0-9-_.]*\Z")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_UNITS_NS = {
    "ns": 1, "us": 10**3, "\u00b5s": 10**3, "\u03bcs": 10**3, "ms": 10**6,
    "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip
_NOT_IN_TRIGGERS = ("ONBUILD", "FROM", "MAINTAINER")


def parse(content: str, name: str = "Dockerfile") -> Dockerfile:
    """Read a Dockerfile.

    Args:
        name: What messages call it.

    Raises:
        DockerfileError: With line, column and what was expected there.
    """
    source = Source(content, name)
    args: list[i.Arg] = []
    stages: list[StageSource] = []
    collected: list[Instruction] = []
    begin: i.From | None = None
    for line in source.lines():
        instruction = _LineReader(source, line).instruction()
        if isinstance(instruction, i.From):
            if begin is not None:
                stages.append(StageSource(begin, tuple(collected)))
            begin, collected = instruction, []
        elif begin is not None:
            collected.append(instruction)
        elif isinstance(instruction, i.Arg):
            args.append(instruction)
        else:
            raise source.error(
                f"{instruction.KEYWORD} stands before the first FROM: expected ARG or FROM",
                *line.place(0),
            )
    if begin is None:
        raise DockerfileError(
            f"{name}: there is no FROM in it; begin with `FROM image`", file=name, line=1, column=1
        )
    stages.append(StageSource(begin, tuple(collected)))
    return Dockerfile(
        name,
        tuple(args),
        tuple(stages),
        source.escape,
        tuple(source.directives.items()),
        tuple(source.warnings),
        content,
    )


def parse_trigger(trigger: str, name: str) -> Instruction:
    """Read an instruction that an image's ONBUILD left.

    Args:
        name: What messages call it.

    Raises:
        DockerfileError: It is not one that can stand there.
    """
    source = Source(trigger, name)
    lines = list(source.lines())
    if len(lines) != 1:
        raise source.error(f"expected one instruction, found {len(lines)}", 1)
    return _LineReader(source, lines[0]).instruction(trigger=True)


class _LineReader:
    """A reader of one logical line."""

    def __init__(self, source: Source, line: Line, start: int = 0) -> None:
        self._source = source
        self._line = line
        match = _KEYWORD.match(line.text, start)
        assert match is not None  # a line has letters
        self._start = match.start(1)
        self.keyword = match[1].upper()
        self._position = match.end()
        self._skip_blanks()
        self._flags: dict[str, list[tuple[str, int]]] = {}

    # ------------------------------------------------------------------ helpers

    def fail(self, message: str, offset: int | None = None) -> DockerfileError:
        """Return an error of this instruction; without an offset, at its arguments."""
        position = self._position if offset is None else offset
        return self._source.error_at(f"{self.keyword}: {message}", self._line, position)

    def _skip_blanks(self) -> None:
        line = self._line.text
        while self._position < len(line) and line[self._position] in _BLANKS:
            self._position += 1

    @property
    def _rest(self) -> str:
        return self._line.text[self._position :].rstrip()

    def _spans(self) -> list[tuple[int, int]]:
        """Return where the words from here on begin and end, with quotes."""
        try:
            spans = word_spans(self._rest, self._source.escape)
        except ExpansionError as error:
            raise self.fail(str(error), self._position + error.offset) from None
        return [(self._position + start, self._position + end) for start, end in spans]

    def _next_word(self) -> tuple[int, int]:
        """Return where the next word is; what is behind it may follow a shell's rules."""
        try:
            span = next_word(self._line.text, self._position, self._source.escape)
        except ExpansionError as error:
            raise self.fail(str(error), error.offset) from None
        return span or (self._position, self._position)

    def _words(self) -> list[tuple[str, int]]:
        """Return the words from here on, split at blanks, with their offsets."""
        return [
            (match[0], self._position + match.start()) for match in re.finditer(r"\S+", self._rest)
        ]

    def _read_flags(self, names: Sequence[str]) -> None:
        line = self._line.text
        while line.startswith("--", self._position):
            start, end = self._next_word()
            word = unquoted(line[start:end], self._source.escape)
            self._position = end
            self._skip_blanks()
            if word == "--":
                return
            name, _, value = word[2:].partition("=")
            if name not in names:
                near = _nearest(f"--{name}", [f"--{flag}" for flag in names])
                raise self.fail(f"there is no option --{name}{near}", start)
            if "=" not in word and name not in _BOOLEANS:
                raise self.fail(f"option --{name} has no value: expected --{name}=…", start)
            if name == "mount" and line.startswith("--mount=", start):
                value = line[start + len("--mount=") : end]  # with its quotes
            self._flags.setdefault(name, []).append((value if "=" in word else "true", start))

    def _flag(self, name: str) -> str:
        values = self._flags.get(name, [])
        if len(values) > 1:
            raise self.fail(f"option --{name} stands here twice", values[1][1])
        return values[0][0] if values else ""

    def _flag_bool(self, name: str) -> bool:
        value = self._flag(name)
        if name in self._flags and value.lower() not in ("true", "false"):
            raise self.fail(
                f"option --{name}={value}: expected true or false", self._flags[name][0][1]
            )
        return value.lower() == "true"

    def _flag_duration(self, name: str) -> int:
        value = self._flag(name)
        if not value:
            return 0
        offset = self._flags[name][0][1]
        # Go reads a sign, and a 0 without a unit.
        magnitude = value.removeprefix("+") if value != "+" else value
        if re.fullmatch("[-+]?0", value):
            return 0
        parts = _DURATION.findall(magnitude)
        if "".join(number + unit for number, unit in parts) != magnitude:
            raise self.fail(f"option --{name}={value}: expected a duration as 1m30s", offset)
        total = int(sum(Decimal(number) * _UNITS_NS[unit] for number, unit in parts))
        if 0 < total < _UNITS_NS["ms"]:
            raise self.fail(f"option --{name}={value}: expected at least 1ms", offset)
        return total

    def _json(self) -> list[str] | None:
        """Return the rest of the line as a JSON array of strings; None if it is not an array."""
        if not self._rest.startswith("["):
            return None
        try:
            array: Any = json.loads(self._rest)
        except ValueError:
            return None
        if not isinstance(array, list):
            return None
        for element in array:
            if not isinstance(element, str):
                raise self.fail(f"expected a JSON array of only text, found {json.dumps(element)}")
        return array

    def _command(self) -> i.Command:
        words = self._json()
        if words is not None:
            return i.Command(tuple(words), shell=False)
        if not self._rest:
            raise self.fail("expected a command")
        return i.Command((self._rest,), shell=True)

    def _only_word(self, noun: str) -> str:
        words = self._words()
        if len(words) != 1:
            offset = words[1][1] if words else None
            raise self.fail(f"expected one {noun}, found {len(words)}", offset)
        return words[0][0]

    def _pairs(self, *, legacy: bool) -> i.Pairs:
        """Return ``name=value`` words as pairs; with quotes, which expansion removes."""
        spans = self._spans()
        if not spans:
            raise self.fail("expected name=value")
        words = [self._line.text[start:end] for start, end in spans]
        if legacy and "=" not in words[0]:
            if len(words) == 1:
                raise self.fail(f"{words[0]} has no value: expected name=value", spans[0][0])
            value_at = spans[1][0]
            return ((words[0], self._line.text[value_at:].rstrip()),)
        pairs = []
        for word, (start, _) in zip(words, spans, strict=True):
            name, equals, value = word.partition("=")
            if not equals:
                raise self.fail(f"{word}: expected name=value", start)
            if not name:
                raise self.fail("a name is missing before '='", start)
            pairs.append((name, value))
        return tuple(pairs)

    # ------------------------------------------------------------- instructions

    def instruction(self, *, trigger: bool = False) -> Instruction:
        """Return the instruction of the line.

        Args:
            trigger: Whether it stands in an ONBUILD.
        """
        maker = _MAKERS.get(self.keyword)
        if maker is None:
            word = self._line.text[self._start :].split()[0]
            raise self._source.error_at(
                f"unknown instruction {word!r}{_nearest(self.keyword, list(_MAKERS))}",
                self._line,
                self._start,
            )
        if trigger and self.keyword in _NOT_IN_TRIGGERS:
            raise self._source.error_at(
                f"{self.keyword} cannot stand in an ONBUILD", self._line, self._start
            )
        common = {
            "line": self._line.line,
            "end_line": self._line.end_line,
            "text": self._line.text[self._start :].rstrip(),
        }
        flags, make = maker
        self._read_flags(flags)
        return make(self, common)

    def make_from(self, common: Mapping[str, Any]) -> i.From:
        words = self._words()
        if len(words) not in (1, 3) or (len(words) == 3 and words[1][0].upper() != "AS"):
            offset = words[1][1] if len(words) > 1 else None
            raise self.fail("expected `image` or `image AS name`", offset)
        name = words[2][0].lower() if len(words) == 3 else ""
        if name and not _STAGE.match(name):
            raise self.fail(
                f"{words[2][0]!r} cannot name a stage: expected a letter and then letters, digits, "
                "'-', '_', '.'",
                words[2][1],
            )
        return i.From(image=words[0][0], platform=self._flag("platform"), name=name, **common)

    def make_arg(self, common: Mapping[str, Any]) -> i.Arg:
        spans = self._spans()
        if not spans:
            raise self.fail("expected name or name=default")
        pairs: list[tuple[str, str | None]] = []
        for start, end in spans:
            name, equals, value = self._line.text[start:end].partition("=")
            if not name:
                raise self.fail("a name is missing before '='", start)
            pairs.append((name, value if equals else None))
        return i.Arg(pairs=tuple(pairs), **common)

    def make_env(self, common: Mapping[str, Any]) -> i.Env:
        return i.Env(pairs=self._pairs(legacy=True), **common)

    def make_label(self, common: Mapping[str, Any]) -> i.Label:
        return i.Label(pairs=self._pairs(legacy=True), **common)

    def make_run(self, common: Mapping[str, Any]) -> i.Run:
        mounts = []
        for value, offset in self._flags.get("mount", []):
            try:
                mounts.append(parse_mount(value))
            except ValueError as error:
                raise self.fail(f"--mount={value}: {error}", offset) from None
            line, _ = self._line.place(offset)
            self._source.warnings += [
                f"{self._source.name}:{line}: --mount: {key!r} is for labels and owners that files "
                "have on the machine; mounts here need none, so it does nothing"
                for key in ignored_keys(value)
            ]
        return i.Run(
            command=self._command(),
            heredocs=self._line.heredocs,
            mounts=tuple(mounts),
            network=self._choice("network", "default", ("default", "none", "host")),
            security=self._choice("security", "sandbox", ("sandbox", "insecure")),
            **common,
        )

    def _choice(self, name: str, default: str, choices: Sequence[str]) -> str:
        value = self._flag(name) or default
        if value not in choices:
            raise self.fail(
                f"option --{name}={value}: expected one of {', '.join(choices)}",
                self._flags[name][0][1],
            )
        return value

    def _transfer(self, common: Mapping[str, Any]) -> dict[str, Any]:
        heredocs = iter(self._line.heredocs)
        words = self._json()
        sources: list[Any] = list(words) if words is not None else []
        if words is None:
            for word, offset in self._words():
                if heredoc_name(word) is not None:
                    heredoc = next(heredocs, None)
                    if heredoc is None:
                        raise self.fail(f"{word}: its document was not found", offset)
                    sources.append(heredoc)
                else:
                    sources.append(word)
        if len(sources) < 2:
            raise self.fail(
                f"expected at least one source and a destination, found {len(sources)} of these"
            )
        destination = sources.pop()
        if not isinstance(destination, str):
            raise self.fail("a document cannot be the destination")
        return {
            "sources": tuple(sources),
            "destination": destination,
            "chown": self._flag("chown"),
            "chmod": self._flag("chmod"),
            "link": self._flag_bool("link"),
            "exclude": tuple(value for value, _ in self._flags.get("exclude", [])),
            **common,
        }

    def make_copy(self, common: Mapping[str, Any]) -> i.Copy:
        return i.Copy(
            from_=self._flag("from"), parents=self._flag_bool("parents"), **self._transfer(common)
        )

    def make_add(self, common: Mapping[str, Any]) -> i.Add:
        return i.Add(
            keep_git_dir=self._flag_bool("keep-git-dir") if "keep-git-dir" in self._flags else None,
            checksum=self._flag("checksum"),
            unpack=self._flag_bool("unpack") if "unpack" in self._flags else None,
            **self._transfer(common),
        )

    def make_cmd(self, common: Mapping[str, Any]) -> i.Cmd:
        return i.Cmd(command=self._command(), **common)

    def make_entrypoint(self, common: Mapping[str, Any]) -> i.Entrypoint:
        return i.Entrypoint(command=self._command(), **common)

    def make_shell(self, common: Mapping[str, Any]) -> i.Shell:
        words = self._json()
        if not words:
            raise self.fail('expected a JSON array: ["/bin/bash", "-c"]')
        return i.Shell(words=tuple(words), **common)

    def make_healthcheck(self, common: Mapping[str, Any]) -> i.Healthcheck:
        words = self._words()
        kind = words[0][0].upper() if words else ""
        if kind == "NONE":
            if len(words) > 1 or self._flags:
                raise self.fail("NONE takes neither arguments nor options", self._position)
            return i.Healthcheck(command=None, **common)
        if kind != "CMD":
            raise self.fail(f"expected CMD or NONE{_nearest(kind, ['CMD', 'NONE'])}")
        self._position += len(words[0][0])
        self._skip_blanks()
        retries = self._flag("retries") or "0"
        if not is_number(retries.removeprefix("+")):
            raise self.fail(
                f"option --retries={retries}: expected a number", self._flags["retries"][0][1]
            )
        return i.Healthcheck(
            command=self._command(),
            interval_ns=self._flag_duration("interval"),
            timeout_ns=self._flag_duration("timeout"),
            start_period_ns=self._flag_duration("start-period"),
            start_interval_ns=self._flag_duration("start-interval"),
            retries=int(retries),
            **common,
        )

    def make_expose(self, common: Mapping[str, Any]) -> i.Expose:
        words = tuple(word for word, _ in self._words())
        if not words:
            raise self.fail("expected a port")
        return i.Expose(ports=words, **common)

    def make_volume(self, common: Mapping[str, Any]) -> i.Volume:
        array = self._json()
        words = array if array is not None else [word for word, _ in self._words()]
        if not words or not all(word.strip() for word in words):
            raise self.fail("expected a directory")
        return i.Volume(paths=tuple(words), **common)

    def make_workdir(self, common: Mapping[str, Any]) -> i.Workdir:
        if not self._rest:
            raise self.fail("expected a directory")
        return i.Workdir(path=self._rest, **common)

    def make_user(self, common: Mapping[str, Any]) -> i.User:
        return i.User(user=self._only_word("user"), **common)

    def make_stopsignal(self, common: Mapping[str, Any]) -> i.StopSignal:
        return i.StopSignal(signal=self._only_word("signal"), **common)

    def make_maintainer(self, common: Mapping[str, Any]) -> i.Maintainer:
        if not self._rest:
            raise self.fail("expected a name")
        return i.Maintainer(author=self._rest, **common)

    def make_onbuild(self, common: Mapping[str, Any]) -> i.OnBuild:
        if not self._rest:
            raise self.fail("expected an instruction")
        trigger = self._rest
        _LineReader(self._source, self._line, self._position).instruction(trigger=True)
        for heredoc in self._line.heredocs:
            trigger += f"\n{heredoc.body}{heredoc.name}"
        return i.OnBuild(trigger=trigger, **common)


_BOOLEANS = frozenset({"link", "parents", "keep-git-dir", "unpack"})
_TRANSFER = ("chown", "chmod", "link", "exclude")
_Make = Callable[[_LineReader, Mapping[str, Any]], Instruction]
_MAKERS: dict[str, tuple[Sequence[str], _Make]] = {
    "FROM": (("platform",), _LineReader.make_from),
    "ARG": ((), _LineReader.make_arg),
    "ENV": ((), _LineReader.make_env),
    "LABEL": ((), _LineReader.make_label),
    "RUN": (("mount", "network", "security"), _LineReader.make_run),
    "COPY": (("from", "parents", *_TRANSFER), _LineReader.make_copy),
    "ADD": (("keep-git-dir", "checksum", "unpack", *_TRANSFER), _LineReader.make_add),
    "CMD": ((), _LineReader.make_cmd),
    "ENTRYPOINT": ((), _LineReader.make_entrypoint),
    "SHELL": ((), _LineReader.make_shell),
    "HEALTHCHECK": (
        ("interval", "timeout", "start-period", "start-interval", "retries"),
        _LineReader.make_healthcheck,
    ),
    "EXPOSE": ((), _LineReader.make_expose),
    "VOLUME": ((), _LineReader.make_volume),
    "WORKDIR": ((), _LineReader.make_workdir),
    "USER": ((), _LineReader.make_user),
    "STOPSIGNAL": ((), _LineReader.make_stopsignal),
    "MAINTAINER": ((), _LineReader.make_maintainer),
    "ONBUILD": ((), _LineReader.make_onbuild),
}


def _nearest(word: str, choices: Sequence[str]) -> str:
    """Return ``; did you mean …?``, or all choices, as the end of a message."""
    # Takes the square of the length, and nothing long is close.
    close = difflib.get_close_matches(word[:50], choices, 1, 0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f": expected one of {', '.join(choices)}" if choices else "; it takes none"
