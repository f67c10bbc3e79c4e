"""The facts that a state depends on, besides its key, and the check that they still hold.

They are stored as JSON::

    files      path -> {"stat": [size, mtime_ns], "sha256", "kept", "tree"}
    folders    path -> digest of the names in it
    absent     paths that did not exist
    inputs     pattern -> {"stat", "sha256"} of all matching files
    variables  name -> digest of the value, or null if it was not set
    packages   name -> version

Paths below the project are relative, so that another checkout can use the state.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import Any

from pytest_containers.model.errors import SpecError, hide_frames
from pytest_containers.state import python_source
from pytest_containers.state.trace import UsageTrace

__tracebackhide__ = hide_frames

_OWN = ("pytest_containers", "pytest", "_pytest", "pluggy")


class Inputs:
    """Paths and patterns that the user has declared as inputs of a state.

    Args:
        patterns: Files, directories (with all files below them) and globs.
        folder: The directory that relative patterns start from.

    Raises:
        SpecError: A pattern matches nothing.
    """

    def __init__(self, patterns: Iterable[str | os.PathLike[str]], folder: Path) -> None:
        self.patterns: tuple[str, ...] = tuple(
            os.path.normpath(folder / os.fspath(pattern)) for pattern in patterns
        )
        for pattern in self.patterns:
            if not os.path.exists(pattern) and not glob(pattern, recursive=True):
                raise SpecError(
                    f"inputs: there is nothing at {pattern!r}; relative paths start from {folder}",
                    path=pattern,
                )


def declared(inputs: Inputs, root: Path) -> dict[str, Any]:
    """Return the facts of a stage that runs no code of the user: its declared inputs."""
    listed = {_short(pattern, root): _tree(pattern) for pattern in inputs.patterns}
    empty: dict[str, Any] = {"files": {}, "folders": {}, "absent": [], "variables": {}}
    return {**empty, "inputs": listed, "packages": {}}


def gather(trace: UsageTrace, inputs: Inputs, root: Path, own_module: str | None) -> dict[str, Any]:
    """Return the facts as they are now.

    Args:
        own_module: The file of the seed; tests in it do not count.
    """
    modules = {
        path
        for path in trace.modules()
        if path == own_module or trace.blind or path in trace.executed or not _is_collected(path)
    }
    code = _python(modules | trace.files)
    executed = trace.executed
    if trace.blind:
        executed = {path: python_source.function_names(source) for path, source in code.items()}
    kept = python_source.kept_functions(code, executed)
    absent = {path for path in trace.absent if not trace.made(path)}
    files = {}
    for path in sorted(modules | trace.files):
        # Data, or a script that was run and is no loaded module, such as a migration.
        whole = path not in modules or path not in code
        try:
            files[_short(path, root)] = _file(
                path, None if whole else kept[path], path == own_module and not whole
            )
        except FileNotFoundError:  # the seed has removed it
            absent.add(path)
        except (OSError, SyntaxError):  # unreadable: a record that never matches
            files[_short(path, root)] = {"stat": [], "sha256": ""}
    return {
        "files": files,
        "folders": {_short(path, root): _names(path) for path in sorted(trace.folders)},
        "absent": sorted(_short(path, root) for path in absent),
        "inputs": {_short(pattern, root): _tree(pattern) for pattern in inputs.patterns},
        "variables": _variables(trace, {path: code[path] for path in modules & set(code)}, kept),
        "packages": _versions(trace.used_packages()),
    }


def _variables(
    trace: UsageTrace, modules: Mapping[str, bytes], kept: Mapping[str, Sequence[str]]
) -> dict[str, str | None]:
    """Return the variables that the code has read, with digests of their values.

    Reads during an import were not traced: they are guessed from the names in the code. Variables
    that the code sets itself do not count.
    """
    read: set[str] = set()
    written: set[str] = set()
    for path, source in modules.items():
        called = set(kept[path]) - trace.executed.get(path, set())
        module_read, module_written = python_source.variables(source, called)
        read |= module_read
        written |= module_written
    guessed = {name: os.environ.get(name) for name in read - written if trace.counts(name)}
    return {name: _hashed(name, value) for name, value in {**guessed, **trace.variables}.items()}


def change(facts: Mapping[str, Any], root: Path) -> str | None:
    """Return a description of the first fact that has changed; None if all still hold."""
    for name, record in facts["files"].items():
        if not _is_same(_long(name, root), record):
            exists = os.path.exists(_long(name, root))
            return f"{name} {'has changed' if exists else 'is gone'}"
    for name in facts.get("absent", ()):
        if os.path.lexists(_long(name, root)):
            return f"{name} exists now"
    for name, record in facts["folders"].items():
        if _names(_long(name, root)) != record:
            return f"directory {name} has other files"
    for name, record in facts["inputs"].items():
        now = _tree(_long(name, root), record)
        if now["sha256"] != record["sha256"]:
            return f"input {name} has changed"
    for name, record in facts["variables"].items():
        if _hashed(name, os.environ.get(name)) != record:
            return f"environment variable {name} has changed"
    for name, record in facts["packages"].items():
        now_version = _version(name)
        if now_version != record:
            return f"package {name} is {now_version or 'gone'} and was {record}"
    return None


def adopt(facts: Mapping[str, Any], root: Path, inputs: Inputs) -> dict[str, Any] | None:
    """Return the facts of another machine as facts of this one; None if some do not hold here.

    Contents are compared, and never times: files of equal images may have equal times there.

    Args:
        inputs: What is declared here; others' patterns are not looked for.

    Raises:
        ValueError: They are no facts.
    """
    if not _is_whole(facts):
        raise ValueError("its facts are malformed")
    if set(facts["inputs"]) != {_short(pattern, root) for pattern in inputs.patterns}:
        return None
    trees = {name: _tree(_long(name, root)) for name in facts["inputs"]}
    if any(trees[name]["sha256"] != facts["inputs"][name]["sha256"] for name in trees):
        return None
    stats = {name: _stat_if_any(_long(name, root)) for name in facts["files"]}
    files = {name: {**record, "stat": None} for name, record in facts["files"].items()}
    if change({**facts, "files": files, "inputs": {}}, root) is not None:
        return None
    files = {name: {**record, "stat": stats[name]} for name, record in files.items()}
    return {**facts, "files": files, "inputs": trees}


def _is_whole(facts: Any) -> bool:
    """Check the form of facts that others have written."""
    names = ("files", "folders", "inputs", "variables", "packages")
    if not isinstance(facts, dict) or set(facts) != {*names, "absent"}:
        return False
    tables = [facts[name] for name in names]
    if not all(isinstance(table, dict) for table in tables):
        return False
    if not isinstance(facts["absent"], list):
        return False
    paths = [path for table in tables for path in table] + facts["absent"]
    words = [facts[name] for name in ("folders", "variables", "packages")]
    return (
        all(isinstance(path, str) and "\0" not in path for path in paths)
        and not any(_is_of_kernel(path) for path in (*facts["files"], *facts["folders"]))
        and all(
            value is None or isinstance(value, str) for table in words for value in table.values()
        )
        and all(_is_record(record) for record in facts["inputs"].values())
        and all(_is_record(record) for record in facts["files"].values())
    )


def _is_of_kernel(path: str) -> bool:
    """Return True for a path that may lead to what has no end, such as ``/dev/zero``."""
    parts = path.split("/")
    if ".." in parts:
        return True
    named = [part for part in parts if part not in ("", ".")]
    of_kernel = named[:1] in (["dev"], ["proc"], ["sys"]) and named[:2] != ["dev", "shm"]
    return path.startswith("/") and of_kernel


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or not isinstance(record.get("sha256"), str):
        return False
    if "tree" not in record:
        return True
    kept = record.get("kept")
    return (
        isinstance(record["tree"], str)
        and isinstance(record.get("without_tests"), bool)
        and isinstance(kept, list)
        and all(isinstance(name, str) for name in kept)
    )


def distrust_later_than(facts: Mapping[str, Any], when_ns: int, root: Path) -> None:
    """Invalidate the records of files that have changed since their use began.

    Args:
        when_ns: The start of the use, in nanoseconds since the epoch.
    """
    for name in facts["files"]:
        with suppress(OSError):
            if os.stat(_long(name, root)).st_mtime_ns > when_ns:
                facts["files"][name] = {"stat": [], "sha256": ""}


def _is_collected(path: str) -> bool:
    """Return True for a file that pytest loads by itself, and not for the seed."""
    name = os.path.basename(path)
    return name == "conftest.py" or name.startswith("test_") or name.endswith("_test.py")


def _python(paths: Iterable[str]) -> dict[str, bytes]:
    """Return the sources of all files that are valid Python."""
    sources = {}
    for path in paths:
        with suppress(SyntaxError, ValueError, OSError):
            if path.endswith(".py"):
                source = Path(path).read_bytes()
                python_source.digest(source, ())
                sources[path] = source
    return sources


def _file(path: str, kept: Sequence[str] | None, without_tests: bool) -> dict[str, Any]:
    record: dict[str, Any] = {"stat": _stat(path), "sha256": _content(path)}
    if kept is not None:
        record |= {"kept": list(kept), "without_tests": without_tests}
        data = Path(path).read_bytes()
        record["tree"] = python_source.digest(data, kept, without_tests=without_tests)
    return record


def _content(path: str) -> str:
    # Not what could be waited for, or has no end: records may come from others.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", path)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_same(path: str, record: Mapping[str, Any]) -> bool:
    try:
        if _stat(path) == record["stat"]:
            return True
        if _content(path) == record["sha256"]:
            return True
        if "tree" not in record:
            return False
        data = Path(path).read_bytes()
        tree = python_source.digest(data, record["kept"], without_tests=record["without_tests"])
    except (OSError, SyntaxError, ValueError):
        return False
    return bool(tree == record["tree"])


def _stat(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _stat_if_any(path: str) -> list[int]:
    try:
        return _stat(path)
    except OSError:
        return []


def _names(path: str) -> str | None:
    try:
        names = sorted(os.listdir(path))
    except OSError:
        return None
    seen = [name for name in names if not name.startswith(".") and name != "__pycache__"]
    return hashlib.sha256("\0".join(seen).encode("utf-8", "surrogateescape")).hexdigest()


def _tree(pattern: str, record: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the record of all files that a pattern matches; reuse `record` if no time changed."""
    paths = sorted({file for match in _matches(pattern) for file in _files(match)})
    stats = [[path, *_stat(path)] for path in paths]
    signature = hashlib.sha256(repr(stats).encode("utf-8", "surrogateescape")).hexdigest()
    if record is not None and record["stat"] == signature:
        return dict(record)
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
    """Return a digest of a value, which may be a secret."""
    if value is None:
        return None
    return hashlib.sha256(f"{name}\0{value}".encode("utf-8", "surrogateescape")).hexdigest()


def _versions(tops: Iterable[str]) -> dict[str, str]:
    """Return the versions of the distributions with these top-level packages."""
    from importlib.metadata import packages_distributions

    packages = {top for top in tops if top not in _OWN}
    if not packages:
        return {}
    names = packages_distributions()
    versions = {name: _version(name) for top in packages for name in names.get(top, ())}
    return {name: version for name, version in sorted(versions.items()) if version is not None}


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
