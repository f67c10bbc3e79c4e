"""One event loop for launcher, supervisor and network helper: epoll, timers, nothing else."""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections.abc import Callable

Callback = Callable[[], object]
_PUT_OFF_TIMES = 15
_COARSE_S = 0.001  # what epoll_wait(2) rounds up to


class Loop:
    """A single-threaded event loop over file descriptors and timers.

    Callbacks run one after the other on the thread that called `run`; an exception in one
    ends `run`. A descriptor must be removed before it is closed.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._timers: list[tuple[float, int, Callback]] = []
        self._cancelled: set[int] = set()
        self._ids = itertools.count()
        self._idle: list[Callback] = []
        self._stopped = False
        self._active_at = 0.0
        self._waited_for = 0

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` is readable or hung up (level-triggered)."""
        self._readers[fd] = callback
        self._update(fd)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` is writable or hung up (level-triggered)."""
        self._writers[fd] = callback
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
            events |= select.EPOLLIN
        if fd in self._writers:
            events |= select.EPOLLOUT
        if not events:
            self._epoll.unregister(fd)
            return
        try:
            self._epoll.modify(fd, events)
        except FileNotFoundError:
            self._epoll.register(fd, events)

    def call_at_leisure(self, delay_s: float, callback: Callback) -> None:
        """As `call_later`; put off while somebody waits (`waiting`) for a server to get ready,
        and until nothing has happened for `delay_s`.

        Whoever asks for something now needs the processors more than what is made ahead. Not for
        ever: there may be no pause.
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
        """Somebody waits for something that the processors are needed for."""
        self._waited_for += 1

    def waited(self) -> None:
        """He does no longer, and goes on."""
        self._waited_for -= 1
        self._active_at = time.monotonic()

    def call_later(self, delay_s: float, callback: Callback) -> int:
        """Call `callback` once after `delay_s` seconds; returns an id for `cancel`."""
        timer = next(self._ids)
        heapq.heappush(self._timers, (time.monotonic() + delay_s, timer, callback))
        return timer

    def cancel(self, timer: int) -> None:
        """Forget a timer that may or may not have run."""
        self._cancelled.add(timer)
        if len(self._cancelled) > 64 + len(self._timers):
            self._cancelled &= {pending[1] for pending in self._timers}

    def call_idle(self, callback: Callback) -> None:
        """Call `callback` once, the next time no descriptor is ready and no timer is due."""
        self._idle.append(callback)

    def stop(self) -> None:
        """Make `run` return after the current callback."""
        self._stopped = True

    def run(self) -> None:
        """Dispatch until `stop` is called."""
        while not self._stopped:
            timeout = self._run_timers()
            if self._stopped:
                return
            ready = self._wait(0 if self._idle else timeout)
            if ready:
                self._active_at = time.monotonic()
            elif self._idle:
                self._idle.pop(0)()
                continue
            for fd, events in ready:
                if events & ~select.EPOLLOUT and fd in self._readers:
                    self._readers[fd]()
                if events & ~select.EPOLLIN and fd in self._writers:
                    self._writers[fd]()
                if self._stopped:
                    return

    def _wait(self, timeout: float) -> list[tuple[int, int]]:
        """What is ready, within `timeout` seconds; -1 is as long as it takes."""
        if 0 < timeout < _COARSE_S:
            # select(2) knows microseconds; its limit of descriptors is none for this early one.
            select.select([self._epoll], [], [], timeout)
            timeout = 0
        return self._epoll.poll(timeout)

    def _run_timers(self) -> float:
        """Run what is due; returns the seconds to the next timer, -1 for none."""
        while self._timers:
            due, timer, callback = self._timers[0]
            if timer in self._cancelled:
                self._cancelled.discard(timer)
                heapq.heappop(self._timers)
                continue
            delay = due - time.monotonic()
            if delay > 0:
                return delay
            heapq.heappop(self._timers)
            callback()
            if self._stopped:
                break
        return -1
