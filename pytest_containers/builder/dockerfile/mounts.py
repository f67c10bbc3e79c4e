"""``RUN --mount=…``: what it says, before variables are replaced."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, get_args

from pytest_containers.builder.dockerfile.expand import ExpansionError, unquoted
from pytest_containers.builder.dockerfile.instructions import Mount, MountType

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
_IGNORED = ("z", "Z", "U", "relabel")
_SHARINGS = ("shared", "private", "locked")


def parse_mount(option: str, expand: Callable[[str], str] | None = None) -> Mount:
    """Read the value of a ``--mount``.

    Args:
        expand: Replaces variables. Before they are known, what they decide is not looked at: where
            the type is one, or whether something is so, only ``from`` of the mount is right.

    Raises:
        ValueError: What is wrong with it, as the end of a sentence.
    """
    fields = _fields(option)
    settings: dict[str, Any] = {}
    is_open = False
    for field in fields:
        key, equals, value = field.partition("=")
        if key in _IGNORED:
            continue
        name = _name(key)
        if name in settings:
            raise ValueError(f"{key!r} stands in it twice")
        if name == "from_" and "$" in value:
            raise ValueError("'from' takes no variables: name the stage or image itself")
        if expand is not None and name != "from_":
            value = expand(value)
        elif name in _DECIDING and "$" in value:
            is_open = True
        if name in _BOOLEANS:
            settings[name] = is_open or _boolean(key, value if equals else "true")
        elif not equals:
            raise ValueError(f"{key!r} has no value: expected {key}=…")
        else:
            settings[name] = value.lower() if name in _DECIDING else value
    if is_open:
        return Mount(from_=settings.get("from_", ""), option=option)
    return _checked(settings, option)


def ignored_keys(option: str) -> list[str]:
    """Return the keys of Podman's that are accepted and do nothing."""
    keys = [field.partition("=")[0] for field in _fields(option)]
    return [key for key in keys if key in _IGNORED]


def _fields(option: str) -> list[str]:
    """Split at commas that are not in quotes, and remove these.

    Quotes may be around a field, its value, or everything.

    Raises:
        ValueError: A quote is not closed, or there is nothing.
    """
    if len(option) > 1 and option[0] in "'\"" and option.find(option[0], 1) == len(option) - 1:
        option = option[1:-1]
    if not option:
        raise ValueError("expected type=…,target=…")
    fields, quote = [""], ""
    for letter in option:
        if letter == quote:
            quote = ""
        elif letter in "'\"" and not quote:
            quote = letter
        elif letter == "," and not quote:
            fields.append("")
            continue
        fields[-1] += letter
    try:
        return [unquoted(field) for field in fields]
    except ExpansionError as error:
        raise ValueError(str(error)) from None


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


def _checked(settings: dict[str, Any], option: str) -> Mount:
    kind = settings.setdefault("type", "bind")
    if kind not in get_args(MountType):
        raise ValueError(f"there is no type {kind!r}: expected one of {', '.join(_ALLOWED)}")
    for name in settings:
        if name != "type" and name not in _ALLOWED[kind]:
            shown = name.rstrip("_").replace("_", "")
            raise ValueError(f"a mount of type {kind} has no key {shown!r}")
    writable = settings.pop("read_write", None)
    if writable is not None:
        if "read_only" in settings:
            raise ValueError("it says both readonly and readwrite")
        settings["read_only"] = not writable
    if kind == "tmpfs" and settings.get("read_only"):
        raise ValueError("a tmpfs begins empty, and readonly it stays so: leave out readonly")
    if kind == "bind" and settings.get("target") == "/":
        raise ValueError("nothing can be mounted over the root")
    if settings.get("sharing", "shared") not in _SHARINGS:
        raise ValueError(f"sharing={settings['sharing']}: expected one of {', '.join(_SHARINGS)}")
    if kind == "secret" and not (
        settings.get("id") or settings.get("source") or settings.get("target")
    ):
        raise ValueError("it names no secret: expected id=…")
    return Mount(option=option, **settings)
