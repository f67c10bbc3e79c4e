"""Where a fixture is declared: pytest shows this place in tracebacks, ``--fixtures`` and errors.

This module hides no frames from tracebacks: the one frame that `declared_at` adds stands for the
declaration.
"""

from __future__ import annotations

import inspect
import linecache
import os
import re
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NamedTuple

declared_names: set[str] = set()
"""The names of the fixtures that this process has declared, for hints."""


class Declaration(NamedTuple):
    """The place of a declaration.

    Attributes:
        path: The file, as its code names it.
        line: The line in it.
        module: The name of its module.
        assigned: The variable that the line assigns, if it does.
    """

    path: str
    line: int
    module: str
    assigned: str | None = None

    def __str__(self) -> str:
        return f"{os.path.abspath(self.path)}:{self.line}"


def declaration_of(frame: FrameType) -> Declaration:
    """Return the place that a frame is at, ``db = Postgres.fixture()`` in a conftest.py."""
    path, number = frame.f_code.co_filename, frame.f_lineno
    assignment = re.match(r"\s*(\w+)\s*(?::[^=]*)?=(?!=)", linecache.getline(path, number))
    module = frame.f_globals.get("__name__", "")
    return Declaration(path, number, module, assignment.group(1) if assignment else None)


def declared_at(
    place: Declaration, produce: Callable[..., Iterator[Any]], name: str | None = None
) -> Any:
    """Return a generator function like `produce` whose code is at the place of a declaration.

    A traceback shows the line there, rather than one of this package.

    Args:
        name: The name of the fixture; None is the assigned variable.
    """
    signature = inspect.signature(produce)
    function = _forwarding(produce, plain=list(signature.parameters) == ["request"])
    name = name or place.assigned or produce.__name__
    code = function.__code__
    function.__code__ = code.replace(
        co_filename=place.path,
        co_firstlineno=place.line,
        co_name=name,
        co_linetable=_first_line(len(code.co_code)),
    )
    function.__name__ = function.__qualname__ = name
    function.__module__ = place.module
    function.__signature__ = signature
    declared_names.add(name)
    return function


def _forwarding(produce: Callable[..., Iterator[Any]], *, plain: bool) -> Any:
    if plain:  # as a report shows it: with the arguments that other fixtures have
        return lambda request: (yield from produce(request))
    return lambda *args, **kwargs: (yield from produce(*args, **kwargs))


def _first_line(code_bytes: int) -> bytes:
    """Return a location table with all code on the first line and in no column.

    An entry stands for up to 8 units of two bytes: 0x80, the kind of the entry (13: no columns) and
    the number of units less one, then the difference of lines (Objects/locations.md of CPython).
    """
    whole, rest = divmod(code_bytes // 2, 8)
    entry = 0x80 | 13 << 3
    return bytes([entry | 7, 0] * whole + ([entry | rest - 1, 0] if rest else []))
