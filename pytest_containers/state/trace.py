"""A trace of the files, directories, modules, packages and variables that code uses.

Audit events (PEP 578) report reads of files, a patched `os.environ` reports reads of variables, and
`calls` reports functions that run. Reads of other processes are not traced, except files of the
project on their command lines.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import source_from_cache
from pathlib import Path
from types import CodeType
from typing import Any

from pytest_containers.state.calls import watching

READ_EVENT = "pytest_containers.read"
"""An audit event of this project: one of its processes reads a path."""

NAMED_EVENT = "pytest_containers.named"
"""The same for a path that the user has named; it counts outside the project as well."""

_COMMON_NAMES = ("PYTEST_CURRENT_TEST", "PYTEST_XDIST_", "COV_CORE_", "COVERAGE_")
_LISTED = ("os.listdir", "os.scandir")
_TOOLS = (
    r"/(\.git|\.hg|\.svn|\.jj|\.tox|\.nox|\.venv|\.direnv|\.eggs|\.hypothesis|\.idea|\.vscode"
    r"|\.cache|\.\w+_cache|__pycache__)/|/\.coverage[^/]*/\Z"
)
"""Directories and files that tools keep in a project, and that change with every run."""


class UsageTrace:
    """The files, code and variables below `root` that were used while `recording` lasted.

    Args:
        root: The directory of the project.
        ignored: Variables whose values do not count as inputs.
        outside: Directories below `root` that do not belong to the project.

    Attributes:
        files, folders: Absolute paths that were read: below `root`, or named by the user.
        absent: Paths below `root` that were tried and do not exist.
        executed: The functions that ran, by file below `root`.
        packages: Top-level names of the installed packages whose functions ran.
        variables: Environment variables that were read, with their values at that time.
        blind: True if functions may have run unseen, so that all loaded code counts.
    """

    def __init__(
        self, root: Path, ignored: Collection[str] = (), outside: Iterable[Path] = ()
    ) -> None:
        self.ignored: frozenset[str] = frozenset(ignored)
        self._root = os.path.join(os.path.realpath(root), "")
        excluded = (os.path.join(os.path.realpath(path), "") for path in outside)
        # The project may be below one of them: /usr/src/app and Debian's Python below /usr.
        self._outside = tuple(
            path for path in (*_environments(), *excluded) if not self._root.startswith(path)
        )
        self._packages: dict[str, str | None] = {}
        self.files: set[str] = set()
        self.folders: set[str] = set()
        self.absent: set[str] = set()
        self.executed: dict[str, set[str]] = {}
        self.packages: set[str] = set()
        self.variables: dict[str, str | None] = {}
        self.blind: bool = False
        self._seen: dict[str, str | None] = {}
        self._written: set[str] = set()

    def note(self, path: Any, *, tried: bool = False, named: bool = False) -> None:
        """Record that `path` was read.

        Args:
            tried: Record it even if it does not exist.
            named: Record it even if it is outside the project.
        """
        if not isinstance(path, str | bytes | os.PathLike):
            return
        name = os.fsdecode(path)
        real = os.path.realpath(name) if named else self._below(name)
        if real is None or real in self._written:
            return
        if os.path.isfile(real):
            self.files.add(real)
        elif os.path.isdir(real):
            self.folders.add(real)
        elif tried and not os.path.lexists(real):
            self.absent.add(real)

    def note_written(self, path: Any) -> None:
        """Record that `path` is written, so that later reads of it do not count."""
        if isinstance(path, str | bytes | os.PathLike):
            self._written.add(os.path.realpath(os.fsdecode(path)))

    def made(self, path: str) -> bool:
        """Return True if the code itself has written `path`."""
        return path in self._written

    def note_code(self, code: CodeType) -> None:
        """Record that a function ran."""
        path = self._below(code.co_filename)
        if path is not None:
            name = code.co_qualname.partition(".<locals>")[0]
            self.executed.setdefault(path, set()).add(name)
        else:
            self._note_package(code.co_filename)

    def note_missed(self) -> None:
        """Record that functions may have run unseen."""
        self.blind = True

    def used_packages(self) -> set[str]:
        """Return `packages`; if functions may have run unseen, those of all loaded modules."""
        if self.blind:
            for module in list(sys.modules.values()):
                path = getattr(module, "__file__", None)
                if isinstance(path, str):
                    self._note_package(path)
        return self.packages

    def _note_package(self, path: str) -> None:
        if path not in self._packages:
            _, separator, relative = path.rpartition("-packages/")
            top = relative.partition("/")[0].removesuffix(".py") if separator else ""
            self._packages[path] = top or None
        package = self._packages[path]
        if package is not None:
            self.packages.add(package)

    def counts(self, variable: str) -> bool:
        """Return True if the variable is an input; False if it differs in every run."""
        return variable not in self.ignored and not variable.startswith(_COMMON_NAMES)

    def modules(self) -> Iterator[str]:
        """Iterate over the files of all loaded modules below `root`."""
        for module in list(sys.modules.values()):
            path = getattr(module, "__file__", None)
            if isinstance(path, str) and path.endswith(".py"):
                real = self._below(path)
                if real is not None:
                    yield real

    def _below(self, path: str) -> str | None:
        """Return the real path of a file of the project; None for other files."""
        path = path if path.startswith(("/", "<")) else os.path.abspath(path)
        if path not in self._seen:
            self._seen[path] = self._resolved(path)
        return self._seen[path]

    def _resolved(self, path: str) -> str | None:
        if path.startswith("<"):
            return None
        if path.endswith(".pyc"):
            path = _source_of(path)
        real = os.path.realpath(path)
        inside = f"{real}{os.sep}".startswith(self._root) and not real.startswith(self._outside)
        below = f"/{real[len(self._root) :]}/"
        return real if inside and re.search(_TOOLS, below) is None else None


def _environments() -> Iterator[str]:
    """Iterate over the directories of installed packages and of the standard library."""
    installed = (path for path in sys.path if path.endswith("-packages"))
    for path in {sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), *installed}:
        yield os.path.join(os.path.realpath(path), "")


def _source_of(path: str) -> str:
    try:
        return source_from_cache(path)
    except ValueError:
        return path


_recording: UsageTrace | None = None
_installed = False


def _hook(event: str, args: Sequence[Any]) -> None:
    trace = _recording
    if trace is None:
        return
    if event == "open":
        path, mode, flags = args
        if _reads(mode, flags):
            trace.note(path, tried=not (isinstance(flags, int) and flags & os.O_CREAT))
        else:
            trace.note_written(path)
    elif event in _LISTED:
        # The import system lists all of sys.path, which may include the project.
        if not sys._getframe(1).f_code.co_filename.startswith("<frozen importlib"):
            trace.note(args[0] or os.getcwd(), tried=True)
    elif event == READ_EVENT:
        trace.note(args[0])
    elif event == NAMED_EVENT:
        trace.note(args[0], named=True)
    elif event == "subprocess.Popen":
        words = args[1] if isinstance(args[1], list | tuple) else [args[1]]
        for word in words:
            trace.note(word)


def _reads(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return "r" in mode or "+" in mode
    return isinstance(flags, int) and flags & os.O_ACCMODE != os.O_WRONLY


@contextmanager
def recording(trace: UsageTrace) -> Iterator[None]:
    """Record into `trace` while the body runs. Only one trace can be active."""
    global _installed, _recording
    if not _installed:  # an audit hook cannot be removed; without a trace it does nothing
        _installed = True
        sys.addaudithook(_hook)
    with ExitStack() as stack:
        stack.enter_context(watching(trace.note_code, trace.note_missed))
        stack.enter_context(_environment(trace))
        _recording = trace
        stack.callback(_stop)
        yield


def _stop() -> None:
    global _recording
    _recording = None


@contextmanager
def _environment(trace: UsageTrace) -> Iterator[None]:
    """Record variables that are read, unless the code has set them before."""
    kind = type(os.environ)
    reads: Counter[str] = Counter()
    before = dict(os.environ)
    written: set[str] = set()
    copies = 0
    getitem, setitem, iterate = kind.__getitem__, kind.__setitem__, kind.__iter__

    def read(self: Any, key: Any) -> Any:
        if key not in written:
            reads[key] += 1
        return getitem(self, key)

    def write(self: Any, key: Any, value: Any) -> None:
        written.add(key)
        setitem(self, key, value)

    def copied(self: Any) -> Any:
        nonlocal copies
        copies += 1  # of the whole environment, usually for a child: no reads of single variables
        return iterate(self)

    kind.__getitem__, kind.__setitem__, kind.__iter__ = read, write, copied  # type: ignore[method-assign]
    try:
        yield
    finally:
        kind.__getitem__, kind.__setitem__, kind.__iter__ = getitem, setitem, iterate  # type: ignore[method-assign]
        for name, count in reads.items():
            bulk = copies if name in before else 0
            if count > bulk and trace.counts(name):
                trace.variables[name] = before.get(name)
