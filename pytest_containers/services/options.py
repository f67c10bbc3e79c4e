"""What a service may be told: wrong words are refused before anything is started for them."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_containers.errors import SpecError, hide_frames
from pytest_containers.spec import ContainerSpec
from pytest_containers.state.seeds import SCRIPTS, scripts_in

if TYPE_CHECKING:
    from pytest_containers.services.base import Service

__tracebackhide__ = hide_frames

_FIELDS = {one.name for one in dataclasses.fields(ContainerSpec)} - {"image", "command", "env"}


def check_names(kind: type[Service], given: Collection[str], more: Collection[str] = ()) -> None:
    """Refuse options that neither a service nor a container has.

    Args:
        more: Names that the caller knows beside.

    Raises:
        SpecError: One is unknown; with all that are known, and the one that is nearest.
    """
    if _FIELDS.issuperset(given):
        return
    known = sorted({*_FIELDS, *_parameters(kind), *more})
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1, 0.5)
            meant = f", did you mean {close[0]!r}?" if close else ";"
            raise SpecError(
                f"{kind.__name__} has no option {name!r}{meant} there are {', '.join(known)}",
                option=name,
            )


def _parameters(kind: type[Service]) -> Iterator[str]:
    import inspect

    for base in kind.__mro__[:-1]:
        made = vars(base).get("__init__")
        for one in inspect.signature(made).parameters.values() if made else ():
            if one.name != "self" and one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD):
                yield one.name


def check_port(kind: type[Service], arguments: Sequence[str], env: Mapping[str, str]) -> None:
    """Refuse what lets the server listen elsewhere than everybody looks for it.

    Raises:
        SpecError: `Service.port_options` or `Service.port_variables` are among them.
    """
    found = [f"{name}={env[name]}" for name in kind.port_variables if name in env]
    words = "\0".join(["", *arguments, ""])
    for option in kind.port_options:
        head = re.escape(option).replace(r"\ ", r"[\0 ]*")
        match = re.search(rf"\0{head}[\0= ']*(?:[^\0]*:)?\d+[^\0]*(?=\0)", words)
        found += [match.group().strip("\0").replace("\0", " ")] if match else []
    for one in found:
        if not re.search(rf"(?<!\d){kind.number}(?!\d)", one):
            raise SpecError(
                f"{kind.__name__}: {one!r} moves the server away from port {kind.number}, where it "
                "is looked for; leave it out: every container has a network of its own, in which "
                "no port is taken"
            )


def check_scripts(service: Service, value: Any, folder: Path) -> None:
    """Refuse a script that the service does not know, before a server is started for it.

    Args:
        value: A seed, as `state.seeds.seeds_of` takes it.
        folder: What relative paths are relative to.

    Raises:
        SpecError: There is one.
    """
    if isinstance(value, str | os.PathLike):
        path = folder / os.fspath(value)
        for one in scripts_in(path) if path.is_dir() else [path]:
            if one.name.endswith(SCRIPTS) and not one.name.endswith(_known_to(type(service))):
                raise unknown_script(service, one)
    elif isinstance(value, Sequence):
        for part in value:
            check_scripts(service, part, folder)


def _known_to(kind: type[Service]) -> tuple[str, ...]:
    """What it can run; everything if it has a `run_script` that does not say."""
    for base in kind.__mro__:
        if "scripts" in vars(base):
            return kind.scripts
        if "run_script" in vars(base):
            break
    return SCRIPTS


def unknown_script(service: Service, path: Path) -> SpecError:
    """What is to be said of a script that a service cannot run."""
    *others, last = service.scripts
    known = f"{', '.join(others)} and {last}" if others else last
    return SpecError(
        f"seed {path}: {type(service).__name__} can run {known} files only; a callable may do "
        "anything",
        path=str(path),
    )


def paths_of(value: Any) -> tuple[str | os.PathLike[str], ...]:
    """``inputs=`` as a tuple: one path, or several.

    Raises:
        SpecError: It is something else.
    """
    if isinstance(value, str | os.PathLike):
        return (value,)
    paths = tuple(value) if isinstance(value, Collection) else (value,)
    for one in paths:
        if not isinstance(one, str | os.PathLike):
            raise SpecError(
                f"inputs={value!r} is not usable; it must be a path, a glob, or a list of these"
            )
    return paths
