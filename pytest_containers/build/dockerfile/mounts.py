"""``RUN --mount=…``: what it says, before variables are replaced."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Callable
from typing import Any, get_args

from pytest_containers.build.dockerfile.instructions import Mount, MountType

_NAMES = {
    "type": "type", "from": "from_", "source": "source", "src": "source", "target": "target",
    "dst": "target", "destination": "target", "readonly": "read_only", "ro": "read_only",
    "readwrite": "read_write", "rw": "read_write", "id": "id", "sharing": "sharing",
    "required": "required", "size": "size", "mode": "mode", "uid": "uid", "gid": "gid",
    "env": "env",
}  # fmt: skip
_BOOLEANS = frozenset({"read_only", "read_write", "required"})
_DECIDING = _BOOLEANS | {"type", "sharing"}
_ALLOWED = {
    "bind": {"from_", "source", "target", "read_only", "read_write"},
    "cache": {
        "from_", "source", "target", "read_only", "read_write", "id", "sharing", "mode", "uid",
        "gid",
    },
    "tmpfs": {"target", "size", "read_only", "read_write"},
    "secret": {
        "id", "target", "source", "required", "read_only", "read_write", "mode", "uid", "gid",
        "env",
    },
    "ssh": {
        "id", "target", "source", "required", "read_only", "read_write", "mode", "uid", "gid",
    },
}  # fmt: skip
_SHARINGS = ("shared", "private", "locked")


def parse_mount(text: str, expand: Callable[[str], str] | None = None) -> Mount:
    """Read the value of a ``--mount``.

    Args:
        expand: Replaces variables. Before they are known, what they decide is not looked at: where
            the type is one, or whether something is so, only ``from`` of the mount is right.

    Raises:
        ValueError: What is wrong with it, as the end of a sentence.
    """
    try:
        fields = next(csv.reader([text], strict=True))
    except (csv.Error, StopIteration):
        raise ValueError("expected type=…,target=…") from None
    given: dict[str, Any] = {}
    is_open = False
    for field in fields:
        key, equals, value = field.partition("=")
        name = _name(key)
        if name in given:
            raise ValueError(f"{key!r} stands in it twice")
        if name == "from_" and "$" in value:
            raise ValueError("'from' takes no variables: name the stage or image itself")
        if expand is not None and name != "from_":
            value = expand(value)
        elif name in _DECIDING and "$" in value:
            is_open = True
        if name in _BOOLEANS:
            given[name] = is_open or _boolean(key, value if equals else "true")
        elif not equals:
            raise ValueError(f"{key!r} has no value: expected {key}=…")
        else:
            given[name] = value.lower() if name in _DECIDING else value
    if is_open:
        return Mount(from_=given.get("from_", ""), text=text)
    return _checked(given, text)


def _name(key: str) -> str:
    name = _NAMES.get(key.strip().lower())
    if name is None:
        close = difflib.get_close_matches(key, list(_NAMES), 1, 0.5)
        raise ValueError(
            f"there is no key {key!r}" + (f"; did you mean {close[0]!r}?" if close else "")
        )
    return name


def _boolean(key: str, value: str) -> bool:
    if value.lower() not in ("true", "false", "1", "0", "t", "f"):
        raise ValueError(f"{key}={value}: expected true or false")
    return value.lower() in ("true", "1", "t")


def _checked(given: dict[str, Any], text: str) -> Mount:
    kind = given.setdefault("type", "bind")
    if kind not in get_args(MountType):
        raise ValueError(f"there is no type {kind!r}: expected one of {', '.join(_ALLOWED)}")
    for name in given:
        if name != "type" and name not in _ALLOWED[kind]:
            shown = name.rstrip("_").replace("_", "")
            raise ValueError(f"a mount of type {kind} has no key {shown!r}")
    writable = given.pop("read_write", None)
    if writable is not None:
        if "read_only" in given:
            raise ValueError("it says both readonly and readwrite")
        given["read_only"] = not writable
    if kind in ("bind", "cache", "tmpfs") and not given.get("target"):
        raise ValueError("it has no target: expected target=…")
    if kind == "tmpfs" and given.get("read_only"):
        raise ValueError("a tmpfs begins empty, and readonly it stays so: leave out readonly")
    if kind == "bind" and given.get("target") == "/":
        raise ValueError("nothing can be mounted over the root")
    if given.get("sharing", "shared") not in _SHARINGS:
        raise ValueError(f"sharing={given['sharing']}: expected one of {', '.join(_SHARINGS)}")
    if kind == "secret" and not (given.get("id") or given.get("source") or given.get("target")):
        raise ValueError("it names no secret: expected id=…")
    return Mount(text=text, **given)
