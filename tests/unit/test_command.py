"""Commands: words, or a string that is taken apart."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pytest_containers as pc
from pytest_containers.model.command import command_words, exec_words, program_words
from pytest_containers.model.image import ImageConfig


@given(st.lists(st.text()))
def test_a_string_has_the_words_that_it_was_joined_from(words: list[str]) -> None:
    assert command_words(shlex.join(words), "command") == command_words(words, "command") == words


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("echo 'x", r"exec in container 'db': \"echo 'x\" is no command: no closing quotation; .*list"),
        ("echo \\", "no escaped character; close it, or pass a list of words"),
        (["a", 1], "exec in container 'db': 1 is not a string; all words must be"),
        ([], "exec in container 'db': the command is empty; it must name a program"),
        ("", "the command is empty"),
    ],
)  # fmt: skip
def test_what_is_no_command(command: list[str] | str, message: str) -> None:
    with pytest.raises(pc.SpecError, match=message):
        exec_words(command, "db")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, ["entry", "cmd"]),
        ({"command": "a b"}, ["entry", "a", "b"]),
        ({"entrypoint": ["e"]}, ["e"]),
        ({"entrypoint": "e f", "command": ["a"]}, ["e", "f", "a"]),
        ({"entrypoint": [], "command": ["a"]}, ["a"]),
    ],
)
def test_entrypoint_and_command_are_combined_as_in_docker(
    spec: dict[str, list[str] | str], words: list[str]
) -> None:
    image = ImageConfig(entrypoint=("entry",), cmd=("cmd",))
    assert program_words(pc.ContainerSpec("image", **spec), image) == words  # type: ignore[arg-type]
    with pytest.raises(pc.SpecError, match="neither the image nor the caller names a program"):
        program_words(pc.ContainerSpec("image"), ImageConfig())
