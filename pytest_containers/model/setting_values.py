"""Parsers of the values of settings; the ValueError of each names the expected format.

Imported whenever pytest starts, so this module imports next to nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_containers.model.sharing import SharedPlace

_MAX_DIGITS = 18
"""Of a number that is meant; int() refuses some thousand in words of its own."""


def seconds(value: str) -> float:
    """Parse a number of seconds."""
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise ValueError("a number of seconds above 0")
    return number


def count(value: str) -> int:
    """Parse a number, 0 or more."""
    if not value.isdecimal() or len(value) > _MAX_DIGITS:
        raise ValueError("a whole number, 0 or more")
    return int(value)


def positive(value: str) -> int:
    """Parse a number, 1 or more."""
    number = count(value)
    if not number:
        raise ValueError("a whole number, 1 or more")
    return number


def duration(value: str) -> float:
    """Parse a time with a unit; return seconds."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (value[:-1], value[-1]) if value[-1:] in units else (value, "s")
    try:
        time_s = seconds(number) * units[unit]
    except ValueError:
        time_s = float("inf")
    if time_s == float("inf"):
        raise ValueError("a time such as 90s, 30m, 2h or 1d")
    return time_s


def size(value: str) -> int:
    """Parse a size; return bytes."""
    from pytest_containers.model.sizes import parse_size

    try:
        return parse_size(value)
    except ValueError:
        raise ValueError("a size such as 512m or 4g") from None


def security_option(value: str) -> str:
    """Parse an option of ``security_opt``."""
    from pytest_containers.model.errors import SpecError
    from pytest_containers.model.security import absolute_profiles, seccomp_option

    try:
        seccomp_option([value])
    except SpecError:
        raise ValueError("seccomp=unconfined, or seccomp=FILE, a profile") from None
    return absolute_profiles([value])[0]


def image_override(value: str) -> tuple[str, str]:
    """Parse ``NAME=REFERENCE``."""
    name, separator, reference = value.partition("=")
    if not (name and separator and reference):
        raise ValueError("NAME=REFERENCE, the name of a fixture and an image")
    return name, reference


def mirror(value: str) -> tuple[str, str]:
    """Parse ``REGISTRY=MIRROR``."""
    registry, separator, mirror = value.partition("=")
    if not (registry and separator and mirror):
        raise ValueError("REGISTRY=MIRROR, as in docker.io=mirror.example:5000/hub")
    return registry, mirror


def host(value: str) -> str:
    """Parse a host with its port."""
    if not value or "/" in value:
        raise ValueError("a host with its port if any, as in registry.test:5000")
    return value


def shared_place(value: str) -> SharedPlace:
    """Parse ``REPOSITORY[, readonly][, wait=TIME][, max-age=TIME]``."""
    from pytest_containers.model.sharing import WAIT_S, SharedPlace

    repository, *options = [part.strip() for part in value.split(",")]
    read_only, wait_s, max_age_s = False, WAIT_S, None
    usable = "/" in repository.strip("/") and "://" not in repository
    for option in options:
        name, _, argument = option.partition("=")
        if option == "readonly":
            read_only = True
        elif name == "wait":
            wait_s = duration(argument)
        elif name == "max-age":
            max_age_s = duration(argument)
        else:
            usable = False
    if not usable:
        raise ValueError(
            "REGISTRY/REPOSITORY with options, as in registry.example/ci/states, readonly, "
            "wait=60s, max-age=14d"
        )
    return SharedPlace(repository, read_only, wait_s, max_age_s)


def flag(value: str) -> bool:
    """Parse yes or no."""
    if value.lower() in ("1", "true", "yes", "on"):
        return True
    if value.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("yes or no")


def lookahead(value: str) -> str:
    """Parse on, off or a number of containers."""
    if value not in ("on", "off") and not (value.isdecimal() and len(value) <= _MAX_DIGITS):
        raise ValueError("on, off, or a number of containers")
    return value


def one_of(*values: str) -> Callable[[str], str]:
    """Return a parser that accepts some words."""

    def parse(value: str) -> str:
        if value not in values:
            raise ValueError(f"one of {', '.join(values)}")
        return value

    return parse


def file(value: str) -> str:
    """Return the absolute path of a file."""
    if not value:
        raise ValueError("a file")
    return os.path.abspath(os.path.expanduser(value))


def directory(value: str) -> str:
    """Return the absolute path of a directory."""
    if not value:
        raise ValueError("a directory")
    return os.path.abspath(os.path.expanduser(value))
