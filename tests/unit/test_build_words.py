"""Words, variables, patterns and modes of Dockerfiles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.builder.dockerfile import expand_text, expand_word, expand_words
from pytest_containers.builder.dockerfile.expand import ExpansionError
from pytest_containers.builder.jobs.modes import parse_chmod

VARIABLES = {"x": "foo/bar/foo.txt", "e": "", "n": "1 2", "w": "*"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$x", "foo/bar/foo.txt"), ("${x}y", "foo/bar/foo.txty"), ("$xy", ""), ("a$", "a$"),
        ("${x:-w}", "foo/bar/foo.txt"), ("${e:-w}", "w"), ("${e-w}", ""), ("${u-w}", "w"),
        ("${x:+w}", "w"), ("${e:+w}", ""), ("${e+w}", "w"), ("${u+w}", ""),
        ("${x:?w}", "foo/bar/foo.txt"), ("${e?w}", ""), ("${u:-$n}", "1 2"), ("${u:-'$n'}", "$n"),
        ("${x#*/}", "bar/foo.txt"), ("${x##*/}", "foo.txt"), ("${x#bar}", "foo/bar/foo.txt"),
        ("${x%/*}", "foo/bar"), ("${x%%/*}", "foo"), ("${x%.???}", "foo/bar/foo"),
        ("${x/foo/y}", "y/bar/foo.txt"), ("${x//foo/y}", "y/bar/y.txt"), ("${x//o/}", "f/bar/f.txt"),
        ("${x/f*o/y}", "y.txt"), ("${w/\\*/y}", "y"),
        ("${x//*/y}", "y"), ("${x//f*/y}", "y"), ("${x//**/y}", "y"), ("${e//*/y}", "y"),
        ("$1", ""), ("$@", ""), ("${1}2", "2"),
        ("'$x'", "$x"), ('"$x"', "foo/bar/foo.txt"), ("\\$x", "$x"), ('"\\$x \\a"', "$x \\a"),
        ("'a'\"b\"c", "abc"), ("a\\ b", "a b"), ("", ""),
    ],
)  # fmt: skip
def test_expansion(text: str, expected: str) -> None:
    assert expand_word(text, VARIABLES) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${x:#p}", "modifier ':#'"), ("${x:=w}", "modifier ':='"), ("${x!}", "modifier '!'"),
        ("${x", "expected '}'"), ("${}", "name of a variable"), ("${u:?not here}", "u: not here"),
        ("${u?}", "u: is not set"), ("${e:?}", "e: is not set or is empty"),
        ("'a", "quote ' is not closed"), ('"a', 'quote " is not closed'),
        ("${x/a}", "expected '/'"), ("${x:-w", "expected '}'"),
    ],
)  # fmt: skip
def test_expansion_refuses(text: str, message: str) -> None:
    with pytest.raises(ExpansionError, match=message.replace("?", "\\?")):
        expand_word(text, VARIABLES)


def test_values_outside_quotes_are_split() -> None:
    assert expand_words('80 $n "$n" a${n}b', VARIABLES) == ["80", "1", "2", "1 2", "a1", "2b"]


def test_quotes_mean_nothing_in_documents() -> None:
    assert expand_text("'$e' \"${u:-y}\" it's \\$x\n", VARIABLES) == "'' \"y\" it's $x\n"


def test_another_escape_character() -> None:
    assert expand_word("a`$x\\b", VARIABLES, "`") == "a$x\\b"


@given(st.text())
def test_what_is_in_single_quotes_stays(text: str) -> None:
    clean = text.replace("'", "")
    assert expand_word(f"'{clean}'", VARIABLES) == clean


@given(st.text(), st.dictionaries(st.sampled_from("abc"), st.text()))
def test_expansion_ends(text: str, variables: dict[str, str]) -> None:
    try:
        assert isinstance(expand_word(text, variables), str)
    except ExpansionError as error:
        assert 0 <= error.offset <= len(text) + 1


# ------------------------------------------------------------------- modes


@pytest.mark.parametrize(
    ("text", "mode", "folder", "expected"),
    [
        ("755", 0o600, False, 0o755), ("0644", 0o777, True, 0o644), ("4755", 0, False, 0o4755),
        ("01777", 0, True, 0o1777), ("007777", 0, True, 0o7777),
        ("u+x", 0o644, False, 0o744), ("+x", 0o644, False, 0o755), ("a-w", 0o666, False, 0o444),
        ("u=rwX,go=rX", 0o600, False, 0o644), ("u=rwX,go=rX", 0o600, True, 0o755),
        ("go=", 0o777, False, 0o700), ("g=u", 0o640, False, 0o660), ("u+s,+t", 0o755, True, 0o5755),
        ("u+r-w", 0o200, False, 0o400),
    ],
)  # fmt: skip
def test_modes(text: str, mode: int, folder: bool, expected: int) -> None:
    change = parse_chmod(text)
    assert change is not None
    assert oct(change(mode, folder)) == oct(expected)


@pytest.mark.parametrize("text", ["9", "x", "u", "77777", "u+y", ","])
def test_bad_modes(text: str) -> None:
    with pytest.raises(ValueError, match="is not a mode"):
        parse_chmod(text)
