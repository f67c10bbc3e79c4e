"""Typed messages, and how they become the body, blob and descriptors of a frame.

A message is a class with annotated fields::

    class Open(Operation[Opened]):
        \"""Open a file of a container.\"""

        container: str
        path: str
        mode: int = 0

It is made with keywords, ``Open(container="c1", path="/x")``, and does not change afterwards. A
field of type `Descriptor` or `Descriptors` travels as ancillary data and one of type `Blob` behind
the JSON; all others are JSON. A default is not sent. What arrives is checked against the types:
the other end may be a process that a container has taken over.

Named tuples cost the interpreter 50 µs each to define and dataclasses 400, of which a cold start
would pay seventy times; these cost 8.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, dataclass_transform

from pytest_containers.runtime.wire.faults import FaultError, received

Descriptor = Annotated[int, "descriptor"]
"""A field that travels as a descriptor; the receiver owns what arrives."""
Descriptors = Annotated[Sequence[int], "descriptors"]
"""A field that is any number of descriptors; at most one of a message."""
Blob = Annotated[bytes, "blob"]
"""A field that is raw bytes; at most one of a message."""

TOLD = -1
"""Stands for the number of a request that is not answered."""

_A = TypeVar("_A")
_M = TypeVar("_M", bound="Message")
_Reader = Callable[[Any], Any]
_MISSING = object()
_SIMPLE: dict[Any, frozenset[type]] = {
    str: frozenset([str]),
    bool: frozenset([bool]),
    int: frozenset([int]),
    float: frozenset([float, int]),
    type(None): frozenset([type(None)]),
}


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Message:
    """Base of all that is sent. Equal when class and fields are."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be set: a message is constant")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and _values(self) == _values(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({fields})"


if TYPE_CHECKING:
    from typing import Generic

    class Operation(Message, Generic[_A]):
        """A request from one process to another; ``Operation[A]`` is answered with an `A`.

        Attributes:
            answer: The class of the answer; NoneType where there is nothing to say.
            last: The class of a second answer, for the few operations that have one.
            raises: Names of the errors (`model.errors`) it may be refused with.
        """

        answer: ClassVar[type]
        last: ClassVar[type | None]
        raises: ClassVar[tuple[str, ...]]

else:

    class _Asking:
        """``Operation[A]`` as a base class; typing's own costs three times as much."""

        def __init__(self, answer: type | None) -> None:
            self.answer = answer

        def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
            return (Operation,)

    class Operation(Message):
        last = None
        raises = ()

        def __class_getitem__(cls, answer: type | None) -> _Asking:
            return _Asking(answer)

        def __init_subclass__(cls) -> None:
            asking = cls.__orig_bases__[0].answer
            cls.answer = types.NoneType if asking is None else asking


class JsonField:
    """A field in the JSON document.

    Attributes:
        hint: Its type.
        plain: Classes whose values are taken as they are.
        read: Makes the value from one of another class; None if there is no other.
    """

    __slots__ = ("hint", "plain", "read")

    def __init__(self, hint: Any) -> None:
        self.hint: Any = hint
        self.plain: frozenset[type]
        self.read: Callable[[Any], Any] | None
        self.plain, self.read = _reader(hint)


class Layout:
    """The way the fields of a class of messages travel. Made when the class is first used.

    Attributes:
        json: The fields in the JSON document, by name.
        required: Names of those that have no default.
        descriptors: Names of the fields that are one descriptor, in their order.
        rest: The field that is all further descriptors; empty if there is none.
        blob: The field that is the blob; empty if there is none.
    """

    __slots__ = ("blob", "descriptors", "json", "required", "rest")

    def __init__(self, kind: type[Message]) -> None:
        self.json: dict[str, JsonField] = {}
        self.descriptors: list[str] = []
        self.rest: str = ""
        self.blob: str = ""
        for name, hint in hints(kind).items():
            if hint is Descriptor:
                self.descriptors.append(name)
            elif hint is Descriptors:
                self.rest = name
            elif hint is Blob:
                self.blob = name
            else:
                self.json[name] = JsonField(hint)
        self.required: list[str] = [name for name in self.json if not hasattr(kind, name)]


def hints(kind: type[Message]) -> dict[str, Any]:
    """The types of a message's fields by name."""
    return {
        name: hint
        for name, hint in kind.__annotations__.items()
        if getattr(hint, "__origin__", None) is not ClassVar
    }


_layouts: dict[type, Layout] = {}


def layout(kind: type[Message]) -> Layout:
    """The layout of a class of messages."""
    form = _layouts.get(kind)
    if form is None:
        form = _layouts[kind] = Layout(kind)
    return form


def pack(message: Message) -> tuple[dict[str, Any], Sequence[int], bytes]:
    """The JSON fields, descriptors and blob of a message; the descriptors stay the sender's."""
    kind = type(message)
    form = _layouts.get(kind) or layout(kind)
    fields = dict(message.__dict__)
    blob: bytes = fields.pop(form.blob, b"") if form.blob else b""
    if not form.descriptors and not form.rest:
        return fields, (), blob
    fds: list[int] = [fields.pop(name) for name in form.descriptors]
    if form.rest:
        fds += fields.pop(form.rest, ())
    return fields, fds, blob


def pack_request(
    operation: Operation[Any], number: int
) -> tuple[dict[str, Any], Sequence[int], bytes]:
    """The body, descriptors and blob of a request; the descriptors stay the sender's.

    Args:
        operation: The operation.
        number: Comes back with the answer; `TOLD` asks for no answer.
    """
    fields, fds, blob = pack(operation)
    name = type(operation).__name__
    if number == TOLD:
        return {"op": name, **fields}, fds, blob
    return {"op": name, "id": number, **fields}, fds, blob


def unpack(kind: type[_M], fields: Any, blob: bytes = b"", fds: Sequence[int] = ()) -> _M:
    """A message from what has arrived; it takes over `fields` and the descriptors.

    Raises:
        FaultError: Something is missing, unknown, or of another type; names class and field. The
            descriptors are the caller's then.
    """
    form = _layouts.get(kind) or layout(kind)
    json_fields = form.json
    if type(fields) is not dict:
        raise _odd(kind, "", f"must be an object, not {fields!r:.80}")
    for name, value in fields.items():
        field = json_fields.get(name)
        if field is None:
            raise _odd(kind, name, "is not one of its fields")
        if type(value) not in field.plain:
            fields[name] = _read(kind, name, value, field)
    if len(fields) < len(json_fields):
        for name in form.required:
            if name not in fields:
                raise _odd(kind, name, "is missing")
    if fds or form.descriptors or form.rest:
        _take_descriptors(kind, form, fields, fds)
    if form.blob:
        fields[form.blob] = blob
    message = kind.__new__(kind)
    message.__dict__.update(fields)
    return message


def _read(kind: type[Message], name: str, value: Any, field: JsonField) -> Any:
    try:
        if field.read is None:
            raise TypeError
        return field.read(value)
    except FaultError as error:  # a message within
        inner = error.fault.message
        raise _odd(kind, name, f"must be {name_of(field.hint)}: {inner}") from None
    except (TypeError, ValueError):
        expected = name_of(field.hint)
    raise _odd(kind, name, f"must be {expected}, not {value!r:.80}")


def _take_descriptors(
    kind: type[Message], form: Layout, fields: dict[str, Any], fds: Sequence[int]
) -> None:
    count = len(form.descriptors)
    if len(fds) < count:
        raise _odd(kind, form.descriptors[len(fds)], "is missing: it came without a descriptor")
    if len(fds) > count and not form.rest:
        raise _odd(kind, "", f"came with {len(fds)} descriptors instead of {count}")
    fields.update(zip(form.descriptors, fds, strict=False))
    if form.rest:
        fields[form.rest] = list(fds[count:])


def unpack_answer(
    operation: str, kind: type, body: Mapping[str, Any], blob: bytes, fds: Sequence[int]
) -> Any:
    """The answer in a frame, or the `Fault` in it; it owns the descriptors.

    Args:
        operation: Name of the operation that is answered.
        kind: Class of the answer.
        body, blob, fds: Of the frame.
    """
    try:
        if "error" in body:
            return received(body["error"])
        if kind is not types.NoneType:
            return unpack(kind, body.get("ok"), blob, fds)
    except FaultError as error:
        close_all(fds)
        return error.fault._replace(message=f"answer of {operation}: {error.fault.message}")
    close_all(fds)
    return None


def descriptors_of(message: Message) -> Sequence[int]:
    """The descriptors of a message."""
    return pack(message)[1]


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


def fields_of(message: object) -> dict[str, Any]:
    """The fields of a message within another, for the JSON encoder."""
    if isinstance(message, Message):
        return message.__dict__
    raise TypeError(f"{message!r} cannot be sent")


def name_of(hint: Any) -> str:
    """A type as it is written: ``str | None``."""
    if isinstance(hint, type) and not hasattr(hint, "__origin__"):
        return hint.__name__
    if hint in (Descriptor, Descriptors, Blob):
        return {Descriptor: "Descriptor", Descriptors: "Descriptors", Blob: "Blob"}[hint]
    if isinstance(hint, types.UnionType):
        return " | ".join(
            "None" if part is types.NoneType else name_of(part) for part in hint.__args__
        )
    origin = getattr(hint, "__origin__", None)
    if origin in (Sequence, Mapping):
        return f"{origin.__name__}[{', '.join(name_of(part) for part in hint.__args__)}]"
    return str(hint).removeprefix("typing.")


def _values(message: Message) -> dict[str, Any]:
    """All fields, defaults too; sequences as lists, as they are after a journey."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name in hints(type(message))
        for value in (getattr(message, name, _MISSING),)
    }


def _odd(kind: type[Message], name: str, problem: str) -> FaultError:
    field = f"field {name!r:.80} " if name else ""
    return FaultError(
        "ContainersError", f"{kind.__name__}: {field}{problem}", operation=kind.__name__, field=name
    )


def _reader(hint: Any) -> tuple[frozenset[type], _Reader | None]:
    """How to read values of a type: see `JsonField`."""
    simple = _SIMPLE.get(hint)
    if simple is not None:
        return simple, None
    if hint is Any:
        return frozenset([str, bool, int, float, types.NoneType, list, dict]), None
    if isinstance(hint, types.UnionType):
        readers = [_reader(part) for part in hint.__args__]
        return frozenset().union(*(taken for taken, _ in readers)), next(
            (read for _, read in readers if read is not None), None
        )
    origin = getattr(hint, "__origin__", None)
    if origin is Sequence:
        return frozenset(), _sequence(*_reader(hint.__args__[0]))
    if origin is Mapping:
        return frozenset(), _mapping(*_reader(hint.__args__[1]))
    if isinstance(hint, type) and issubclass(hint, Message):
        return frozenset(), lambda value: unpack(hint, value)
    choices = frozenset(hint.__args__)  # a Literal
    return frozenset(), lambda value: _choice(value, choices)


def _sequence(taken: frozenset[type], read: _Reader | None) -> _Reader:
    def read_all(value: Any) -> list[Any]:
        if type(value) is not list:
            raise TypeError
        return [entry if type(entry) in taken else _other(entry, read) for entry in value]

    return read_all


def _mapping(taken: frozenset[type], read: _Reader | None) -> _Reader:
    def read_all(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise TypeError
        return {
            name: entry if type(entry) in taken else _other(entry, read)
            for name, entry in value.items()
        }

    return read_all


def _other(value: Any, read: _Reader | None) -> Any:
    if read is None:
        raise TypeError
    return read(value)


def _choice(value: Any, choices: frozenset[Any]) -> Any:
    if value not in choices:
        raise ValueError
    return value
