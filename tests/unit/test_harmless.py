"""Output of containers holds no command for terminals and CI services."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pytest_containers as pc
from pytest_containers.builder.progress import Progress
from pytest_containers.model.build import BuildDisplay
from pytest_containers.model.harmless import MOST_LINE_CHARACTERS, harmless, whole_lines
from pytest_containers.plugin import live_logs


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("plain\ttext: a::b ## c\nnext", "plain\ttext: a::b ## c\nnext"),
        ("::error file=a::b", ": :error file=a::b"),
        ("  ::stop-commands::x", "  : :stop-commands::x"),
        ("first\n::warning::x", "first\n: :warning::x"),
        ("x ##vso[task.setvariable]y", "x # #vso[task.setvariable]y"),
        ("##[group]x", "# #[group]x"),
        ("##teamcity[x]", "# #teamcity[x]"),
        ("section_start:1:a[collapsed=true]\r\x1b[0K", "section_ start:1:a[collapsed=true]\\r\\x1b[0K"),
        ("\x1b]0;title\x07\x9b31m", "\\x1b]0;title\\x07\\x9b31m"),
        ("a\u202eb\u2028c", "a\\u202eb\\u2028c"),
    ],
)  # fmt: skip
def test_commands_become_text(output: str, expected: str) -> None:
    assert harmless(output) == expected


@given(st.text())
def test_any_output_has_no_control_characters_and_no_commands(output: str) -> None:
    shown = harmless(output)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
    assert not re.search(r"^\s*::|##(vso|teamcity)?\[|section_(start|end):", shown, re.MULTILINE)
    assert harmless(shown) == shown


@pytest.mark.parametrize("escape", ["\x1b]0;title\x07", "\u202e", "\udcff", "\x9b31m"])
def test_messages_of_errors_are_harmless(escape: str) -> None:
    error = pc.ImageError(f"pull of {escape}\n::error::x", path=escape)
    assert str(error) == f"pull of {escape.encode('unicode_escape').decode()}\n: :error::x"
    assert error.args == (str(error),)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.path) == (str(error), escape)


def test_lines_without_end_are_shown_in_parts() -> None:
    assert whole_lines("a\nb\nc") == (["a", "b"], "c")
    lines, rest = whole_lines("a\n" + "x" * 25, 10)
    assert (lines, rest) == (["a", "x" * 10, "x" * 10], "x" * 5)


class _Written(BuildDisplay):
    def __init__(self) -> None:
        self.brief = False
        self.text = ""

    def write(self, lines: str) -> None:
        self.text += lines


def test_programs_of_a_build_do_not_command_the_terminal() -> None:
    written = _Written()
    step = Progress(written).step("RUN x \x1b[2J")
    step.write(b"\x1b]0;title\x07##vso[x]\n")
    assert "\x1b" not in written.text
    assert "# #vso[x]" in written.text


def test_a_line_of_a_build_without_end_takes_no_memory_and_hides_secrets() -> None:
    written = _Written()
    step = Progress(written).step("RUN")
    secret = b"a secret of a build"
    step.hide([secret])
    # It comes at each offset to where the line is cut.
    for _ in range(400):
        step.write(b"x" * 997)
        step.write(secret[:7])
        step.write(secret[7:])
    assert len(step._rest) <= MOST_LINE_CHARACTERS
    step.done()
    assert secret.decode() not in written.text.replace("\n", "")
    shown = "".join(re.sub(r"(?m)^#1 [\d.]+ ", "", written.text).splitlines())
    assert shown.count("***") == 400


def test_live_logs_of_a_line_without_end() -> None:
    shown: list[str] = []
    longest = 0

    class Flood:
        name = "flood"

        def follow(self) -> Iterator[tuple[float, int, bytes]]:
            nonlocal longest
            for number in range(64):
                yield 0.0, 1, b"x" * (1 << 16)
                longest = max(longest, (number + 1 << 16) - sum(map(len, shown)))

    live_logs._follow(Flood(), shown.append)  # type: ignore[arg-type]
    assert sum(text.count("x") for text in shown) == 64 << 16
    assert longest <= 2 << 16
