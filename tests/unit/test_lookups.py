"""The name server that knows no name."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.runtime.network.lookups import refusal

LABELS = st.lists(st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=63),
                  min_size=1, max_size=4)  # fmt: skip


def query(labels: list[str], number: int = 7, flags: int = 0x0100) -> bytes:
    name = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
    return struct.pack("!6H", number, flags, 1, 0, 0, 0) + name + struct.pack("!2H", 1, 1)


@given(LABELS, st.integers(0, 0xFFFF))
def test_a_question_is_answered_with_no_such_name(labels: list[str], number: int) -> None:
    name, answer = refusal(query(labels, number))
    assert name == ".".join(labels)
    assert answer[:2] == struct.pack("!H", number)
    assert answer[2:4] == b"\x81\x83"  # an answer, recursion as asked for, NXDOMAIN
    assert answer[12:] == query(labels)[12:]


@given(st.binary(max_size=600))
def test_anything_else_is_no_question(data: bytes) -> None:
    try:
        name, answer = refusal(data)
    except ValueError:
        return
    assert name.isprintable() and name
    assert answer[:2] == data[:2]


@pytest.mark.parametrize(
    "data",
    [
        b"", query([]), query(["a"])[:-1], query(["a"], flags=0x8180), query(["a"], flags=0x2000),
        query(["a"])[:12] + b"\xc0\x0c\0\1\0\1", query(["x" * 63] * 3)[:100],
    ],
)  # fmt: skip
def test_what_is_not_a_question(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        refusal(data)


def test_names_cannot_write_on_the_terminal() -> None:
    evil = struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + b"\4a\x1b[2\0\0\1\0\1"
    assert refusal(evil)[0] == "a?[2"
