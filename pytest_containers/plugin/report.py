"""The report of a failed test: whose line it names, and sections about its containers."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from pytest_containers.model import settings
from pytest_containers.model.engine import Container
from pytest_containers.model.errors import (
    ContainersError,
    RunLostError,
    first_report_of,
    tell_of_first,
)
from pytest_containers.model.harmless import harmless

if TYPE_CHECKING:
    from pytest_containers.model.reports import Refusals
    from pytest_containers.plugin.journal import ContainerLife
    from pytest_containers.plugin.workspace import Workspace
    from pytest_containers.state.warm import Outcome

_seen_key = pytest.StashKey[set[str]]()
_RUNNERS = ("_pytest", "pluggy", "pytest_asyncio")
"""Packages whose frames explain nothing about a container that does not start."""


def leave_runners_out(item: pytest.Item, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Remove the frames of pytest and its plugins from the traceback of an error of this project.

    Otherwise pytest shows the source of a plugin that wraps fixtures, which is never the cause.
    """
    left = excinfo.traceback.filter(lambda entry: not _is_of_runner(entry))
    if left and not item.config.getoption("fulltrace"):
        excinfo.traceback = left


def _is_of_runner(entry: Any) -> bool:
    package = str(entry.frame.f_globals.get("__name__", "")).partition(".")[0]
    # Implementations of hooks are called for all tests alike; those of the user may be the cause.
    of_user = os.path.basename(entry.frame.code.path) == "conftest.py"
    return package in _RUNNERS or (not of_user and entry.frame.code.name.startswith("pytest_"))


def explain_failure(
    report: pytest.TestReport, item: pytest.Item, excinfo: pytest.ExceptionInfo[BaseException]
) -> bool:
    """Complete the text of an error of this project; return False if it needs no sections.

    A fixture's error names the line of the test too. An error that has failed another test before,
    such as that of a seed, is one line that names this test.
    """
    error = excinfo.value
    lines = str(error).splitlines() or [""]
    headline = lines[0].removesuffix("; its last output:")
    first = first_report_of(error)
    if first not in (None, item.nodeid):
        report.longrepr = f"{type(error).__name__}: {headline} – see the report of {first}"
        return False
    tell_of_first(error, item.nodeid)
    path, number, _ = item.location
    place = f"{path}:{(number or 0) + 1}: {item.name}"
    if all(entry.ishidden(excinfo) for entry in excinfo.traceback if not _is_of_runner(entry)):
        message = "\n".join(f"E   {line}" for line in lines)
        report.longrepr = f"{place}\n{message.replace('E   ', f'E   {type(error).__name__}: ', 1)}"
    elif report.when == "setup":
        _add_section(report, "Requested by", place)
    return not isinstance(error, RunLostError)  # of which all containers would tell again


def add_sections(report: pytest.TestReport, item: pytest.Item, workspace: Workspace) -> None:
    """Add a section for each container to the report of a failed test.

    The sections become part of the text of the failure, since JUnit files drop other sections.
    """
    if not report.failed:
        return
    explain_endpoints(report)
    lines = workspace.settings.get(settings.LOG_LINES)
    seen = item.stash.setdefault(_seen_key, set())
    for container in _used(item, workspace):
        if container.id in seen and report.when == "teardown":
            continue
        seen.add(container.id)
        _add_section(report, *describe(container, lines, _label(workspace)))


def note_failure(item: pytest.Item, workspace: Workspace) -> None:
    """Note which containers a failed test uses, since they may be kept."""
    for container in _used(item, workspace):
        workspace.keeper.note_failure(container, item.nodeid)


def show_to_debugger(item: pytest.Item, workspace: Workspace) -> None:
    """Show the containers of a test to ``pytest-containers ps`` while a debugger has it."""
    names = []
    for container in _used(item, workspace):
        with suppress(ContainersError):  # it has ended with an error of its own
            workspace.keeper.show(container, item.nodeid)
            names.append(container.name)
    if names and workspace.patience is not None:
        workspace.patience.write(
            f"\ncontainers: {', '.join(names)}; in another terminal: "
            f"pytest-containers enter {names[-1]}\n"
        )


def write_warnings(reporter: pytest.TerminalReporter, messages: Sequence[str]) -> None:
    """Write the warnings of a run, each once though several workers may have it."""
    if messages:
        reporter.section("warnings of containers", yellow=True, bold=True)
    for message in dict.fromkeys(messages):
        reporter.write_line(f"WARNING: {harmless(message)}")


