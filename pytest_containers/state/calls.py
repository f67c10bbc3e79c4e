"""Which functions run, seen beside any profiler, debugger or coverage tool of the user.

From Python 3.12, `sys.monitoring` (PEP 669) has room for several tools. Before, a thread has one
profile function and one trace function. A function of Python in the profile slot is called as well.
One of C, such as cProfile's, cannot be called or put back from Python: then the trace slot is used.
If a debugger or a coverage tool has that, nothing is watched, and the caller is told so.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

_Note = Callable[[CodeType], None]
_Missed = Callable[[], None]
_Hook = Callable[[FrameType, str, Any], object]


@contextmanager
def watching(note: _Note, missed: _Missed) -> Iterator[None]:
    """Watch this thread and new ones while the body runs; other tools stay as they are.

    Args:
        note: Called for functions that start, at least once for each.
        missed: Called if functions may have run unseen.
    """
    if sys.version_info >= (3, 12):
        with _monitoring(note, missed):
            yield
    elif sys.getprofile() is None or callable(sys.getprofile()):
        with _profiling(note, missed):
            yield
    elif sys.gettrace() is None:
        with _tracing(note, missed):
            yield
    else:
        missed()
        yield


@contextmanager
def _profiling(note: _Note, missed: _Missed) -> Iterator[None]:
    earlier, threads = sys.getprofile(), threading.getprofile()
    profile = _before(note, earlier)
    sys.setprofile(profile)
    threading.setprofile(_before(note, threads))
    try:
        yield
    finally:
        threading.setprofile(threads)
        if sys.getprofile() is profile:
            sys.setprofile(earlier)
        else:  # the body has started a profiler of its own, or ended one
            missed()


@contextmanager
def _tracing(note: _Note, missed: _Missed) -> Iterator[None]:
    threads = threading.gettrace()

    def trace(frame: FrameType, event: str, arg: Any) -> None:
        note(frame.f_code)  # the result None: no lines of it

    sys.settrace(trace)
    if threads is None:
        threading.settrace(trace)
    try:
        yield
    finally:
        if threads is None:
            threading.settrace(None)
        if sys.gettrace() is trace:
            sys.settrace(None)
        else:  # the body has started a debugger, which goes on
            missed()


def _before(note: _Note, hook: Any) -> _Hook:
    """Return a profile function that notes a call, and then calls another profile function."""

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            note(frame.f_code)
        if hook is not None:
            hook(frame, event, arg)

    return profile


@contextmanager
def _monitoring(note: _Note, missed: _Missed) -> Iterator[None]:
    monitoring = sys.monitoring  # type: ignore[attr-defined,unused-ignore]  # from Python 3.12
    free = (number for number in (4, 3, 5, 2, 1, 0) if monitoring.get_tool(number) is None)
    tool = next(free, None)
    if tool is None:
        missed()
        yield
        return

    def started(code: CodeType, offset: int) -> Any:
        note(code)
        return monitoring.DISABLE  # once is enough

    monitoring.use_tool_id(tool, "pytest-containers")
    try:
        monitoring.register_callback(tool, monitoring.events.PY_START, started)
        monitoring.set_events(tool, monitoring.events.PY_START)
        # Without this, functions of an earlier recording would not be reported again.
        monitoring.restart_events()
        yield
    finally:
        monitoring.set_events(tool, 0)
        monitoring.register_callback(tool, monitoring.events.PY_START, None)
        monitoring.free_tool_id(tool)
