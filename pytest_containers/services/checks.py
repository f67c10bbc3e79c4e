"""Checks of the options of services, before anything is started."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_containers.model.errors import SpecError, hide_frames
from pytest_containers.model.spec import RENAMED, ContainerSpec
from pytest_containers.services.mounted import INIT_SCRIPTS
from pytest_containers.state.seeds import SCRIPTS, scripts_in

__tracebackhide__ = hide_frames

_FIELDS = {field.name for field in dataclasses.fields(ContainerSpec)} - {"image", "command", "env"}


def check_names(kind: type[Any], names: Collection[str], others: Collection[str] = ()) -> None:
    """Raise for an option that neither the service nor its container has.

    Args:
        others: Options of the caller itself.

    Raises:
        SpecError: A name is unknown; the message lists all options and the closest match.
    """
    names = [name for name in names if name not in RENAMED]
    if _FIELDS.issuperset(names):
        return
    options = sorted({*_FIELDS, *_parameters(kind), *others})
    for name in names:
        if name not in options:
            close = difflib.get_close_matches(name, options, 1, 0.5)
            hint = f", did you mean {close[0]!r}?" if close else ";"
            raise SpecError(
                f"{kind.__name__} has no option {name!r}{hint} there are {', '.join(options)}",
                option=name,
            )


def _parameters(kind: type[Any]) -> Iterator[str]:
    import inspect

    for base in kind.__mro__[:-1]:
        constructor = vars(base).get("__init__")
        for parameter in inspect.signature(constructor).parameters.values() if constructor else ():
            if parameter.name != "self" and parameter.kind in (
                parameter.KEYWORD_ONLY,
                parameter.POSITIONAL_OR_KEYWORD,
            ):
                yield parameter.name


def check_port(kind: type[Any], arguments: Sequence[str], env: Mapping[str, str]) -> None:
    """Raise for an argument or a variable that changes the port of the server.

    Raises:
        SpecError: One of `Service.port_options` or `Service.port_variables` is used.
    """
    moving = [f"{name}={env[name]}" for name in kind.port_variables if name in env]
    words = "\0".join(["", *arguments, ""])
    for option in kind.port_options:
        head = re.escape(option).replace(r"\ ", r"[\0 ]*")
        match = re.search(rf"\0{head}[\0= ']*(?:[^\0]*:)?\d+[^\0]*(?=\0)", words)
        moving += [match.group().strip("\0").replace("\0", " ")] if match else []
    for word in moving:
        if not re.search(rf"(?<!\d){kind.number}(?!\d)", word):
            raise SpecError(
                f"{kind.__name__}: {word!r} moves the server away from port {kind.number}, where "
                "tests look for it; leave it out: every container has its own network, in which "
                "all ports are free"
            )


def check_variables(kind: type[Any], env: Mapping[str, str]) -> None:
    """Raise for a variable that the service cannot heed.

    Raises:
        SpecError: One of `Service.refused_variables` is used; with what to do instead.
    """
    for pattern, instead in kind.refused_variables.items() if env else ():
        for name in fnmatch.filter(env, pattern):
            raise SpecError(f"{kind.__name__}: env {name} has no effect here; {instead}")


def check_packaged(
    kind: type[Any], env: Mapping[str, str], prefixes: tuple[str, ...], heeded: Collection[str]
) -> None:
    """Raise for a variable that only the entrypoint of an official image understands.

    Args:
        prefixes: How variables of the entrypoint begin.
        heeded: Those that the service heeds without an entrypoint.

    Raises:
        SpecError: There is another variable.
    """
    for name in env:
        if name.startswith(prefixes) and name not in heeded:
            raise SpecError(
                f"{kind.__name__}: env {name} means something to the entrypoint of the official "
                "image only, and host: has none; name an image, or write a script for "
                f"{INIT_SCRIPTS}"
            )


def check_tls(kind: type[Any], tls: bool) -> None:
    """Raise for ``tls=True`` of a service that does not implement it.

    Raises:
        SpecError: The service has no TLS.
    """
    if tls and not kind.has_tls:
        raise SpecError(
            f"{kind.__name__} has no tls=True; mount a certificate and its key, and name them in "
            "arguments=",
            option="tls",
        )


def check_scripts(service: Any, value: Any, folder: Path) -> None:
    """Raise for a script that the service cannot run, before the server is started.

    Args:
        value: A seed, as for `state.seeds.seeds_of`.
        folder: The directory that relative paths start from.

    Raises:
        SpecError: The service cannot run the script.
    """
    if isinstance(value, str | os.PathLike):
        path = folder / os.fspath(value)
        for script in scripts_in(path) if path.is_dir() else [path]:
            if script.name.endswith(SCRIPTS) and not script.name.endswith(
                _scripts_of(type(service))
            ):
                raise unknown_script(service, script)
    elif isinstance(value, Sequence):
        for part in value:
            check_scripts(service, part, folder)


def _scripts_of(kind: type[Any]) -> tuple[str, ...]:
    """Return the suffixes of scripts; all of them if a class overrides `run_script` only."""
    for base in kind.__mro__:
        if "scripts" in vars(base):
            return tuple(kind.scripts)
        if "run_script" in vars(base):
            break
    return SCRIPTS


def unknown_script(service: Any, path: Path) -> SpecError:
    """Return the error for a script that a service cannot run."""
    *others, last = service.scripts
    kinds = f"{', '.join(others)} and {last}" if others else last
    return SpecError(
        f"seed {path}: {type(service).__name__} can run {kinds} files only; for anything else, "
        "write a callable",
        path=str(path),
    )


def paths_of(value: Any) -> tuple[str | os.PathLike[str], ...]:
    """Return ``inputs=`` as a tuple of paths.

    Raises:
        SpecError: It is neither a path nor a list of paths.
    """
    if isinstance(value, str | os.PathLike):
        return (value,)
    paths = tuple(value) if isinstance(value, Collection) else (value,)
    for path in paths:
        if not isinstance(path, str | os.PathLike):
            raise SpecError(
                f"inputs={value!r} is not usable; it must be a path, a glob, or a list of these"
            )
    return paths
