"""What data and functions are, by value, as a digest: equal in two runs exactly when they are.

Values are taken apart as `pickle` would take them apart, and functions into their bytecode, so that
neither where they are in memory nor where they are in a file counts. What cannot be known so (a
lock, an open file, an iterator half through) is equal to itself only, and in this process only.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import os
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import PurePath
from typing import Any

from pytest_containers.errors import hide_frames

__tracebackhide__ = hide_frames

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
_BUILTINS = (types.BuiltinFunctionType, types.MethodWrapperType, types.WrapperDescriptorType,
             types.MethodDescriptorType, types.ClassMethodDescriptorType)  # fmt: skip
_MADE_BY_CLASS = (
    "__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__firstlineno__",
    "__static_attributes__", "__abstractmethods__", "_abc_impl",
)  # fmt: skip

_tokens: dict[int, tuple[object, str]] = {}
"""By id, what is equal to itself only; kept alive, since ids of the dead are given again."""


class Known:
    """The digest of one value.

    Attributes:
        digest: Hex digits.
        unknown: Types of what could not be known by value: then no other process has this digest.
    """

    def __init__(self, value: object) -> None:
        self.unknown: set[str] = set()
        self._open: dict[int, int] = {}
        self._done: dict[int, tuple[object, str]] = {}
        self.digest: str
        try:
            self.digest = self._of(value)
        except RecursionError:
            self.digest = self._unknown(value)

    def _of(self, value: object) -> str:
        """A digest with the value's kind in it, so that 1 is not True and a list no tuple."""
        if id(value) in self._open:  # it contains itself: how far up that is
            return f"up {len(self._open) - self._open[id(value)]}"
        if type(value) in _PLAIN:
            return _digest([type(value).__name__, repr(value)])
        if id(value) in self._done:
            return self._done[id(value)][1]
        self._open[id(value)] = len(self._open)
        try:
            found = _digest([_name(type(value)), *self._parts(value)])
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 - whatever a __reduce__ or property of the user's raises
            found = self._unknown(value)
        finally:
            del self._open[id(value)]
        self._done[id(value)] = (value, found)  # with the value, whose id is given again else
        return found

    def _unknown(self, value: object) -> str:
        self.unknown.add(_name(type(value)))
        if id(value) not in _tokens:
            _tokens[id(value)] = (value, os.urandom(16).hex())
        return _tokens[id(value)][1]

    def _parts(self, value: Any) -> Iterator[str]:
        kind = type(value)
        if kind in (list, tuple):
            yield from map(self._of, value)
        elif kind in (set, frozenset):
            yield from sorted(map(self._of, value))
        elif kind in (dict, types.MappingProxyType):
            yield from sorted(self._of(key) + self._of(one) for key, one in value.items())
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, types.CodeType):
            yield from self._code(value)
        elif isinstance(value, types.MethodType):
            yield self._of(value.__func__)
            yield self._of(value.__self__)
        elif isinstance(value, functools.partial):
            yield from map(self._of, (value.func, value.args, value.keywords, vars(value)))
        elif isinstance(value, _BUILTINS):
            owner = getattr(value, "__self__", None)
            yield f"{getattr(value, '__module__', '')}.{value.__qualname__}"
            if owner is not None and not isinstance(owner, types.ModuleType):
                yield self._of(owner)
        elif isinstance(value, types.ModuleType):
            yield value.__name__
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, Enum):
            yield value.name
            yield self._of(value.value)
            yield self._of(kind)
        elif isinstance(value, PurePath):
            yield str(value)
        elif isinstance(value, (property, classmethod, staticmethod, functools.cached_property)):
            yield from map(self._of, _functions_in(value))
        else:
            yield self._of(kind)
            yield from self._taken_apart(value)

    def _function(self, function: types.FunctionType) -> Iterator[str]:
        yield f"{function.__module__}.{function.__qualname__}"
        yield self._of(function.__code__)
        yield self._of(function.__defaults__)
        yield self._of(function.__kwdefaults__)
        yield self._of(vars(function))
        for cell in function.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # not assigned yet
                yield "empty"
            else:
                yield self._of(content)

    def _code(self, code: types.CodeType) -> Iterator[str]:
        """Without lines and file: a comment above it changes nothing."""
        yield code.co_code.hex()
        yield code.co_name
        yield from map(self._of, code.co_consts)
        yield repr((code.co_names, code.co_varnames, code.co_cellvars, code.co_freevars))
        yield repr((code.co_flags, code.co_argcount, code.co_posonlyargcount))
        yield repr((code.co_kwonlyargcount, code.co_exceptiontable))

    def _class(self, kind: type) -> Iterator[str]:
        """By its name where it has one: the file it is in counts by itself, as all modules do."""
        yield _name(kind)
        if _found(kind.__module__, kind.__qualname__) is kind:
            return
        yield from map(self._of, kind.__bases__)
        facts = {name: one for name, one in vars(kind).items() if name not in _MADE_BY_CLASS}
        slots = {name for name, one in facts.items() if isinstance(one, types.MemberDescriptorType)}
        yield self._of({name: one for name, one in facts.items() if name not in slots})
        yield self._of(slots)

    def _taken_apart(self, value: Any) -> Iterator[str]:
        if hasattr(type(value), "__next__"):  # to look at one may change it, and to use it does
            raise TypeError("an iterator is no data")
        reduce: Callable[[Any], Any] | None = copyreg.dispatch_table.get(type(value))
        reduced = reduce(value) if reduce is not None else value.__reduce_ex__(4)
        if isinstance(reduced, str):  # the name of a global, it says; of a local cache too
            module = getattr(value, "__module__", "")
            yield f"{module}.{reduced}"
            if _found(module, reduced) is not value:
                yield self._of(value.__wrapped__)
            return
        maker, arguments, *rest = reduced
        yield self._of(maker)
        yield self._of(tuple(arguments))
        state, items, pairs = [*rest, None, None, None][:3]
        yield self._of(state)
        yield from map(self._of, items or ())
        yield from self._pairs(pairs or ())

    def _pairs(self, pairs: Iterable[tuple[object, object]]) -> Iterator[str]:
        for key, one in pairs:
            yield self._of(key) + self._of(one)


def _functions_in(value: Any) -> Iterator[object]:
    for name in ("fget", "fset", "fdel", "__func__", "func"):
        yield getattr(value, name, None)


def _found(module: str, names: str) -> object:
    found: object = sys.modules.get(module)
    for name in names.split("."):
        found = getattr(found, name, None)
    return found


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _digest(parts: Iterable[str]) -> str:
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hasher.update(b"%d:" % len(data) + data)
    return hasher.hexdigest()
