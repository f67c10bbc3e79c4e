"""Seeds: what brings a fresh service into the state that tests want, and what tells two apart."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_containers.errors import SpecError, hide_frames
from pytest_containers.state.trace import NAMED_EVENT

__tracebackhide__ = hide_frames

SCRIPTS = (".sql", ".sql.gz", ".sh", ".js", ".redis")
"""Ends of names of files that some service can apply; which ones is the service's to say."""
_BACKWARDS = (".down.sql", ".rollback.sql", ".undo.sql")


@dataclass(frozen=True, slots=True)
class Seed:
    """One step.

    Attributes:
        title: For people: a function's or a file's name.
        identity: Equal for equal seeds; part of the state's key.
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
        return Seed(f"{title}/", f"directory {title}", lambda target: _apply_all(target, path))
    if not path.is_file():
        raise SpecError(
            f"seed {path} does not exist; relative paths are relative to {folder}", path=str(path)
        )
    if not path.name.endswith(SCRIPTS):
        raise SpecError(
            f"seed {path} is of no known kind; names of scripts end with {', '.join(SCRIPTS)}",
            path=str(path),
        )
    return Seed(title, f"script {title}", lambda target: apply_script(target, path))


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
    parts = list(_identity(function, 0))
    inner = _inner(function)
    code = getattr(inner, "__code__", None)
    module = code.co_filename if code is not None else inspect.getsourcefile(type(inner))
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    return Seed(
        name.rpartition(".<locals>.")[2], "\n".join(parts), function,
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


def _identity(value: Any, depth: int) -> Iterator[str]:
    """Lines that are equal for equal callables, arguments and closures included."""
    if depth > 4:
        return
    if isinstance(value, functools.partial):
        yield f"partial {_data(value.args)} {_data(value.keywords)}"
        yield from _identity(value.func, depth + 1)
    elif inspect.ismethod(value):
        yield f"of {type(value.__self__).__qualname__} {_data(vars_of(value.__self__))}"
        yield from _identity(value.__func__, depth + 1)
    elif inspect.isfunction(value):
        yield f"{value.__module__}.{value.__qualname__} {_source(value)}"
        yield f"defaults {_data(value.__defaults__)} {_data(value.__kwdefaults__)}"
        for cell in value.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:
                continue
            if callable(content):
                yield from _identity(content, depth + 1)
            else:
                yield _data(content)
    elif inspect.isclass(value) or inspect.isbuiltin(value):
        yield f"{value.__module__}.{value.__qualname__}"
    else:
        yield f"{type(value).__module__}.{type(value).__qualname__} {_data(vars_of(value))}"


def vars_of(value: Any) -> dict[str, Any]:
    return dict(getattr(value, "__dict__", {}))


def _data(value: Any) -> str:
    """Plain data as text; of anything else only what it is."""
    if isinstance(value, dict):
        pairs = sorted(f"{key}: {_data(one)}" for key, one in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple | set | frozenset):
        items = [_data(one) for one in value]
        return f"[{', '.join(sorted(items) if isinstance(value, set | frozenset) else items)}]"
    if isinstance(value, str | bytes | int | float | bool | None | os.PathLike):
        return repr(value)
    return type(value).__qualname__


def _source(function: Any) -> str:
    try:
        text = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        code = function.__code__
        text = repr((code.co_code, code.co_names, _data(code.co_consts)))
    try:
        text = ast.dump(ast.parse(text))  # comments and layout do not count
    except SyntaxError:
        text = text.strip()
    return hashlib.sha256(text.encode()).hexdigest()
