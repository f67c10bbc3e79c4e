"""Commands as users give them: words, or one string that is taken apart as by a shell."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_containers.model.errors import SpecError

if TYPE_CHECKING:
    from pytest_containers.model.image import ImageConfig
    from pytest_containers.model.spec import ContainerSpec


def command_words(command: Sequence[str] | str, subject: str) -> list[str]:
    """Return the words of a command.

    Args:
        command: The command.
        subject: What it is of, for errors: ``"exec in container 'db'"``.

    Raises:
        SpecError: It cannot be taken apart, or a word is not a string.
    """
    try:
        words = shlex.split(command) if isinstance(command, str) else list(command)
    except ValueError as error:
        reason = f"{str(error)[:1].lower()}{str(error)[1:]}"
        raise SpecError(
            f"{subject}: {command!r} is no command: {reason}; close it, or pass a list of words"
        ) from None
    for word in words:
        if not isinstance(word, str):
            raise SpecError(f"{subject}: {word!r} is not a string; all words must be")
    return words


def exec_words(command: Sequence[str] | str, name: str) -> list[str]:
    """Return the words of a command for the container `name`.

    Raises:
        SpecError: As `command_words`, or there are none.
    """
    subject = f"exec in container {name!r}"
    words = command_words(command, subject)
    if not words:
        raise SpecError(f"{subject}: the command is empty; it must name a program")
    return words


def program_words(spec: ContainerSpec, image: ImageConfig) -> list[str]:
    """Return entrypoint and command of a container, combined as in Docker.

    An entrypoint in the spec drops the Cmd of the image.

    Raises:
        SpecError: Neither names a program.
    """
    entrypoint, command = list(image.entrypoint), list(image.cmd)
    if spec.entrypoint is not None:
        entrypoint, command = command_words(spec.entrypoint, "entrypoint"), []
    if spec.command is not None:
        command = command_words(spec.command, "command")
    if not entrypoint + command:
        raise SpecError(
            "no command: neither the image nor the caller names a program; pass command=[…]"
        )
    return entrypoint + command
