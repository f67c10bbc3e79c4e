"""The lines of ``containers_services`` in the ini file: ``NAME = SERVICE[@IMAGE] OPTION=VALUE …``.

The type of a value is that of the option in Python: ``yes`` is True where the option is a flag. An
option that is a list or a dictionary there may be repeated: ``env=A=1 env=B=2``.
"""

from __future__ import annotations

import dataclasses
import inspect
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pytest_containers.model.errors import SettingsError, hide_frames
from pytest_containers.model.spec import ContainerSpec

__tracebackhide__ = hide_frames

_FORM = (
    "it must be 'NAME = SERVICE[@IMAGE] OPTION=VALUE …', as in "
    "'db = postgres@host: endpoint=DATABASE_URL seed=schema.sql'"
)
OWN_OPTIONS = {
    "seed": "Sequence[str]",
    "inputs": "Sequence[str]",
    "seed_timeout_s": "float",
    "isolation": "str",
    "endpoint": "endpoint",
    "scope": "str",
    "per_worker": "bool",
}
"""The options of `session_service` itself, with their types."""
_FLAGS = {"1": True, "true": True, "yes": True, "on": True}
_FLAGS |= {"0": False, "false": False, "no": False, "off": False}


class SessionLine(NamedTuple):
    """A line, taken apart.

    Attributes:
        line: The whole line, for messages.
        name: The name of the service and its fixture.
        kind: The name of its class: ``postgres``.
        image: Its image; None is that of the class.
        words: The options, each ``(name, value)``, in order.
    """

    line: str
    name: str
    kind: str
    image: str | None
    words: Sequence[tuple[str, str]]


def parse(line: str) -> SessionLine:
    """Take a line apart.

    Raises:
        SettingsError: It has another form.
    """
    name, equals, rest = line.partition("=")
    try:
        head, *words = shlex.split(rest) or [""]
    except ValueError:  # a quotation mark without its other
        equals, head, words = "", "", []
    kind, separator, image = head.partition("@")
    pairs = [word.partition("=") for word in words]
    name = name.strip()
    if not (equals and name.isidentifier() and kind and all(sign for _, sign, _ in pairs)) or (
        separator and not image
    ):
        raise _error(line, _FORM)
    return SessionLine(
        line, name, kind, image or None, [(option, value) for option, _, value in pairs]
    )


def options_of(session_line: SessionLine, service_class: type[Any]) -> dict[str, Any]:
    """Return the arguments of `session_service` that a line has.

    Raises:
        SettingsError: A value is not of the type of its option.
    """
    types = {**_types_of(service_class), **OWN_OPTIONS}
    options: dict[str, Any] = {}
    for name, text in session_line.words:
        # Names that the service does not have are refused with the close ones, as in Python.
        value = _value(session_line.line, name, text, types.get(name, "str"))
        if isinstance(value, dict) and isinstance(options.get(name), dict):
            options[name].update(value)
        elif isinstance(value, list) and name in options:
            options[name] += value
        elif name in options:
            raise _error(session_line.line, f"option {name!r} may stand there once only")
        else:
            options[name] = value
    return options


def _types_of(service_class: type[Any]) -> Mapping[str, str]:
    """Return the annotations of the options of a service."""
    types = {field.name: str(field.type) for field in dataclasses.fields(ContainerSpec)}
    for base in reversed(service_class.__mro__[:-1]):
        constructor = vars(base).get("__init__")
        if constructor is not None:
            parameters = inspect.signature(constructor).parameters
            types |= {name: str(entry.annotation) for name, entry in parameters.items()}
    return types


def _value(line: str, name: str, text: str, kind: str) -> Any:
    if kind == "endpoint":
        return [_endpoint(text)]
    if "Mapping" in kind:
        key, equals, value = text.partition("=")
        if not equals:
            raise _error(line, f"{name} must be {name}=KEY=VALUE")
        return {key: _number(line, name, value, int) if "int" in kind else value}
    if "Wait" in kind:
        raise _error(line, f"{name} has no form in an ini file; use session_service() instead")
    if "Sequence" in kind and "| str |" not in kind:
        return [text]
    if "bool" in kind:
        if text.lower() not in _FLAGS:
            raise _error(line, f"{name} must be yes or no")
        return _FLAGS[text.lower()]
    if "float" in kind or ("int" in kind and "str" not in kind):
        return _number(line, name, text, float if "float" in kind else int)
    return text


def _endpoint(text: str) -> int | str | dict[str, str]:
    if text.isdecimal():
        return int(text)
    variable, equals, template = text.partition("=")
    return {variable: template} if equals else variable


def _number(line: str, name: str, text: str, kind: type[int] | type[float]) -> int | float:
    try:
        return kind(text)
    except ValueError:
        raise _error(line, f"{name} must be a number") from None


def _error(line: str, cause: str) -> SettingsError:
    return SettingsError(f"containers_services: {line!r} is not usable; {cause}")
