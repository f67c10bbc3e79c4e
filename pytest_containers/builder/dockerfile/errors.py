"""What is wrong with a Dockerfile, and where."""

from __future__ import annotations

from pytest_containers.model.errors import BuildError

_SHOWN = 160
_MOST = 600


class DockerfileError(BuildError, ValueError):
    """A Dockerfile is not understood, or asks for what is not there.

    Attributes:
        file: Its name as it was given.
        line: Where, from 1.
        column: Where in the line, from 1.
    """

    file: str | None = None
    line: int | None = None
    column: int | None = None


DockerfileError.__module__ = "pytest_containers"  # as users import it


def at_line(
    message: str, file: str, line: int, column: int, source_line: str, *, below: str = ""
) -> DockerfileError:
    """Return an error that shows the line, and a caret below the place.

    Args:
        message: What is wrong and what was expected.
        source_line: The line as it is in the file.
        below: Lines to add.
    """
    column = max(1, column)
    if len(message) > _MOST:  # a word of the line may be of any length
        message = f"{message[: _MOST // 2]} … {message[-_MOST // 2 :]}"
    shown = "".join(
        letter if letter.isprintable() else " " if letter == "\t" else "\N{REPLACEMENT CHARACTER}"
        for letter in source_line.rstrip("\r\n")
    )
    caret = column
    if len(shown) > _SHOWN:
        start = max(0, min(column - _SHOWN // 2, len(shown) - _SHOWN))
        shown, caret = shown[start : start + _SHOWN], column - start
    margin = " " * len(str(line))
    picture = f"  {line} | {shown}\n  {margin} | {' ' * (caret - 1)}^"
    tail = f"\n{below}" if below else ""
    return DockerfileError(
        f"{file}:{line}:{column}: {message}\n{picture}{tail}", file=file, line=line, column=column
    )
