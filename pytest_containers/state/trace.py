"""What code uses while it runs: files, directories, modules, packages, environment variables.

Reads of files are told by audit events (PEP 578), reads of variables by `os.environ` itself, and
functions that run by `sys.monitoring` (PEP 669; a profile function before Python 3.12). What other
processes read is not seen, but for files below the project that are named on their command lines.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import source_from_cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

READ_EVENT = "pytest_containers.read"
"""Audit event of this project: a path that is read by one of its own processes."""

NAMED_EVENT = "pytest_containers.named"
"""The same of a path that the user has named: it counts wherever it is."""

_COMMON_NAMES = ("PYTEST_CURRENT_TEST", "PYTEST_XDIST_", "COV_CORE_", "COVERAGE_")
_LISTED = ("os.listdir", "os.scandir")
_TOOLS = re.compile(
    r"/(\.git|\.hg|\.svn|\.jj|\.tox|\.nox|\.venv|\.direnv|\.eggs|\.hypothesis|\.idea|\.vscode"
    r"|\.cache|\.\w+_cache|__pycache__)/|/\.coverage[^/]*/\Z"
)
"""What tools keep in a project for themselves, which changes with every run."""


class Trace:
    """What was used below `root` while `recording` lasted.

    Args:
        root: The project.
        ignored: Variables whose values are no inputs.
        outside: Directories below it that are no part of it.

    Attributes:
        files, folders: Absolute paths that were read, that existed and are below `root`, or were
            named by the user.
        absent: Those below `root` where there was nothing.
        executed: By file below `root`, the functions that ran.
        packages: Top names of installed packages whose functions ran.
        variables: Names that were read from the environment, with their values then.
    """

    def __init__(
        self, root: Path, ignored: Collection[str] = (), outside: Iterable[Path] = ()
    ) -> None:
        self.ignored: frozenset[str] = frozenset(ignored)
        self._root = os.path.join(os.path.realpath(root), "")
        others = [*_environments(), *(os.path.join(os.path.realpath(one), "") for one in outside)]
        # A project may lie in one of them: /usr/src/app with Debian's Python, of /usr.
        self._outside = tuple(one for one in others if not self._root.startswith(one))
        self._packages: dict[str, str | None] = {}
        self.files: set[str] = set()
        self.folders: set[str] = set()
        self.absent: set[str] = set()
        self.executed: dict[str, set[str]] = {}
        self.packages: set[str] = set()
        self.variables: dict[str, str | None] = {}
        self._seen: dict[str, str | None] = {}
        self._written: set[str] = set()

    def note(self, path: Any, *, tried: bool = False, named: bool = False) -> None:
        """`path` was read.

        Args:
            tried: Whether it was, also where there is nothing.
            named: It counts wherever it is.
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
        """`path` is written: what is read of it from now on is no input."""
        if isinstance(path, str | bytes | os.PathLike):
            self._written.add(os.path.realpath(os.fsdecode(path)))

    def made(self, path: str) -> bool:
        """Whether the code itself has written `path`."""
        return path in self._written

    def note_code(self, code: CodeType) -> None:
        """A function ran."""
        path = self._below(code.co_filename)
        if path is not None:
            name = code.co_qualname.partition(".<locals>")[0]
            self.executed.setdefault(path, set()).add(name)
        else:
            self._note_package(code.co_filename)

    def _note_package(self, path: str) -> None:
        if path not in self._packages:
            _, found, rest = path.rpartition("-packages/")
            top = rest.partition("/")[0].removesuffix(".py") if found else ""
            self._packages[path] = top or None
        known = self._packages[path]
        if known is not None:
            self.packages.add(known)

    def counts(self, variable: str) -> bool:
        """Whether its value is an input: not if it is different in every run."""
        return variable not in self.ignored and not variable.startswith(_COMMON_NAMES)

    def modules(self) -> Iterator[str]:
        """Files of all modules below `root` that are loaded now."""
        for module in list(sys.modules.values()):
            path = getattr(module, "__file__", None)
            if isinstance(path, str) and path.endswith(".py"):
                real = self._below(path)
                if real is not None:
                    yield real

    def _below(self, path: str) -> str | None:
        """The real path if it is a file of the project's own."""
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
        return real if inside and _TOOLS.search(below) is None else None


def _environments() -> Iterator[str]:
    """Directories of installed packages and of Python's own modules, wherever they are."""
    installed = (path for path in sys.path if path.endswith("-packages"))
    for path in {sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), *installed}:
        yield os.path.join(os.path.realpath(path), "")


def _source_of(path: str) -> str:
    try:
        return source_from_cache(path)
    except ValueError:
        return path


_recording: Trace | None = None
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
        # The import system lists all of sys.path, where a project may be with all it has.
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
def recording(trace: Trace) -> Iterator[None]:
    """Record into `trace` meanwhile. One at a time."""
    global _installed, _recording
    if not _installed:  # an audit hook stays for good; without a trace it does nothing
        _installed = True
        sys.addaudithook(_hook)
    with ExitStack() as stack:
        stack.enter_context(_functions(trace))
        stack.enter_context(_environment(trace))
        _recording = trace
        stack.callback(_stop)
        yield


def _stop() -> None:
    global _recording
    _recording = None


@contextmanager
def _functions(trace: Trace) -> Iterator[None]:
    if sys.version_info >= (3, 12):
        with _monitoring(trace.note_code):
            yield
        return
    earlier, threads = sys.getprofile(), threading.getprofile()

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            trace.note_code(frame.f_code)

    sys.setprofile(profile)
    threading.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(earlier)
        threading.setprofile(threads)


@contextmanager
def _monitoring(note: Callable[[CodeType], None]) -> Iterator[None]:
    monitoring = sys.monitoring  # type: ignore[attr-defined,unused-ignore]  # from Python 3.12
    tool = next(one for one in (4, 3, 2, 1, 0) if monitoring.get_tool(one) is None)

    def started(code: CodeType, offset: int) -> Any:
        note(code)
        return monitoring.DISABLE  # once is enough

    monitoring.use_tool_id(tool, "pytest-containers")
    try:
        monitoring.register_callback(tool, monitoring.events.PY_START, started)
        monitoring.set_events(tool, monitoring.events.PY_START)
        monitoring.restart_events()
        yield
    finally:
        monitoring.set_events(tool, 0)
        monitoring.register_callback(tool, monitoring.events.PY_START, None)
        monitoring.free_tool_id(tool)


@contextmanager
def _environment(trace: Trace) -> Iterator[None]:
    """Notes variables that are read, unless the code itself has set them before."""
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
        copies += 1  # of all of it, for a child mostly: no reads of single ones
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
