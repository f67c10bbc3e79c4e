"""One event loop for launcher, supervisor and network helper: epoll, timers, nothing else."""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from pytest_containers.runtime.wire.defects import Owner, context, report

_T = TypeVar("_T")
Callback = Callable[[], object]
_Registered = tuple[Callback, Owner | None]
_PUT_OFF_TIMES = 15
_MAX_FAILURES = 10
_IN, _OUT = int(select.EPOLLIN), int(select.EPOLLOUT)
_COARSE_S = 0.001  # what epoll_wait(2) rounds up to


class Loop:
    """A single-threaded event loop over file descriptors and timers.

    Callbacks run one after the other on the thread that called `run`. They work for the request
    that they were registered for (`defects.context`), which hears of an exception in one. A
    descriptor must be removed before it is closed.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, _Registered] = {}
        self._writers: dict[int, _Registered] = {}
        self._watched: dict[int, int] = {}
        self._timers: list[tuple[float, int, Callback, Owner | None]] = []
        self._failures: dict[int, int] = {}
        self._cancelled: set[int] = set()
        self._ids = itertools.count()
        self._stopped = False
        self._active_at = 0.0
        self._waited_for = 0

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` is readable or hung up (level-triggered)."""
        self._readers[fd] = (callback, context.owner)
        self._update(fd)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` is writable or hung up (level-triggered)."""
        self._writers[fd] = (callback, context.owner)
        self._update(fd)

    def remove_reader(self, fd: int) -> None:
        """Forget the reader of `fd`, if there is one."""
        if self._readers.pop(fd, None) is not None:
            self._update(fd)

    def remove_writer(self, fd: int) -> None:
        """Forget the writer of `fd`, if there is one."""
        if self._writers.pop(fd, None) is not None:
            self._update(fd)

    def _update(self, fd: int) -> None:
        events = 0
        if fd in self._readers:
            events |= _IN
        if fd in self._writers:
            events |= _OUT
        if not events:
            del self._watched[fd]
            self._epoll.unregister(fd)
        elif fd not in self._watched:
            self._watched[fd] = events
            self._epoll.register(fd, events)
        elif self._watched[fd] != events:
            self._watched[fd] = events
            self._epoll.modify(fd, events)

    def call_at_leisure(self, delay_s: float, callback: Callback) -> None:
        """Call `callback` once nothing has happened for `delay_s`, and no waiter is left.

        What is made ahead must not take processors from a request. It is put off a limited number
        of times only, since there may never be a pause.
        """
        self._put_off(delay_s, callback, _PUT_OFF_TIMES)

    def _put_off(self, delay_s: float, callback: Callback, times: int) -> None:
        def due() -> None:
            quiet = time.monotonic() - self._active_at >= delay_s
            if times and (self._waited_for or not quiet):
                self._put_off(delay_s, callback, times - 1)
            else:
                callback()

        self.call_later(delay_s, due)

    def waiting(self) -> None:
        """Count a waiter: a test waits for a server, which needs the processors."""
        self._waited_for += 1

    def waited(self) -> None:
        """The waiter is done; restart the idle timer."""
        self._waited_for -= 1
        self._active_at = time.monotonic()

    def call_later(self, delay_s: float, callback: Callback) -> int:
        """Call `callback` once after `delay_s` seconds; returns an id for `cancel`."""
        timer = next(self._ids)
        due = time.monotonic() + delay_s
        heapq.heappush(self._timers, (due, timer, callback, context.owner))
        return timer

    def cancel(self, timer: int) -> None:
        """Forget a timer that may or may not have run."""
        self._cancelled.add(timer)
        if len(self._cancelled) > 64 + len(self._timers):
            self._cancelled &= {pending[1] for pending in self._timers}

    def stop(self) -> None:
        """Make `run` return after the current callback."""
        self._stopped = True

    def run(self) -> None:
        """Dispatch until `stop` is called."""
        while not self._stopped:
            timeout = self._run_timers()
            if self._stopped:
                return
            ready = self._wait(timeout)
            if ready:
                self._active_at = time.monotonic()
            for fd, events in ready:
                reader = self._readers.get(fd) if events & ~_OUT else None
                if reader is not None and not self.run_for(*reader):
                    self._count_failure(fd)
                writer = self._writers.get(fd) if events & ~_IN else None
                if writer is not None and not self.run_for(*writer):
                    self._count_failure(fd)
                if self._stopped:
                    return

    def run_for(self, callback: Callback, owner: Owner | None) -> bool:
        """Run a callback for a request, which hears of a defect; False if there was one."""
        context.owner = owner
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - one request's defect is not the others' end
            if owner is None:
                report("in the background", error)
            else:
                owner.broken(error)
            return False
        return True

    def _count_failure(self, fd: int) -> None:
        """Forget a descriptor whose callbacks only fail: they would be called again for ever."""
        count = self._failures[fd] = self._failures.get(fd, 0) + 1
        if count >= _MAX_FAILURES:
            del self._failures[fd]
            self.remove_reader(fd)
            self.remove_writer(fd)

    def _wait(self, timeout: float) -> list[tuple[int, int]]:
        """Return what is ready within `timeout` seconds; -1 waits without limit."""
        if 0 < timeout < _COARSE_S:
            # select(2) knows microseconds; its limit of descriptors is none for this early one.
            select.select([self._epoll], [], [], timeout)
            timeout = 0
        return self._epoll.poll(timeout)

    def _run_timers(self) -> float:
        """Run what is due; returns the seconds to the next timer, -1 for none."""
        while self._timers:
            due, timer, callback, owner = self._timers[0]
            if timer in self._cancelled:
                self._cancelled.discard(timer)
                heapq.heappop(self._timers)
                continue
            delay = due - time.monotonic()
            if delay > 0:
                return delay
            heapq.heappop(self._timers)
            self.run_for(callback, owner)
            if self._stopped:
                break
        return -1


class Batch(Generic[_T]):
    """Collects what can wait a moment, and has it handled together: with one timer, not many.

    A pending timer makes each wait of the loop dearer, by waking it or by a second system call.

    Args:
        loop: Runs the timer.
        delay_s: How long the first of the things waits; the others wait less.
        handle: Called with the things, in order.
    """

    def __init__(self, loop: Loop, delay_s: float, handle: Callable[[list[_T]], object]) -> None:
        self._loop = loop
        self._delay_s = delay_s
        self._handle = handle
        self._waiting: list[_T] = []

    def add(self, *things: _T) -> None:
        """Add things to what waits."""
        if things and not self._waiting:
            self._loop.call_later(self._delay_s, self._due)
        self._waiting += things

    def _due(self) -> None:
        things, self._waiting = self._waiting, []
        self._handle(things)
