"""Seeds: functions and scripts that put initial data into a service, with their identities."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pytest_containers.model.errors import SpecError, hide_frames
from pytest_containers.state.trace import NAMED_EVENT
from pytest_containers.state.values import ValueDigest

__tracebackhide__ = hide_frames

SCRIPTS = (".sql", ".sql.gz", ".sh", ".js", ".redis", ".ldif", ".lp")
"""Suffixes of the scripts that any service can run; each service accepts some of them."""
UNSHARED = "only in this process, since it holds"
"""In an identity: the types that follow have no digest, so no other process has this seed."""
_BACKWARDS = (".down.sql", ".rollback.sql", ".undo.sql")


class Seed(NamedTuple):
    """A function or script that changes the data of a service.

    Attributes:
        title: The name of the function or file, for messages.
        identity: Equal for equal seeds; part of the key of the state. That of a script has the
            whole path, since scripts in two directories may have the same name.
        apply: Runs the seed on the ready service or container.
        module: The file of the function; None for a script.
    """

    title: str
    identity: str
    apply: Callable[[Any], object]
    module: str | None = None


def seeds_of(value: Any, folder: Path) -> list[Seed]:
    """Return the seeds of a ``seed=`` argument.

    Args:
        value: A callable, the path of a script or of a directory of scripts, or a sequence of
            these, each of which builds on the previous ones; None for no seeds.
        folder: The directory that relative paths start from.

    Raises:
        SpecError: The value is of another type, or a path does not exist.
    """
    if value is None:
        return []
    if isinstance(value, str | os.PathLike):
        return [_of_path(folder / os.fspath(value), folder)]
    if callable(value):
        return [_of_callable(value)]
    if isinstance(value, Sequence):
        return [seed for item in value for seed in seeds_of(item, folder)]
    raise SpecError(
        f"seed {value!r} is not usable; it must be a callable, the path of a script or of a "
        "directory of scripts, or a list of these"
    )


def _of_path(path: Path, folder: Path) -> Seed:
    title = os.path.relpath(path, folder) if path.is_relative_to(folder) else os.fspath(path)
    if path.is_dir():
        if not scripts_in(path):
            raise SpecError(
                f"seed {path}: the directory has no scripts; their names end with "
                f"{', '.join(SCRIPTS)}",
                path=str(path),
            )
        return Seed(
            f"{title}/",
            f"directory {os.path.realpath(path)}",
            lambda target: _apply_all(target, path),
        )
    if not path.is_file():
        raise SpecError(
            f"seed {path} does not exist; relative paths start from {folder}", path=str(path)
        )
    if not path.name.endswith(SCRIPTS):
        raise SpecError(
            f"seed {path} is not a script; names of scripts end with {', '.join(SCRIPTS)}",
            path=str(path),
        )
    return Seed(
        title, f"script {os.path.realpath(path)}", lambda target: apply_script(target, path)
    )


def scripts_in(path: Path) -> list[Path]:
    """Return the scripts of a directory in natural order: ``2.sql`` before ``10.sql``.

    Down migrations (``.down.sql`` …) are left out.
    """
    scripts = [
        Path(path, name)
        for name in os.listdir(path)  # the trace records it: a new file changes the state
        if name.endswith(SCRIPTS) and not name.endswith(_BACKWARDS)
    ]
    return sorted(scripts, key=_natural)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def _apply_all(target: Any, path: Path) -> None:
    sys.audit(NAMED_EVENT, str(path))
    for script in scripts_in(path):
        apply_script(target, script)


def apply_script(target: Any, path: Path) -> None:
    """Run a script with a service, or with the shell of a container.

    Raises:
        SpecError: The target cannot run the script.
        ExecError: The script failed; with its output.
    """
    sys.audit(NAMED_EVENT, str(path))
    run_script = getattr(target, "run_script", None)
    if run_script is not None:
        run_script(path)
    elif path.name.endswith(".sh"):
        target.exec(["/bin/sh", "-e"], input=path.read_bytes(), check=True)
    else:
        raise SpecError(
            f"seed {path}: a plain container can run .sh files only; use the fixture of a service "
            "(services.Postgres …), or a callable"
        )


def _of_callable(function: Callable[[Any], object]) -> Seed:
    value = ValueDigest(function)
    identity = value.digest
    if value.opaque:
        identity += f"\n{UNSHARED} {' and '.join(sorted(value.opaque))}"
    inner = _inner(function)
    code = getattr(inner, "__code__", None)
    module = code.co_filename if code is not None else inspect.getsourcefile(type(inner))
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    return Seed(
        name.rpartition(".<locals>.")[2],
        identity,
        functools.partial(_run, function),
        os.path.realpath(module) if module else None,
    )


def _inner(function: Any) -> Any:
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        else:
            return function


def _run(function: Callable[[Any], object], target: Any) -> None:
    """Call a seed, and await the result of an ``async def``.

    Raises:
        SpecError: The seed is a generator, or it is asynchronous and an event loop is running.
    """
    result = function(target)
    if isinstance(result, Generator | AsyncGenerator):
        raise SpecError(
            f"seed {function!r} is a generator, and nothing of it has run; return instead of "
            "yielding, since a seed has no teardown"
        )
    if isinstance(result, Awaitable):
        _await(result, function)


def _await(result: Awaitable[object], function: object) -> None:
    import asyncio

    async def whole() -> None:
        await result

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(whole())
        return
    if isinstance(result, Coroutine):
        result.close()  # avoids the warning that it was never awaited
    raise SpecError(
        f"seed {function!r} is asynchronous and cannot be awaited where an event loop runs "
        "already; start its service outside the loop, or use a synchronous function"
    )
