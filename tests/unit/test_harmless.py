"""Output of containers holds no command for terminals and CI services."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.model.harmless import harmless


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
