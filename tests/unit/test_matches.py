"""`wait.log` counts the same matches however the output is cut into pieces."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.model.matches import LONGEST_MATCH, matches_of


def count(pattern: str | re.Pattern[str], *pieces: bytes) -> int:
    matches = matches_of(pattern)
    return [matches.feed(piece) for piece in pieces][-1]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("ready", 2),
        ("größe", 1),
        ("begin\nend", 1),
        (re.compile("^ready$"), 1),
        (re.compile(r"\bready\b"), 2),
        (re.compile("read.*"), 2),
        (re.compile("begin.*end"), 0),
        (re.compile("(?s)begin.*end"), 1),
        (re.compile(r"^begin\s*\n+end$"), 1),
        (re.compile(r"^é+ \d+$"), 1),
        (re.compile("end\\Z"), 1),
    ],
)
@given(data=st.data())
def test_pieces_do_not_change_the_count(
    pattern: str | re.Pattern[str], expected: int, data: st.DataObject
) -> None:
    output = "größe\r\nready\nis ready now\r\nbegin\r\nend\r\néé 12\r\n".encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(output) - 1), max_size=12)))
    pieces = [output[a:b] for a, b in pairwise([0, *cuts, len(output)])]
    assert count(pattern, *pieces) == expected


def test_a_match_counts_once_while_it_grows() -> None:
    assert count(re.compile("[0-9]+"), b"1", b"2", b"3") == 1
    assert count(re.compile("(?s)a.*"), b"a", b"b\n", b"c") == 1


def test_text_counts_before_its_line_ends() -> None:
    assert count("login:", b"log", b"in:") == 1
    assert count(re.compile("login:"), b"log", b"in:") == 1


def test_bytes_that_are_no_text_do_not_hide_what_follows() -> None:
    assert count("ready", b"\xff\xfe\xc3", b"ready") == 1


@pytest.mark.parametrize("pattern", ["aab", re.compile("a+b"), re.compile("(?s)aab")])
def test_a_long_line_is_searched_in_parts(pattern: str | re.Pattern[str]) -> None:
    piece = b"x" * 5000 + b"aa"
    pieces = [piece, b"b"] * 50
    assert count(pattern, *pieces) == 50


def test_what_was_searched_is_dropped() -> None:
    matches = matches_of(re.compile("^y|z$"))
    for _ in range(40):
        matches.feed(b"x" * LONGEST_MATCH)
    assert len(matches._rest) <= 2 * LONGEST_MATCH  # type: ignore[attr-defined]
    assert matches.feed(b"yz") == 1  # y is not at the begin of the line
