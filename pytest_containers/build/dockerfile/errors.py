"""What is wrong with a Dockerfile, and where."""

from __future__ import annotations

from pytest_containers.errors import BuildError

_SHOWN = 160


class DockerfileError(BuildError, ValueError):
    """A Dockerfile is not understood, or asks for what is not there.

    Attributes:
        file: Its name as it was given.
        line, column: Where, from 1.
    """


def at_line(
    message: str, file: str, line: int, column: int, text: str, *, below: str = ""
) -> DockerfileError:
    """An error with its line and a caret below the place.

    Args:
        message: What is wrong and what was expected.
        text: The line.
        below: Lines to add.
    """
    column = max(1, column)
    shown = text.rstrip("\r\n").expandtabs(1)
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