def kept_lines(lives: Sequence[ContainerLife], limit: int, keep_time: str) -> list[str]:
    """Return lines about the containers that stay after the test run.

    Args:
        lives: Those that were kept.
        limit: The number of those that stay.
        keep_time: How long they stay.
    """
    newest = sorted(lives, key=lambda life: life.removed_at or 0.0)[-limit:]
    name = newest[-1].name
    return [
        *(f"{life.test or 'session service'}: {life.name} ({life.image})" for life in newest),
        f"for {keep_time} at most: pytest-containers ps, logs {name}, enter {name}, rm --all",
    ]


def explain_endpoints(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Add a section for each endpoint that a failure mentions."""
    import sys

    endpoints = sys.modules.get("pytest_containers.services.endpoints")
    if endpoints is None or not report.failed:
        return
    for explanation in endpoints.mentioned(report.longreprtext):
        _add_section(report, "Endpoint", explanation)


def _add_section(
    report: pytest.TestReport | pytest.CollectReport, title: str, content: str
) -> None:
    add = getattr(report.longrepr, "addsection", None)
    if add is not None:
        add(title, content, "-")
    else:
        report.sections.append((title, content))


def state_lines(own: Sequence[Outcome], reported: Sequence[Sequence[Any]]) -> list[str]:
    """Return a line for each state: reused, or made and why.

    Args:
        own: The outcomes of this process.
        reported: The outcomes of workers, as tuples.
    """
    from pytest_containers.state.warm import Outcome

    outcomes: dict[tuple[str, str], Outcome] = {}
    for outcome in [*own, *(Outcome(*fields) for fields in reported)]:
        earlier = outcomes.get((outcome.label, outcome.title))
        # The outcome of the process that made the state has the reason.
        if earlier is None or (earlier.reused and not outcome.reused):
            outcomes[outcome.label, outcome.title] = outcome
    return [harmless(_state_line(outcome)) for outcome in outcomes.values()]


def _state_line(outcome: Outcome) -> str:
    import time

    title = f"{outcome.label}: {outcome.title}"
    if outcome.reused:
        ago = _duration(time.time() - outcome.made_at)
        return f"{title}: reused, made {ago} ago in {outcome.seconds:.2f} s"
    return f"{title}: made in {outcome.seconds:.2f} s: {outcome.reason}"


def _duration(seconds: float) -> str:
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"


def _used(item: pytest.Item, workspace: Workspace) -> Iterator[Container]:
    """Iterate over the containers of the test, and those of wider scopes that it uses."""
    names = set(getattr(item, "fixturenames", ()))
    for containers in workspace.live:
        for container in (*containers.failed, *containers.running):
            requested = container.name in names or f"{containers.scope}_containers" in names
            if containers.scope == "function" or requested:
                yield container
    yield from (container for container in workspace.shared_containers if container.name in names)


def _explain(refusals: Refusals) -> list[str]:
    """Return a line that tells what other machines a container was refused, if it was."""
    attempts = []
    if refusals.names:
        attempts.append(f"it looked up {', '.join(refusals.names)}")
    if refusals.count:
        times = "once" if refusals.count == 1 else f"{refusals.count} times"
        attempts.append(f"it tried {times} to connect to an address outside")
    if not attempts:
        return []
    return [f"refused: {' and '.join(attempts)}; egress=True lets it reach other machines"]


def _label(workspace: Workspace) -> str:
    """Return what the engine says of containers that are not as apart as others; mostly nothing."""
    with suppress(ContainersError):  # its run is lost
        return str(workspace.engine.facts.get("label", ""))
    return ""


def describe(container: Container, lines: int, label: str = "") -> tuple[str, str]:
    """Return a title and a text: image, command, state, last output; never the environment.

    Args:
        container: The container.
        lines: The number of lines of output to show.
        label: What its engine says of its containers.
    """
    title = f"Container {container.name}"
    try:
        container_logs = str(container.logs())
        code, status = container.exit_code, container.status
        refusals = container.refusals()
    except ContainersError as error:
        return title, harmless(f"command: {shlex.join(container.command)}\n{error}")
    state = status if code is None else f"exited with exit code {code}"
    if status == "removed":  # it did not become ready
        state = "running, then removed" if code is None else f"{state}, then removed"
    output = container_logs.splitlines()
    shown = output[-lines:] if lines else []
    left_out = (
        f" (the last {len(shown)} of {len(output)} lines)" if len(output) > len(shown) else ""
    )
    head = [
        f"image: {container.image.name}",
        f"command: {shlex.join(container.command)}",
        f"state: {state}",
        *([label] if label else []),
        *_explain(refusals),
        f"output{left_out}:" if output else "output: none",
    ]
    return title, harmless("\n".join([*head, *(f"    {line}" for line in shown)]))
