"""Events of containers, for listeners of all engines."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_containers.model.errors import ContainersError

if TYPE_CHECKING:
    from pytest_containers.model.engine import Container
    from pytest_containers.model.reports import Event, EventKind


class Listeners:
    """The iterations over events that go on; safe for use by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: list[queue.SimpleQueue[Event | None]] = []
        self._closed = False

    def __bool__(self) -> bool:
        return bool(self._queues)

    def publish(self, event: Event) -> None:
        """Send an event to all listeners."""
        with self._lock:
            for listener in self._queues:
                listener.put(event)

    def listen(self, timeout_s: float | None) -> Iterator[Event]:
        """Iterate over the events from this call on; see `Engine.events`."""
        listener: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        with self._lock:
            self._queues.append(listener)
            if self._closed:
                listener.put(None)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        return self._received(listener, deadline)

    def _received(
        self, listener: queue.SimpleQueue[Event | None], deadline: float | None
    ) -> Iterator[Event]:
        try:
            while True:
                left_s = None if deadline is None else max(deadline - time.monotonic(), 0)
                event = listener.get(timeout=left_s)
                if event is None:
                    return
                yield event
        except queue.Empty:
            return
        finally:
            with self._lock, suppress(ValueError):
                self._queues.remove(listener)

    def close(self) -> None:
        """End all iterations, also later ones."""
        with self._lock:
            self._closed = True
            for listener in self._queues:
                listener.put(None)


class Events:
    """The events of the containers of an engine; free of cost without listeners.

    Args:
        containers: Returns the containers that were not removed.
    """

    def __init__(self, containers: Callable[[], list[Container]]) -> None:
        self._containers = containers
        self._listeners = Listeners()
        self._lock = threading.Lock()
        self._watched: set[str] = set()

    def publish(self, kind: EventKind, container: Container, exit_code: int | None = None) -> None:
        """Send an event to all listeners."""
        if not self._listeners:
            return
        from pytest_containers.model.reports import Event

        event = Event(kind, container.id, container.name, time.time(), exit_code)
        self._listeners.publish(event)
        if kind in ("start", "restart"):
            self._watch(container)

    def listen(self, timeout_s: float | None) -> Iterator[Event]:
        """Iterate over the events from this call on; see `Engine.events`."""
        events = self._listeners.listen(timeout_s)
        for container in self._containers():
            self._watch(container)
        return events

    def close(self) -> None:
        """End all iterations."""
        self._listeners.close()

    def _watch(self, container: Container) -> None:
        """Start a thread that waits for the end of a container."""
        with self._lock:
            if container.id in self._watched:
                return
            self._watched.add(container.id)
        thread = threading.Thread(
            target=self._await_end, args=(container,), name="pytest-containers events", daemon=True
        )
        thread.start()

    def _await_end(self, container: Container) -> None:
        code: int | None = None
        with suppress(ContainersError):  # removed, or the run is gone, which is no "die" event
            code = container.wait()
        with self._lock:
            self._watched.discard(container.id)
        if code is not None:
            self.publish("die", container, code)
