"""Where in a Dockerfile a word stands that could not be expanded."""

from __future__ import annotations

import re

from pytest_containers.builder.dockerfile import instructions as i
from pytest_containers.builder.dockerfile.errors import DockerfileError
from pytest_containers.builder.dockerfile.expand import ExpansionError
from pytest_containers.builder.dockerfile.instructions import Dockerfile, Instruction
from pytest_containers.builder.dockerfile.source import Heredoc, Line, Source


def expansion_error(
    dockerfile: Dockerfile, where: Instruction, error: ExpansionError
) -> DockerfileError:
    """Return the error at the place of its word, also on a continued line or in a document.

    Args:
        where: An instruction of the Dockerfile. If the word is not written in it, as that of an
            image's ONBUILD, it is itself the place.
    """
    message = f"{where.KEYWORD}: {error}"
    # Instructions keep no places of their words: errors are rare, and reading again is quick.
    source = Source(dockerfile.content, dockerfile.name)
    for heredoc in where.sources if isinstance(where, i.Transfer) else ():
        if isinstance(heredoc, Heredoc) and heredoc.content == error.content:
            return source.error(message, *_in_document(source, heredoc, error.offset))
    line = next(candidate for candidate in source.lines() if candidate.line == where.line)
    return source.error_at(message, line, _in_line(line, error))


def _in_document(source: Source, heredoc: Heredoc, offset: int) -> tuple[int, int]:
    before = heredoc.content[:offset]
    line = heredoc.line + before.count("\n")
    column = offset - before.rfind("\n")
    if heredoc.chomp:
        raw = source.physical[line - 1]
        column += len(raw) - len(raw.lstrip("\t"))
    return line, column


def _in_line(line: Line, error: ExpansionError) -> int:
    word = re.escape(error.content)
    # The same letters may stand in single quotes before: rather take what begins a word or value.
    match = re.search(rf"(?<![^\s=,\[\"]){word}", line.text) or re.search(word, line.text)
    if match is None:
        return len(line.text) - len(line.text.lstrip())
    return match.start() + error.offset
