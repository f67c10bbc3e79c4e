"""What a state depends on beside its key, as it was when it was made, and whether it still is so.

As JSON::

    files      path -> {"stat": [size, mtime_ns], "sha256", "kept", "tree"}
    folders    path -> digest of the names in it
    absent     paths where there was nothing
    inputs     pattern -> {"stat", "sha256"} of all that it matches
    variables  name -> digest of the value, or null where it was not set
    packages   name -> version

Paths below the project are relative to it: another checkout may use the state.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import Any

from pytest_containers.errors import SpecError, hide_frames
from pytest_containers.state import sources
from pytest_containers.state.trace import Trace

__tracebackhide__ = hide_frames

_OWN = ("pytest_containers", "pytest", "_pytest", "pluggy")


class Inputs:
    """Paths and patterns that the user says a state depends on.

    Args:
        patterns: Files, directories (all that is below them) and globs.
        folder: What relative ones are relative to.

    Raises:
        SpecError: One matches nothing.
    """

    def __init__(self, patterns: Iterable[str | os.PathLike[str]], folder: Path) -> None:
        self.patterns: tuple[str, ...] = tuple(
            os.path.normpath(folder / os.fspath(one)) for one in patterns
        )
        for pattern in self.patterns:
            if not os.path.exists(pattern) and not glob(pattern, recursive=True):
                raise SpecError(
                    f"inputs: there is nothing at {pattern!r}; relative paths are relative to "
                    f"{folder}",
                    path=pattern,
                )


def gather(trace: Trace, inputs: Inputs, root: Path, own_module: str | None) -> dict[str, Any]:
    """All of it, as it is now.

    Args:
        own_module: The file that has the seed; what pytest collects from it does not count.
    """
    modules = {
        path for path in trace.modules()
        if path == own_module or path in trace.executed or not _is_collected(path)
    }  # fmt: skip
    code = _python(modules | trace.files)
    kept = sources.kept_functions(code, trace.executed)
    absent = {path for path in trace.absent if not trace.made(path)}
    files = {}
    for path in sorted(modules | trace.files):
        whole = path not in modules or path not in code  # data, or run and gone: a migration mostly
        try:
            files[_short(path, root)] = _file(
                path, None if whole else kept[path], path == own_module and not whole
            )
        except FileNotFoundError:  # the seed has used it up, or it was its own
            absent.add(path)
        except (OSError, SyntaxError):  # it cannot be told what was used: never again
            files[_short(path, root)] = {"stat": [], "sha256": ""}
    return {
        "files": files,
        "folders": {_short(path, root): _names(path) for path in sorted(trace.folders)},
        "absent": sorted(_short(path, root) for path in absent),
        "inputs": {_short(one, root): _tree(one) for one in inputs.patterns},
        "variables": _variables(trace, {path: code[path] for path in modules & set(code)}, kept),
        "packages": _versions(trace.packages),
    }


def _variables(
    trace: Trace, modules: Mapping[str, bytes], kept: Mapping[str, Sequence[str]]
) -> dict[str, str | None]:
    """Those that were read, and those that modules have read when they were imported.

    The latter is not seen, only guessed from the names in the code; what the code itself has set
    is its own.
    """
    read: set[str] = set()
    written: set[str] = set()
    for path, source in modules.items():
        called = set(kept[path]) - trace.executed.get(path, set())
        its_read, its_written = sources.variables(source, called)
        read |= its_read
        written |= its_written
    found = {name: os.environ.get(name) for name in read - written if trace.counts(name)}
    return {name: _hashed(name, value) for name, value in {**found, **trace.variables}.items()}


def change(facts: Mapping[str, Any], root: Path) -> str | None:
    """The first thing that is not as `facts` say; None if all is."""
    for name, known in facts["files"].items():
        if not _is_same(_long(name, root), known):
            there = os.path.exists(_long(name, root))
            return f"{name} {'has changed' if there else 'is gone'}"
    for name in facts.get("absent", ()):
        if os.path.lexists(_long(name, root)):
            return f"{name} is there now"
    for name, known in facts["folders"].items():
        if _names(_long(name, root)) != known:
            return f"there are other files in {name}"
    for name, known in facts["inputs"].items():
        now = _tree(_long(name, root), known)
        if now["sha256"] != known["sha256"]:
            return f"input {name} has changed"
    for name, known in facts["variables"].items():
        if _hashed(name, os.environ.get(name)) != known:
            return f"environment variable {name} has changed"
    for name, known in facts["packages"].items():
        now_version = _version(name)
        if now_version != known:
            return f"package {name} is {now_version or 'gone'} and was {known}"
    return None


def distrust_later_than(facts: Mapping[str, Any], when_ns: int, root: Path) -> None:
    """Never again take a file for unchanged that was changed while it was used.

    Args:
        when_ns: When the use began, since the epoch.
    """
    for name in facts["files"]:
        with suppress(OSError):
            if os.stat(_long(name, root)).st_mtime_ns > when_ns:
                facts["files"][name] = {"stat": [], "sha256": ""}


def _is_collected(path: str) -> bool:
    """Whether pytest reads it by itself, whoever seeds: its tests come and go."""
    name = os.path.basename(path)
    return name == "conftest.py" or name.startswith("test_") or name.endswith("_test.py")


def _python(paths: Iterable[str]) -> dict[str, bytes]:
    """The sources of those that are Python and can be read as such."""
    found = {}
    for path in paths:
        with suppress(SyntaxError, ValueError, OSError):
            if path.endswith(".py"):
                source = Path(path).read_bytes()
                sources.digest(source, ())
                found[path] = source
    return found


def _file(path: str, kept: Sequence[str] | None, without_tests: bool) -> dict[str, Any]:
    known: dict[str, Any] = {"stat": _stat(path), "sha256": _content(path)}
    if kept is not None:
        known |= {"kept": list(kept), "without_tests": without_tests}
        data = Path(path).read_bytes()
        known["tree"] = sources.digest(data, kept, without_tests=without_tests)
    return known


def _content(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_same(path: str, known: Mapping[str, Any]) -> bool:
    try:
        if _stat(path) == known["stat"]:
            return True
        if _content(path) == known["sha256"]:
            return True
        if "tree" not in known:
            return False
        data = Path(path).read_bytes()
        tree = sources.digest(data, known["kept"], without_tests=known["without_tests"])
    except (OSError, SyntaxError, ValueError):
        return False
    return bool(tree == known["tree"])


def _stat(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _names(path: str) -> str | None:
    try:
        names = sorted(os.listdir(path))
    except OSError:
        return None
    seen = [name for name in names if not name.startswith(".") and name != "__pycache__"]
    return hashlib.sha256("\0".join(seen).encode("utf-8", "surrogateescape")).hexdigest()


def _tree(pattern: str, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Of all files that a pattern matches; contents are read only where times say so."""
    paths = sorted({file for match in _matches(pattern) for file in _files(match)})
    stats = [[path, *_stat(path)] for path in paths]
    signature = hashlib.sha256(repr(stats).encode("utf-8", "surrogateescape")).hexdigest()
    if known is not None and known["stat"] == signature:
        return dict(known)
    hasher = hashlib.sha256()
    top = pattern.partition("*")[0]
    for path in paths:
        name = os.path.relpath(path, os.path.dirname(top) or "/")
        hasher.update(f"{name}\0{_content(path)}\0".encode("utf-8", "surrogateescape"))
    return {"stat": signature, "sha256": hasher.hexdigest()}


def _matches(pattern: str) -> list[str]:
    return [pattern] if os.path.lexists(pattern) else glob(pattern, recursive=True)


def _files(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path] if os.path.exists(path) else []
    return [
        os.path.join(folder, name)
        for folder, folders, names in os.walk(path)
        for name in names
        if "__pycache__" not in folder and os.path.exists(os.path.join(folder, name))
    ]


def _hashed(name: str, value: str | None) -> str | None:
    """Values may be secrets: only that they are the same is kept."""
    if value is None:
        return None
    return hashlib.sha256(f"{name}\0{value}".encode("utf-8", "surrogateescape")).hexdigest()


def _versions(tops: Iterable[str]) -> dict[str, str]:
    """Installed distributions by the top names of their packages."""
    from importlib.metadata import packages_distributions

    wanted = {top for top in tops if top not in _OWN}
    if not wanted:
        return {}
    named = packages_distributions()
    found = {name: _version(name) for top in wanted for name in named.get(top, ())}
    return {name: version for name, version in sorted(found.items()) if version is not None}


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _short(path: str, root: Path) -> str:
    return path.removeprefix(os.path.join(os.path.realpath(root), ""))


def _long(name: str, root: Path) -> str:
    return os.path.join(os.path.realpath(root), name)
