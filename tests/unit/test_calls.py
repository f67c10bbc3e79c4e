"""Functions that run are seen beside profilers, debuggers and coverage tools, which go on."""

from __future__ import annotations

import cProfile
import pstats
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from pytest_containers.state import facts
from pytest_containers.state.calls import watching
from pytest_containers.state.trace import UsageTrace, recording

OLD = sys.version_info < (3, 12)
"""Before 3.12, a thread has one profile function and one trace function."""


def seeded() -> int:
    return inner() + 1


def inner() -> int:
    return 1


def later() -> None:
    inner()


def afterwards() -> None:
    inner()


class Seen:
    """The names of the functions that were seen, and whether some were not."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.missed = False

    def note(self, code: CodeType) -> None:
        self.names.add(code.co_name)

    def miss(self) -> None:
        self.missed = True


@pytest.fixture(autouse=True)
def clean_slots() -> Iterator[None]:
    """Free the slots of the interpreter, as the tests may themselves be watched."""
    slots = sys.gettrace(), threading.gettrace(), sys.getprofile(), threading.getprofile()
    sys.settrace(None)
    sys.setprofile(None)
    yield
    sys.settrace(slots[0])
    threading.settrace(slots[1])
    sys.setprofile(slots[2])
    threading.setprofile(slots[3])


def watch() -> Seen:
    seen = Seen()
    with watching(seen.note, seen.miss):
        seeded()
        thread = threading.Thread(target=later)
        thread.start()
        thread.join()
    return seen


def tracing(names: list[str]) -> Any:
    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        names.append(f"{event} {frame.f_code.co_name}")
        return trace

    return trace


def test_functions_of_this_thread_and_of_new_ones_are_seen() -> None:
    seen = watch()
    assert {"seeded", "inner", "later"} <= seen.names
    assert not seen.missed
    assert (sys.getprofile(), sys.gettrace()) == (None, None)


def test_a_profiler_in_c_sees_the_seed_and_goes_on() -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    before = sys.getprofile()
    seen = watch()
    assert sys.getprofile() is before
    afterwards()
    profiler.disable()
    assert {"seeded", "inner"} <= seen.names
    assert not seen.missed
    calls = {key[2]: row[0] for key, row in pstats.Stats(profiler).stats.items()}  # type: ignore[attr-defined]
    assert calls["seeded"] == 1
    assert calls["afterwards"] == 1
    assert sys.gettrace() is None


def test_a_profile_function_sees_the_seed_and_goes_on() -> None:
    names: list[str] = []
    profile = tracing(names)
    sys.setprofile(profile)
    seen = watch()
    assert sys.getprofile() is profile
    later()
    sys.setprofile(None)
    assert {"seeded", "inner"} <= seen.names
    assert {"call seeded", "return seeded", "call later"} <= set(names)


def test_a_debugger_sees_the_lines_of_the_seed_and_goes_on() -> None:
    names: list[str] = []
    trace = tracing(names)
    sys.settrace(trace)
    seen = watch()
    assert sys.gettrace() is trace
    later()
    sys.settrace(None)
    assert {"seeded", "inner"} <= seen.names
    assert {"line seeded", "line inner", "line later"} <= set(names)


def test_with_a_debugger_and_a_profiler_both_go_on_and_all_code_counts(tmp_path: Path) -> None:
    names: list[str] = []
    trace = tracing(names)
    profiler = cProfile.Profile()
    usage = UsageTrace(Path(__file__).parent)
    sys.settrace(trace)
    profiler.enable()
    with recording(usage):
        seeded()
    profiler.disable()
    assert sys.gettrace() is trace
    sys.settrace(None)
    assert "line seeded" in names
    assert any(key[2] == "seeded" for key in pstats.Stats(profiler).stats)  # type: ignore[attr-defined]
    assert usage.blind == OLD
    record = facts.gather(usage, facts.Inputs([], tmp_path), Path(__file__).parent, None)
    assert "seeded" in record["files"]["test_calls.py"]["kept"]
    assert ("clean_slots" in record["files"]["test_calls.py"]["kept"]) == OLD
    assert "pytest" in record["packages"] or not OLD


def test_a_profiler_that_the_seed_starts_stays_and_all_code_counts() -> None:
    names: list[str] = []
    own = tracing(names)
    seen = Seen()
    with watching(seen.note, seen.miss):
        sys.setprofile(own)
    assert sys.getprofile() is own
    sys.setprofile(None)
    assert seen.missed == OLD


@pytest.mark.skipif(OLD, reason="sys.monitoring is of Python 3.12")
def test_without_a_free_tool_id_all_code_counts() -> None:
    monitoring = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
    taken = [number for number in range(6) if monitoring.get_tool(number) is None]
    for number in taken:
        monitoring.use_tool_id(number, "a test")
    try:
        seen = watch()
    finally:
        for number in taken:
            monitoring.free_tool_id(number)
    assert seen.missed
    assert not seen.names


COVERED = """
import sys
from pathlib import Path
import coverage
from pytest_containers.state.trace import UsageTrace, recording
root = Path(sys.argv[1])
sys.path.insert(0, str(root))
measured = coverage.Coverage(data_file=None, include=[str(root / "*")])
measured.start()
import loader
before = sys.gettrace()
trace = UsageTrace(root)
with recording(trace):
    loader.load()
assert sys.gettrace() is before
loader.after()
measured.stop()
print(measured.analysis2(loader)[3], sorted(trace.executed[str(root / "loader.py")]))
"""


@pytest.mark.parametrize("core", ["ctrace", "pytrace", "sysmon"])
def test_coverage_counts_the_lines_of_a_seed(tmp_path: Path, core: str) -> None:
    pytest.importorskip("coverage")
    if OLD and core == "sysmon":
        pytest.skip("sys.monitoring is of Python 3.12")
    root = tmp_path.resolve()
    lines = ["def load():", "    x = 1", "    return x", "def after():", "    return 2"]
    (root / "loader.py").write_text("\n".join([*lines, "def unused():", "    return 3", ""]))
    result = subprocess.run(
        [sys.executable, "-c", COVERED, root],
        capture_output=True,
        text=True,
        check=True,
        env={"COVERAGE_CORE": core, "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert result.stdout.strip() == "[7] ['load']"
