"""Structure from bytes: the choices that a harness makes of its input.

Both hypothesis and atheris change bytes. A few bytes of structure decide what a document is made
of, so that most changes lead to another document rather than to something that is none.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

_T = TypeVar("_T")

ODD_TEXTS = (
    "", " ", "\0", "\n", "a", "..", "/", "../..", "/etc/passwd", "\ud800", "\u0663", "%s", "9" * 5000,
    "-1", "0", "1e309", "nan", "x" * 300, "\x1b[2J", "::error::", "=", ",", ":", "@", "latest",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 1 << 31, 1 << 63, 1 << 70, -(1 << 63), 0.5, 1e308, float("nan"),
    float("inf"), [], {}, [[]], [{}], {"a": 1}, [None], [1], ["a"], {"": None}, [["a"]], 10**30,
    *ODD_TEXTS[:12],
)  # fmt: skip


class Choices:
    """Decisions read from bytes; when these are used up, the first alternative each time."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        if not self.left:
            return 0
        self._at += 1
        return self._data[self._at - 1]

    def number(self, below: int) -> int:
        value = self.byte()
        if below > 256:
            value |= self.byte() << 8
        return value % below

    def of(self, alternatives: Sequence[_T]) -> _T:
        return alternatives[self.number(len(alternatives))]

    def often(self) -> bool:
        """True, but for one in eight."""
        return self.byte() % 8 != 7

    def rarely(self) -> bool:
        return not self.often()

    def some(self, most: int, make: Callable[[], _T]) -> list[_T]:
        return [make() for _ in range(self.number(most + 1)) if self.left]

    def raw(self, most: int) -> bytes:
        size = self.number(most + 1)
        data = self._data[self._at : self._at + size]
        self._at += size
        return data

    def rest(self) -> bytes:
        data = self._data[self._at :]
        self._at = len(self._data)
        return data

    def text(self, *words: str) -> str:
        """One of `words`, something odd, or any text."""
        kind = self.byte() % 8
        if words and kind < 5:
            return self.of(words)
        if kind < 7:
            return self.of(ODD_TEXTS)
        return self.raw(40).decode("utf-8", "surrogateescape")

    def value(self) -> Any:
        return copy.deepcopy(self.of(ODD_VALUES))


def mutated(choices: Choices, document: Any) -> Any:
    """Change a document of JSON in some places; sometimes in none."""
    document = json.loads(json.dumps(document))
    for _ in range(choices.number(4)):
        document = _changed(choices, document)
    return document


def _changed(choices: Choices, node: Any) -> Any:
    if isinstance(node, dict) and node and choices.often():
        key = choices.of(list(node))
        kind = choices.byte() % 8
        if kind == 7:
            del node[key]
        elif kind == 6:
            node[choices.text(*node)] = copy.deepcopy(node[key])
        else:
            node[key] = _changed(choices, node[key])
        return node
    if isinstance(node, list) and node and choices.often():
        place = choices.number(len(node))
        kind = choices.byte() % 8
        if kind == 7:
            del node[place]
        elif kind == 6:
            node += copy.deepcopy(node)
        else:
            node[place] = _changed(choices, node[place])
        return node
    return choices.text() if choices.rarely() else choices.value()
