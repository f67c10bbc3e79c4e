"""Seeds: what brings a fresh service into the state that tests want, and what tells two apart."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_containers.errors import SpecError, hide_frames
from pytest_containers.state.trace import NAMED_EVENT
from pytest_containers.state.values import Known

__tracebackhide__ = hide_frames

SCRIPTS = (".sql", ".sql.gz", ".sh", ".js", ".redis")
"""Ends of names of files that some service can apply; which ones is the service's to say."""
UNSHARED = "only in this process, since it holds"
"""In an identity: what follows cannot be known by value, so no other process has this seed."""
_BACKWARDS = (".down.sql", ".rollback.sql", ".undo.sql")


@dataclass(frozen=True, slots=True)
class Seed:
    """One step.

    Attributes:
        title: For people: a function's or a file's name.
        identity: Equal for equal seeds; part of the state's key. A script's has its whole path,
            since two directories may have a script of one name.
        apply: Does it; gets the ready service or container.
        module: The file that a function is in.
    """

    title: str
    identity: str
    apply: Callable[[Any], object]
    module: str | None = None


def seeds_of(value: Any, folder: Path) -> list[Seed]:
    """The steps that ``seed=`` stands for.

    Args:
        value: A callable, a path of a script or of a directory of scripts, or several of them in a
            sequence; each one builds on what those before it have made. None is none.
        folder: What relative paths are relative to.

    Raises:
        SpecError: It is nothing of that, or a path does not exist.
    """
    if value is None:
        return []
    if isinstance(value, str | os.PathLike):
        return [_of_path(folder / os.fspath(value), folder)]
    if callable(value):
        return [_of_callable(value)]
    if isinstance(value, Sequence):
        return [seed for one in value for seed in seeds_of(one, folder)]
    raise SpecError(
        f"seed {value!r} is not usable; it must be a callable, the path of a script or of a "
        "directory of scripts, or a list of these"
    )


def _of_path(path: Path, folder: Path) -> Seed:
    title = os.path.relpath(path, folder) if path.is_relative_to(folder) else os.fspath(path)
    if path.is_dir():
        if not scripts_in(path):
            raise SpecError(
                f"seed {path}: there is no script in that directory; names end with "
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
            f"seed {path} does not exist; relative paths are relative to {folder}", path=str(path)
        )
    if not path.name.endswith(SCRIPTS):
        raise SpecError(
            f"seed {path} is of no known kind; names of scripts end with {', '.join(SCRIPTS)}",
            path=str(path),
        )
    return Seed(
        title, f"script {os.path.realpath(path)}", lambda target: apply_script(target, path)
    )


def scripts_in(path: Path) -> list[Path]:
    """The scripts of a directory in order: numbers in names count as numbers.

    Migrations backwards (``.down.sql`` …) are left out.
    """
    found = [
        Path(path, name)
        for name in os.listdir(path)  # told to the trace: another file makes another state
        if name.endswith(SCRIPTS) and not name.endswith(_BACKWARDS)
    ]
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def _apply_all(target: Any, path: Path) -> None:
    sys.audit(NAMED_EVENT, str(path))
    for script in scripts_in(path):
        apply_script(target, script)


def apply_script(target: Any, path: Path) -> None:
    """Let a service, or the shell of a container, run a script.

    Raises:
        SpecError: It is nothing that can be run there.
        ExecError: It failed; with its output.
    """
    sys.audit(NAMED_EVENT, str(path))
    own = getattr(target, "run_script", None)
    if own is not None:
        own(path)
    elif path.name.endswith(".sh"):
        target.exec(["/bin/sh", "-e"], input=path.read_bytes(), check=True)
    else:
        raise SpecError(
            f"seed {path}: a plain container can run .sh files only; use the fixture of a service "
            "(services.Postgres …), or a callable"
        )


def _of_callable(function: Callable[[Any], object]) -> Seed:
    known = Known(function)
    identity = known.digest
    if known.unknown:
        identity += f"\n{UNSHARED} {' and '.join(sorted(known.unknown))}"
    inner = _inner(function)
    code = getattr(inner, "__code__", None)
    module = code.co_filename if code is not None else inspect.getsourcefile(type(inner))
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    return Seed(
        name.rpartition(".<locals>.")[2], identity, functools.partial(_run, function),
        os.path.realpath(module) if module else None,
    )  # fmt: skip


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
    """Call a seed, to its end: a call of an ``async def`` alone does nothing.

    Raises:
        SpecError: It is a generator, which nobody would exhaust, or asynchronous in a running loop.
    """
    result = function(target)
    if isinstance(result, Generator | AsyncGenerator):
        raise SpecError(
            f"seed {function!r} is a generator, and nothing of it has run; return instead of "
            "yielding, since what a seed has made is never taken down"
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
        result.close()  # else it warns that nobody has awaited it
    raise SpecError(
        f"seed {function!r} is asynchronous and cannot be awaited where an event loop runs "
        "already; start its service outside of the loop, or use a plain function"
    )
