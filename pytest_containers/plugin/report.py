"""What the report of a failed test says of its containers."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_containers import settings
from pytest_containers.errors import ContainersError

if TYPE_CHECKING:
    from pytest_containers.engines.native import Container
    from pytest_containers.plugin.manager import Manager
    from pytest_containers.state.warm import Outcome

_seen_key = pytest.StashKey[set[str]]()


def add_sections(report: pytest.TestReport, item: pytest.Item, manager: Manager) -> None:
    """Add a section for each container of the test, if it failed.

    They become part of the failure's own text: JUnit files keep that, and drop other sections.
    """
    if not report.failed:
        return
    explain_endpoints(report)
    lines = manager.settings.get(settings.LOG_LINES)
    seen = item.stash.setdefault(_seen_key, set())
    for container in _used(item, manager):
        if container.id in seen and report.when == "teardown":
            continue
        seen.add(container.id)
        title, text = describe(container, lines)
        add = getattr(report.longrepr, "addsection", None)
        if add is not None:
            add(title, text, "-")
        else:
            report.sections.append((title, text))


def explain_endpoints(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Say what an address is that a failure speaks of."""
    import sys

    endpoints = sys.modules.get("pytest_containers.plugin.endpoints")
    if endpoints is None or not report.failed:
        return
    for text in endpoints.mentioned(report.longreprtext):
        add = getattr(report.longrepr, "addsection", None)
        if add is not None:
            add("Endpoint", text, "-")
        else:
            report.sections.append(("Endpoint", text))


def state_lines(own: Sequence[Outcome], told: Sequence[Sequence[Any]]) -> list[str]:
    """A line for each state: whether it was there, else why not.

    Args:
        own: Of this process.
        told: Of workers, as tuples.
    """
    from pytest_containers.state.warm import Outcome

    known: dict[tuple[str, str], Outcome] = {}
    for one in [*own, *(Outcome(*fields) for fields in told)]:
        found = known.get((one.label, one.title))
        if found is None or (found.reused and not one.reused):  # who made it knows more
            known[one.label, one.title] = one
    return [_state_line(one) for one in known.values()]


def _state_line(one: Outcome) -> str:
    import time

    if one.reused:
        ago = _duration(time.time() - one.made_at)
        return f"{one.label}: {one.title}: reused, made {ago} ago in {one.seconds:.2f} s"
    return f"{one.label}: {one.title}: made in {one.seconds:.2f} s: {one.reason}"


def _duration(seconds: float) -> str:
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"


def _used(item: pytest.Item, manager: Manager) -> Iterator[Container]:
    """Containers of the test's own scope, and wider ones whose fixtures it uses."""
    names = set(getattr(item, "fixturenames", ()))
    for containers in manager.active:
        for container in (*containers.failed, *containers.running):
            asked = container.name in names or f"{containers.scope}_containers" in names
            if containers.scope == "function" or asked:
                yield container
    yield from (container for container in manager.shared if container.name in names)


def describe(container: Container, lines: int) -> tuple[str, str]:
    """A title and a text: command, state, exit code, last output. No environment, ever."""
    title = f"Container {container.name}"
    try:
        container_logs = str(container.logs())
        code, status = container.exit_code, container.status
    except ContainersError as error:
        return title, f"command: {shlex.join(container.command)}\n{error}"
    state = status if code is None else f"exited with exit code {code}"
    if status == "removed":  # it had failed to become ready
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
        f"output{left_out}:" if output else "output: none",
    ]
    return title, "\n".join([*head, *(f"    {line}" for line in shown)])
