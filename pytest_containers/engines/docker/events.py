"""The events of a run: one stream from the daemon, for ends of containers and for listeners."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pytest_containers.engines.events import Listeners
from pytest_containers.model.reports import Event, EventKind
from pytest_containers.model.threads import starting_threads

if TYPE_CHECKING:
    from pytest_containers.engines.docker.api import DockerApi
    from pytest_containers.engines.docker.connection import Exchange

_MAX_EVENT_BYTES = 1 << 20
_KINDS: Mapping[str, EventKind] = {
    "start": "start",
    "pause": "pause",
    "unpause": "unpause",
    "die": "die",
}


class DockerEvents:
    """The stream of events and its listeners.

    Args:
        label: The label of the run: ``key=value``.
        ended: Called with the id and the exit code of a container that has ended.
        known: Returns the name of a container of this engine by its id, and the kind of event that
            this one of the daemon is for listeners; None for other containers.
        lost: Called when the stream has ended and nobody has closed it.
    """

    def __init__(
        self,
        api: DockerApi,
        label: str,
        ended: Callable[[str, int], None],
        known: Callable[[str, EventKind], tuple[str, EventKind] | None],
        lost: Callable[[], None],
    ) -> None:
        self._api = api
        self._label = label
        self._ended = ended
        self._known = known
        self._lost = lost
        self._listeners = Listeners()
        self._exchange: Exchange | None = None
        self._closed = False

    def start(self) -> None:
        """Open the stream: what happens from now on is not missed."""
        filters = quote(json.dumps({"type": ["container"], "label": [self._label]}))
        self._exchange = self._api.exchange("events", "GET", f"/events?filters={filters}")
        thread = threading.Thread(target=self._read, name="pytest-containers events", daemon=True)
        with starting_threads():
            thread.start()

    def _read(self) -> None:
        exchange = self._exchange
        assert exchange is not None
        rest = b""
        with suppress(OSError, ValueError):
            for part in exchange.parts():
                *lines, rest = (rest + part).split(b"\n")
                if len(rest) > _MAX_EVENT_BYTES:
                    break
                for line in filter(None, lines):
                    # One that is none must not keep the ends of containers from those who wait.
                    with suppress(ValueError, LookupError, TypeError, AttributeError):
                        self._take(json.loads(line))
        if not self._closed:
            self._lost()
            self.close()

    def _take(self, event: Mapping[str, Any]) -> None:
        actor = event.get("Actor") or {}
        attributes = actor.get("Attributes") or {}
        container, action = actor.get("ID", ""), str(event.get("Action", ""))
        kind = _KINDS.get(action)
        if kind is None:
            return
        code: int | None = None
        if kind == "die":
            code = int(attributes.get("exitCode") or attributes.get("containerExitCode") or 0)
            self._ended(container, code)
        listed = self._known(container, kind)
        if listed is None:
            return
        name, kind = listed
        time_s = event.get("timeNano", 0) / 1e9 or time.time()
        self._listeners.publish(Event(kind, container, name, time_s, code))

    def publish(self, event: Event) -> None:
        """Send an event that the daemon does not tell of to all listeners."""
        self._listeners.publish(event)

    def listen(self, timeout_s: float | None) -> Iterator[Event]:
        """Iterate over the events from this call on; see `Engine.events`."""
        return self._listeners.listen(timeout_s)

    def close(self) -> None:
        """End the stream and all iterations; idempotent."""
        self._closed = True
        if self._exchange is not None:
            self._exchange.close()
        self._listeners.close()
