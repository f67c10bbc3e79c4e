"""All endpoints of Docker's API, asked at once, for `pytest-containers doctor`."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from pytest_containers.engines.docker.api import ask_version, product_of, spoken_version
from pytest_containers.engines.docker.connection import lacks_package
from pytest_containers.engines.docker.endpoint import DockerEndpoint, all_endpoints, find_endpoint
from pytest_containers.engines.docker.place import is_remote
from pytest_containers.model.errors import ContainersError, SettingsError
from pytest_containers.model.machine import DaemonReport
from pytest_containers.model.threads import starting_threads

PATIENCE_S = 0.5


def begin_survey(patience_s: float = PATIENCE_S) -> Callable[[], list[DaemonReport]]:
    """Ask all endpoints, each in a thread of its own, and return at once.

    Args:
        patience_s: How long endpoints have for their answers, counted from this call.

    Returns:
        A function that waits for the answers: first the endpoint that the docker engine takes.
    """
    deadline = time.monotonic() + patience_s
    reports: list[DaemonReport] = []
    try:
        endpoints = [find_endpoint()]
    except SettingsError as error:
        endpoints = []
        reports = [DaemonReport("", error.source or "", True, False, False, error.message)]
    taken = [endpoint.url for endpoint in endpoints]
    endpoints += [endpoint for endpoint in all_endpoints() if endpoint.url not in taken]
    answers: queue.SimpleQueue[tuple[DockerEndpoint, DaemonReport]] = queue.SimpleQueue()

    def ask(endpoint: DockerEndpoint) -> None:
        answers.put((endpoint, _ask(endpoint, patience_s, is_taken=endpoint.url in taken)))

    for endpoint in endpoints:
        # One that hangs, such as in the look-up of a name, must not hold the end of the process.
        with starting_threads():
            threading.Thread(target=ask, args=(endpoint,), daemon=True).start()

    def collect() -> list[DaemonReport]:
        found: dict[DockerEndpoint, DaemonReport] = {}
        while len(found) < len(endpoints):
            try:
                endpoint, report = answers.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                break
            found[endpoint] = report
        late = f"it does not answer within {patience_s:g} s"
        return reports + [
            found.get(endpoint) or _report(endpoint, endpoint.url in taken, late)
            for endpoint in endpoints
        ]

    return collect


def _ask(endpoint: DockerEndpoint, patience_s: float, *, is_taken: bool) -> DaemonReport:
    try:
        facts = ask_version(endpoint, patience_s)
        version = spoken_version(facts, endpoint)
    except ContainersError as error:
        reason = error.message.partition(f"{endpoint}: ")[2] or error.message
        return _report(endpoint, is_taken, reason)
    product = f"{product_of(facts)} {facts.get('Version') or ''}".strip()
    return _report(endpoint, is_taken, lacks_package())._replace(
        reachable=True, product=product, api_version=version
    )


def _report(endpoint: DockerEndpoint, is_taken: bool, reason: str = "") -> DaemonReport:
    remote = is_remote(endpoint)
    return DaemonReport(endpoint.url, endpoint.source, is_taken, remote, False, reason)
