"""Digests of data and functions by value, equal in two runs if the values are equal.

Values are decomposed as for `pickle`, and functions into their bytecode, so that positions in
memory or in a file do not count. An opaque value (a lock, an open file, a used iterator) is equal
to itself only, within this process.
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

from pytest_containers.model.errors import hide_frames

__tracebackhide__ = hide_frames

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
_BUILTINS = (types.BuiltinFunctionType, types.MethodWrapperType, types.WrapperDescriptorType,
             types.MethodDescriptorType, types.ClassMethodDescriptorType)  # fmt: skip
_MADE_BY_CLASS = (
    "__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__firstlineno__",
    "__static_attributes__", "__abstractmethods__", "_abc_impl",
)  # fmt: skip

_tokens: dict[int, tuple[object, str]] = {}
"""Opaque values by id, with random digests; kept alive, since ids of freed objects are reused."""


class ValueDigest:
    """The digest of a value.

    Attributes:
        digest: Hexadecimal digits.
        opaque: The types of opaque parts; if there are any, no other process has this digest.
    """

    def __init__(self, value: object) -> None:
        self.opaque: set[str] = set()
        self._open: dict[int, int] = {}
        self._done: dict[int, tuple[object, str]] = {}
        self.digest: str
        try:
            self.digest = self._of(value)
        except RecursionError:
            self.digest = self._opaque_digest(value)

    def _of(self, value: object) -> str:
        """Return a digest that includes the type, so that 1 differs from True."""
        if id(value) in self._open:  # the value contains itself, this number of levels up
            return f"up {len(self._open) - self._open[id(value)]}"
        if type(value) in _PLAIN:
            return _digest([type(value).__name__, repr(value)])
        if id(value) in self._done:
            return self._done[id(value)][1]
        self._open[id(value)] = len(self._open)
        try:
            digest = _digest([_name(type(value)), *self._parts(value)])
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 - a __reduce__ or property of the user may raise anything
            digest = self._opaque_digest(value)
        finally:
            del self._open[id(value)]
        self._done[id(value)] = (value, digest)  # keeps the value alive, so that its id is unique
        return digest

    def _opaque_digest(self, value: object) -> str:
        self.opaque.add(_name(type(value)))
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
            yield from sorted(self._of(key) + self._of(item) for key, item in value.items())
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
        """Iterate over the parts of a code object, without line numbers and file name."""
        yield code.co_code.hex()
        yield code.co_name
        yield from map(self._of, code.co_consts)
        yield repr((code.co_names, code.co_varnames, code.co_cellvars, code.co_freevars))
        yield repr((code.co_flags, code.co_argcount, code.co_posonlyargcount))
        yield repr((code.co_kwonlyargcount, code.co_exceptiontable))

    def _class(self, kind: type) -> Iterator[str]:
        """Iterate over the parts of a class; a global class has only its name.

        The module of a global class is an input by itself.
        """
        yield _name(kind)
        if _global(kind.__module__, kind.__qualname__) is kind:
            return
        yield from map(self._of, kind.__bases__)
        members = {name: item for name, item in vars(kind).items() if name not in _MADE_BY_CLASS}
        slots = {
            name for name, item in members.items() if isinstance(item, types.MemberDescriptorType)
        }
        yield self._of({name: item for name, item in members.items() if name not in slots})
        yield self._of(slots)

    def _taken_apart(self, value: Any) -> Iterator[str]:
        if hasattr(type(value), "__next__"):  # reading an iterator changes it
            raise TypeError("an iterator is not data")
        reduce: Callable[[Any], Any] | None = copyreg.dispatch_table.get(type(value))
        reduced = reduce(value) if reduce is not None else value.__reduce_ex__(4)
        if isinstance(reduced, str):  # the name of a global; a local cache claims one as well
            module = getattr(value, "__module__", "")
            yield f"{module}.{reduced}"
            if _global(module, reduced) is not value:
                yield self._of(value.__wrapped__)
            return
        maker, arguments, *optional = reduced
        yield self._of(maker)
        yield self._of(tuple(arguments))
        state, items, pairs = [*optional, None, None, None][:3]
        yield self._of(state)
        yield from map(self._of, items or ())
        yield from self._pairs(pairs or ())

    def _pairs(self, pairs: Iterable[tuple[object, object]]) -> Iterator[str]:
        for key, item in pairs:
            yield self._of(key) + self._of(item)


def _functions_in(value: Any) -> Iterator[object]:
    for name in ("fget", "fset", "fdel", "__func__", "func"):
        yield getattr(value, name, None)


def _global(module: str, names: str) -> object:
    value: object = sys.modules.get(module)
    for name in names.split("."):
        value = getattr(value, name, None)
    return value


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _digest(parts: Iterable[str]) -> str:
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hasher.update(b"%d:" % len(data) + data)
    return hasher.hexdigest()
