"""The watcher of a run: a process that removes what the run has left when its pytest ends.

It holds the end of a pipe whose other end only pytest has, so that it sees every way in which
pytest can end. It removes by the label of the run, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pytest_containers.engines.docker.connection import Exchange
from pytest_containers.engines.docker.endpoint import DockerEndpoint

_WATCH = (
    "import sys; sys.path.insert(0, {root!r}); "
    "from pytest_containers.engines.docker.reaper import main; main()"
)
_KINDS = (
    ("/containers/json?all=1", "?force=1&v=1"),
    ("/networks", ""),
    ("/volumes", ""),
    ("/images/json", "?force=1"),
)
"""What is listed, and with which options it is removed, in this order. Not all images: one below
another, as that of a state, goes with the other only."""
_NOT_HAD = (404, 501)
"""What an endpoint answers that has no volumes, or none of these calls."""
_ORDERLY = b"q"
"""What pytest writes when it ends the run itself, with no request under way."""
_PATIENCE_S = 60.0
"""How long a daemon that does not answer is asked again."""
_SETTLED_S = 1.0
"""How long nothing may be left: a request that was under way makes something late."""


class Reaper:
    """The watcher process.

    Args:
        endpoint: The daemon.
        version: The version of the API: ``"1.41"``.
        labels: What has all of these labels is removed: ``["key=value"]``.
    """

    def __init__(self, endpoint: DockerEndpoint, version: str, labels: list[str]) -> None:
        root = os.fspath(Path(__file__).parents[3])
        facts = {
            "endpoint": asdict(endpoint),
            "version": version,
            "labels": labels,
            "pid": os.getpid(),
        }
        reader, self._writer = os.pipe()  # neither is inherited by programs
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _WATCH.format(root=root), json.dumps(facts)],
                stdin=reader,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt of the terminal is not for it
            )
        except BaseException:
            os.close(self._writer)
            raise
        finally:
            os.close(reader)

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def finish(self, timeout_s: float = 20.0) -> None:
        """Let it remove what is left, and wait for its end; idempotent.

        No request may be under way.

        Args:
            timeout_s: How long to wait; the process goes on after that.
        """
        if self._writer < 0:
            return
        with contextlib.suppress(OSError):
            os.write(self._writer, _ORDERLY)
        os.close(self._writer)
        self._writer = -1
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)


def main() -> None:
    """Wait for the end of pytest, then remove; the program of the process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    facts = json.loads(sys.argv[1])
    settled_s = 0.0 if _wait_for_end(facts["pid"]) else _SETTLED_S
    reap(DockerEndpoint(**facts["endpoint"]), facts["version"], facts["labels"], settled_s)


def _wait_for_end(pid: int) -> bool:
    """Wait until the pipe closes or the process ends; return True if that is orderly."""
    descriptors: list[int] = [0]
    with contextlib.suppress(OSError, AttributeError):
        # Children that pytest has forked without exec have the pipe open, too.
        descriptors.append(os.pidfd_open(pid))
    ready, _, _ = select.select(descriptors, [], [])
    return 0 in ready and os.read(0, 1) == _ORDERLY


def reap(
    endpoint: DockerEndpoint, version: str, labels: list[str], settled_s: float = _SETTLED_S
) -> None:
    """Remove all containers, networks, volumes and images with these labels.

    Args:
        endpoint: The daemon.
        version: The version of the API.
        labels: ``key=value``, all of which must match.
        settled_s: How long nothing must be found.
    """
    end = time.monotonic() + _PATIENCE_S
    settled: float | None = None
    while time.monotonic() < end:
        try:
            left = _sweep(endpoint, f"/v{version}", labels)
        except (OSError, ValueError):
            settled = None
            time.sleep(0.5)
            continue
        now = time.monotonic()
        settled = None if left else settled or now
        if settled is not None and now - settled >= settled_s:
            return
        time.sleep(0.1)


def _sweep(endpoint: DockerEndpoint, root: str, labels: list[str]) -> int:
    """Remove once what is there; return how much that was."""
    filters = quote(json.dumps({"label": labels}))

    def listed(path: str) -> Any:
        with Exchange(endpoint, "GET", f"{root}{path}") as exchange:
            if exchange.reply.status in _NOT_HAD:
                return None
            if not exchange.ok:
                raise ValueError(exchange.fault())
            return exchange.json()

    def remove(path: str) -> None:
        with (
            contextlib.suppress(OSError, ValueError),
            Exchange(endpoint, "DELETE", f"{root}{path}") as exchange,
        ):
            exchange.read()

    count = 0
    with ThreadPoolExecutor(8) as pool:
        for listing, options in _KINDS:
            kind = listing.split("/")[1].partition("?")[0]
            mark = "&" if "?" in listing else "?"
            found = listed(f"{listing}{mark}filters={filters}") or []
            found = found.get("Volumes") or [] if isinstance(found, dict) else found
            names = [each["Name" if kind == "volumes" else "Id"] for each in found]
            if kind == "networks":
                list(pool.map(lambda name: _vacate(endpoint, root, name), names))
            list(pool.map(remove, [f"/{kind}/{name}{options}" for name in names]))
            count += len(names)
    return count


def _vacate(endpoint: DockerEndpoint, root: str, network: str) -> None:
    """Disconnect what is not ours to remove: the container that the tests themselves run in."""
    with contextlib.suppress(OSError, ValueError, LookupError):
        with Exchange(endpoint, "GET", f"{root}/networks/{network}") as exchange:
            found = exchange.json()
        for container in found["Containers"] or {}:
            body = {"Container": container, "Force": True}
            path = f"{root}/networks/{network}/disconnect"
            with Exchange(endpoint, "POST", path, body) as exchange:
                exchange.read()
