"""The contents of the report as simple values: the controller puts together what workers send."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import pytest

from pytest_containers.plugin.timeline.output import size_of

PAGE_OUTPUT_CHARACTERS = 16 << 20
_MESSAGE_CHARACTERS = 2000

Row = dict[str, Any]


class TimelineDocument:
    """The tests, containers, states and images of a test run, in the order in which they come.

    The output of containers is bounded for the whole page: what is left out first is that of the
    oldest containers of tests that passed.
    """

    def __init__(self) -> None:
        self.began_at: float = time.time()
        self._tests: list[Row] = []
        self._running: dict[tuple[str, str], Row] = {}
        self._containers: dict[tuple[str, int], Row] = {}
        self._states: list[Row] = []
        self._images: list[Row] = []
        self._output_characters = 0

    def add_report(self, report: pytest.TestReport, worker: str) -> None:
        """Add a phase of a test: its setup, call or teardown."""
        key = (worker, report.nodeid)
        test = self._running.get(key)
        if test is None or report.when == "setup":  # a test that is repeated is another row
            test = {
                "id": report.nodeid,
                "worker": worker,
                "phases": [],
                "message": "",
                "outcome": "passed",
            }
            self._tests.append(test)
            self._running[key] = test
        # The report of a worker that crashed has no times.
        start, stop = (report.start, report.stop) if report.stop else (time.time(),) * 2
        test["phases"].append([report.when, start, stop, report.outcome])
        outcome = _outcome_of(report)
        if outcome != "passed" and test["outcome"] not in ("failed", "error"):
            test["outcome"] = outcome
        if not test["message"] and not report.passed:
            test["message"] = message_of(report)[:_MESSAGE_CHARACTERS]
        if report.when == "teardown":
            del self._running[key]

    def add_collection_error(self, nodeid: str, message: str) -> None:
        """Add a module that could not be collected; each worker reports the same."""
        if any(test["id"] == nodeid for test in self._tests):
            return
        now = time.time()
        self._tests.append(
            {
                "id": nodeid,
                "worker": "",
                "phases": [["collect", now, now, "failed"]],
                "message": message[:_MESSAGE_CHARACTERS],
                "outcome": "error",
            }
        )

    def add_rows(self, worker: str, rows: Mapping[str, Iterable[Any]]) -> None:
        """Add what a process has collected; a container replaces its earlier row."""
        for index, row in rows.get("containers", ()):
            earlier = self._containers.get((worker, index), {})
            self._output_characters += size_of(row["output"]) - size_of(earlier.get("output"))
            self._containers[worker, index] = row
        self._states += rows.get("states", ())
        self._images += rows.get("images", ())
        if self._output_characters > PAGE_OUTPUT_CHARACTERS:
            self._leave_out()

    def _leave_out(self) -> None:
        failed = {test["id"] for test in self._tests if test["outcome"] in ("failed", "error")}
        rows = list(self._containers.values())
        for row in [
            *(row for row in rows if row["test"] not in failed),
            *(row for row in rows if row["test"] in failed),
        ]:
            if self._output_characters <= PAGE_OUTPUT_CHARACTERS * 3 // 4:
                return
            if row["output"] is not None:
                self._output_characters -= size_of(row["output"])
                row["output"] = {"lines": [], "cut": True}

    def finish(self, root: str, exit_status: int) -> dict[str, Any]:
        """Return the whole, which has JSON's types only."""
        containers = list(self._containers.values())
        run = {
            "root": os.path.basename(root) or root,
            "began_at": self.began_at,
            "ended_at": time.time(),
            "exit": _exit_words(exit_status),
            "versions": f"pytest-containers {version('pytest-containers')}, "
            f"pytest {pytest.__version__}, Python {platform.python_version()}, "
            f"Linux {platform.release()}, {os.cpu_count()} processors",
        }
        return {
            "run": run,
            "tests": self._tests,
            "containers": containers,
            "states": self._states,
            "images": self._images,
        }


def _outcome_of(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed"
    if report.failed and report.when in ("setup", "teardown"):
        return "error"
    return report.outcome


def message_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return why a test failed or was skipped, in a few words."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        return str(crash.message)
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return report.longreprtext


def _exit_words(exit_status: int) -> str:
    words = {0: "passed", 1: "failed", 2: "interrupted", 5: "no tests"}
    return words.get(int(exit_status), f"exit code {int(exit_status)}")
