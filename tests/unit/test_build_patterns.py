"""Patterns of ``.dockerignore``, ``--exclude`` and COPY: which paths they mean, as Docker does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.builder.dockerfile.globs import PatternError, name_regex, path_matcher
from pytest_containers.builder.dockerfile.ignore import Patterns, ignore_file


@pytest.mark.parametrize(
    ("lines", "left_out", "kept"),
    [
        (["*.md"], ["a.md"], ["b/a.md", "a.mdx"]),
        (["**/*.md"], ["a.md", "b/a.md", "b/c/a.md"], ["a.txt"]),
        (["*.md", "!a.md"], ["b.md"], ["a.md"]),
        (["!a.md", "*.md"], ["a.md"], []),
        (["build"], ["build", "build/a/b"], ["a/build", "builds"]),
        (["/build/"], ["build/a"], ["a/build"]),
        (["a/*/c"], ["a/b/c", "a/b/c/d"], ["a/c", "a/b/d/c"]),
        (["a/**"], ["a/b", "a/b/c"], ["a"]),
        (["a", "!a/b"], ["a", "a/c"], ["a/b", "a/b/c"]),
        (["**", "!src"], ["a", "b/c"], ["src", "src/a"]),
        (["?.txt", "[ab].c"], ["a.txt", "a.c"], ["ab.txt", "c.c"]),
        (["[[]a].c", "[x&&y~~z]"], ["[a].c", "&", "~", "x"], ["a.c", "e"]),
        (["a\\*"], ["a*"], ["ab"]),
        (["# no comment here"], [], ["a"]),
        (["", "  ", "./x"], ["x"], ["y"]),
    ],
)
def test_ignoring(lines: list[str], left_out: list[str], kept: list[str]) -> None:
    patterns = ignore_file("\n".join(lines).encode())
    assert [path for path in left_out if not patterns.excludes_path(path)] == []
    assert [path for path in kept if patterns.excludes_path(path)] == []


def test_an_excluded_directory_is_not_looked_into_for_nothing() -> None:
    patterns = Patterns(["node_modules", "build", "!build/keep"])
    assert not patterns.may_include_below("node_modules")
    assert patterns.may_include_below("build")
    assert not patterns.may_include_below("build/other")
    assert Patterns(["a", "!**/b"]).may_include_below("a")


def test_bad_patterns_name_their_line() -> None:
    with pytest.raises(ValueError, match="2: the pattern '\\[a' is not understood"):
        ignore_file(b"ok\n[a\n")
    with pytest.raises(ValueError, match="1: '!' has no pattern"):
        ignore_file(b"!\n")


def test_only_a_newline_ends_a_pattern() -> None:
    patterns = ignore_file("a\fb\r\n# c\u2028d\r\n\r\ne\u2028f\r\n!g\x85h".encode())
    for path in ("a\fb", "e\u2028f"):
        assert patterns.excludes_path(path)
    for path in ("a", "b", "d", "e", "f", "h"):
        assert not patterns.excludes_path(path)
    with pytest.raises(ValueError, match="2: '!' has no pattern"):
        ignore_file(b"a\x0cb\r\n!\r\n")


@given(st.text(alphabet="ab*?/.", max_size=8), st.text(alphabet="ab/.", max_size=8))
def test_a_pattern_without_wildcards_is_its_own_path(pattern: str, path: str) -> None:
    if not set("*?") & set(pattern):
        assert (name_regex(pattern).fullmatch(path) is not None) == (pattern == path)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        # ** at the beginning is any beginning, at the end any end.
        ("**.pyc", ["a.pyc", "x/y/a.pyc", ".pyc"], ["a.pyc.bak", "x/pyc"]),
        ("**~", ["a~", "x/a~", "~"], ["a~b"]),
        ("**/a", ["a", "x/a", "x/y/a"], ["xa", "x/ya", "a/b"]),
        ("**/a/b", ["a/b", "x/a/b"], ["xa/b", "a/x/b"]),
        ("**", ["a", "a/b"], []),
        ("a**", ["a", "ab", "a/b", "ab/c/d"], ["b", "x/a"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "ab"]),
        ("**/**", ["a", "a/b"], []),
        ("**/a*", ["a", "ab", "x/ab"], ["x/ba", "a/b"]),
        ("**a*", ["ab", "x/ab"], ["xab", "x/yab"]),
        ("**/a**", ["a", "ab/c", "x/ab"], ["b"]),
        # In the middle it ends with a slash, or is nothing.
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb"]),
        ("a**b", ["ab", "a/b", "axx/y/b"], ["axb"]),
        ("a**/b", ["ab", "a/b", "ax/b"], ["b", "axb"]),
        ("***", ["a", "a/b"], []),
        # Within a name.
        ("*", ["a", ".a"], ["a/b"]),
        ("a?c", ["abc", "a\u263ac"], ["ac", "a/c", "abbc"]),
        ("a*/b", ["a/b", "ax/b"], ["a/x/b"]),
        ("a.+()|{}$c", ["a.+()|{}$c"], ["ax+()|{}$c"]),
        ("*.+()|{}$", ["x.+()|{}$"], ["xx+()|{}$"]),
        # Classes.
        ("[a-c]x", ["ax", "cx"], ["dx", "x", "-x"]),
        ("[^a-c]x", ["dx", "/x"], ["ax", "x"]),
        ("[!a]x", ["!x", "ax"], ["bx"]),
        (r"[\]a]x", ["]x", "ax"], ["bx"]),
        (r"[\-a]x", ["-x", "ax"], ["bx"]),
        (r"[a\-c]x", ["ax", "-x", "cx"], ["bx"]),
        ("[\u03b1-\u03c9]", ["\u03b2"], ["b"]),
        ("[.+$]x", [".x", "+x", "$x"], ["\\x", "ax"]),
        ("[&~|]x", ["&x", "~x"], ["ax"]),
        ("[[]x", ["[x"], ["x"]),
        ("x]*", ["x]", "x]y"], ["x"]),
        # A wildcard in brackets becomes an expression, whose own bracket ends them.
        ("[*]x", ["]x", "^]x", "[/^]x"], ["*x", "x"]),
        ("[a?]x", ["a]x", "/]x"], ["?x", "ax"]),
        # RE2 knows names of letters.
        ("[[:digit:]]x", ["1x"], ["dx", ":]x"]),
        ("[[:^digit:]]x", ["dx", "\u00e9x"], ["1x"]),
        (r"[\d_]x", ["1x", "_x"], ["dx"]),
        (r"[\D]x", ["dx"], ["1x"]),
        # Escapes.
        (r"a\*b", ["a*b"], ["axb", r"a\*b"]),
        (r"a\?", ["a?"], ["ab"]),
        (r"\[a]", ["[a]"], ["a"]),
        (r"a\\b", ["a\\b"], ["ab"]),
        (r"\d\w\s", ["1a ", "2_ "], ["dws"]),
        (r"\D", ["a", "\u00e9"], ["1"]),
        (r"a\b*", ["a", "a.b"], ["ab"]),
        (r"a\Bb*", ["ab"], ["a.b"]),
        (r"a\t*", ["a\tb"], ["atb"]),
        (r"\Aa\z", ["a"], ["Aaz"]),
        (r"\!a", ["!a"], ["a"]),
        # ^ is a letter, until a wildcard makes an expression of it.
        ("a^b", ["a^b"], []),
        ("^a*", ["ab"], ["^ab"]),
        ("a^b*", [], ["a^b", "ab"]),
        ("**^a", ["^a", "x/^a", "x^a"], ["a"]),
        ("**x]", ["x]", "a/x]"], ["ax]"]),
        ("a\nb*", ["a\nb"], ["ab"]),
        ("**/*", ["a", "x/a"], []),
    ],
)  # fmt: skip
def test_what_a_pattern_matches(pattern: str, matching: list[str], others: list[str]) -> None:
    matches = path_matcher(pattern)
    assert [path for path in matching if not matches(path)] == []
    assert [path for path in others if matches(path)] == []


@pytest.mark.parametrize(
    ("pattern", "cause"),
    [
        ("[", "not closed"), ("[a", "not closed"), ("[^", "not closed"), ("[^a", "not closed"),
        ("a[", "not closed"), ("*[a", "not closed"), ("[a-", "not closed"), ("[\\]", "not closed"),
        ("[]", "']' in brackets"), ("[]a]", "']' in brackets"), ("[^]a]", "']' in brackets"),
        ("[-]", "'-' in brackets"), ("[-a]", "'-' in brackets"), ("[a-]", "']' in brackets"),
        ("[a-b-c]", "'-' in brackets"), ("a\\", "ends with a backslash"),
        ("[a\\", "ends with a backslash"),
    ],
)  # fmt: skip
def test_patterns_that_no_matcher_takes(pattern: str, cause: str) -> None:
    for reader in (name_regex, path_matcher):
        with pytest.raises(PatternError, match=cause):
            reader(pattern)


@pytest.mark.parametrize(
    ("pattern", "cause"),
    [
        ("[c-a]", "the range c-a is the wrong way round"),
        ("[[:letters:]]", "no letters called"),
        (r"\e", "a backslash before 'e' means nothing"),
        (r"a\1", "a backslash before '1' means nothing"),
        ("\\\u00e9", "a backslash before '\u00e9' means nothing"),
        (r"[\q]", "a backslash before 'q' means nothing"),
    ],
)
def test_patterns_that_are_no_expression_of_re2(pattern: str, cause: str) -> None:
    with pytest.raises(PatternError, match=cause):
        path_matcher(pattern)
    name_regex(pattern)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*.c", ["a.c", ".c", "a\nb.c"], ["a.h"]),
        ("**", ["a", "abc"], []),
        ("[a-c]?", ["ax", "c]"], ["dx", "a"]),
        ("[^a]", ["b", "^", "\n"], ["a", ""]),
        ("[*]", ["*"], ["a"]),
        ("[?]", ["?"], ["a"]),
        ("[[:digit:]]", ["d]", ":]", "[]"], ["1", "1]"]),
        (r"\d", ["d"], ["1"]),
        (r"\*", ["*"], ["a"]),
        (r"[\d]", ["d"], ["1"]),
        (r"[\]]", ["]"], ["\\"]),
        ("[c-a]", [], ["a", "b", "c"]),
        ("[^c-a]", ["a", "b"], []),
        ("[c-ax]", ["x"], ["a", "b", "c"]),
        ("^a", ["^a"], ["a"]),
        ("a.", ["a."], ["ab"]),
    ],
)
def test_what_a_source_of_copy_matches(
    pattern: str, matching: list[str], others: list[str]
) -> None:
    regex = name_regex(pattern)
    assert [name for name in matching if not regex.fullmatch(name)] == []
    assert [name for name in others if regex.fullmatch(name)] == []


@pytest.mark.parametrize(
    ("lines", "left_out", "kept"),
    [
        ("**.pyc\n**~", ["a.pyc", "x/b.pyc", "a~", "x/a~/b"], ["pyc"]),
        ("a\n!a/b\na", ["a/b", "a/c"], []),  # the last that matches decides
        ("a/*\n!a/b", ["a/c", "a/c/d"], ["a", "a/b", "a/b/c"]),
        ("*\n!*.md\nR*.md", ["a.txt", "R.md", "d/R.md"], ["a.md"]),
        ("!a\na", ["a"], ["b"]),
        (" a \n\t!a/b\t", ["a", "a/c"], ["a/b"]),
        ("! a\n*", ["a"], []),
        ("*\n! a", ["b"], ["a"]),
        ("!!a\n**\n!!a", ["a"], ["!a"]),
        ("a//b\n./c\nd/.\ne/../f\n/g\n//h\n", ["a/b", "c", "d", "f", "g", "h"], ["e", "a"]),
        ("../a\n.\n/\n..", [], ["a", "b/a"]),
        (" #a\n#b", ["#a"], ["#b", "b"]),
        ("\ufeffa\n\ufeffb", ["a", "\ufeffb"], ["b"]),
        ("a\r\nb \r\n", ["a", "b"], []),
        ("\u00a0a\u3000\n\x1fb", ["a", "\x1fb"], ["b"]),
        ("a/", ["a", "a/b"], ["b/a"]),
        ("**/node_modules", ["node_modules/x", "a/b/node_modules/c/d"], ["node_modules2"]),
    ],
)
def test_what_an_ignore_file_leaves_out(lines: str, left_out: list[str], kept: list[str]) -> None:
    patterns = ignore_file(lines.encode())
    assert [path for path in left_out if not patterns.excludes_path(path)] == []
    assert [path for path in kept if patterns.excludes_path(path)] == []


@given(st.text(alphabet="ab*?[]^-\\/.d:!", max_size=10), st.text(alphabet="ab/.d[]*", max_size=6))
def test_every_pattern_is_understood_or_refused(pattern: str, path: str) -> None:
    try:
        name_regex(pattern).fullmatch(path)
        path_matcher(pattern)(path)
    except PatternError as error:
        assert str(error)


@given(st.lists(st.text(alphabet="ab*/!?", max_size=6)), st.text(alphabet="ab/", max_size=6))
def test_what_is_below_an_excluded_directory_is_looked_for(lines: list[str], path: str) -> None:
    """No directory is passed over in which something was included again."""
    try:
        patterns = Patterns(lines)
    except ValueError:
        return
    parts = path.split("/")
    if "" in parts or patterns.excludes_path(path):
        return
    for end in range(1, len(parts)):
        folder = "/".join(parts[:end])
        assert not patterns.excludes_path(folder) or patterns.may_include_below(folder)
