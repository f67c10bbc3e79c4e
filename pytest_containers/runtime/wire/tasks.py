"""Coroutines on the project's own loop: tasks, and the futures that they wait for.

A task runs until it awaits a future without a result; whoever sets the result runs the task on,
at once and on the same stack. So a wait costs no turn of the loop, and there is no queue. There is
one thread: between two awaits nothing else runs.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar, cast

from pytest_containers.runtime.wire.defects import context, report
from pytest_containers.runtime.wire.loop import Loop

_T = TypeVar("_T")


class Cancelled(BaseException):
    """Raised in a task where it waits, when it is given up. Clean up and let it pass."""


class Future(Generic[_T]):
    """A result that is not there yet. Set once; awaited by any number of tasks."""

    __slots__ = ("_callbacks", "_error", "_result", "done")

    def __init__(self) -> None:
        self.done: bool = False
        self._result: _T | None = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[], object]] = []

    def set(self, result: _T) -> None:
        """Set the result and run on whatever waits for it, in the order in which it asked."""
        self._result = result
        self._finish()

    def fail(self, error: BaseException) -> None:
        """Have `error` raised where the result is awaited."""
        self._error = error
        self._finish()

    def _finish(self) -> None:
        assert not self.done
        self.done = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def result(self) -> _T:
        """Return the result, or raise the error, of a future that is done."""
        assert self.done
        if self._error is not None:
            raise self._error
        return cast("_T", self._result)

    def when_done(self, callback: Callable[[], object]) -> None:
        """Call `callback` when the future is done; at once if it is."""
        if self.done:
            callback()
        else:
            self._callbacks.append(callback)

    @property
    def awaited(self) -> bool:
        """True if something waits for the result."""
        return bool(self._callbacks)

    def forget(self, callback: Callable[[], object]) -> None:
        """Take back a `when_done`; without effect if the callback was called."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    def __await__(self) -> Generator[Future[Any], None, _T]:
        if not self.done:
            yield self
        return self.result()


class Task:
    """A coroutine that runs. Made by `run_task`, which has run it up to its first wait.

    Attributes:
        ended: Done with the result of the coroutine, or its error, `Cancelled` among them. An
            error that nothing waits for is a defect of the request that the task works for.
    """

    __slots__ = ("_cancelled", "_coroutine", "_owner", "_running", "_waits_for", "ended")

    def __init__(self, coroutine: Coroutine[Future[Any], None, Any]) -> None:
        self.ended: Future[Any] = Future()
        self._coroutine = coroutine
        self._owner = context.owner
        self._waits_for: Future[Any] | None = None
        self._running = False
        self._cancelled = False
        self._run(None)

    def _go_on(self) -> None:
        self._run(None)

    def _run(self, error: BaseException | None) -> None:
        self._running, self._waits_for = True, None
        resumed_by, context.owner = context.owner, self._owner
        try:
            future = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
            while future.done or self._cancelled:
                if self._cancelled:
                    self._cancelled = False
                    future = self._coroutine.throw(Cancelled())
                else:
                    future = self._coroutine.send(None)
        except StopIteration as stop:
            self._running = False
            self.ended.set(stop.value)
        except BaseException as raised:  # noqa: BLE001 - it is the result
            self._running = False
            if isinstance(raised, Exception) and not self.ended.awaited:
                self._report(raised)
            self.ended.fail(raised)
        else:
            self._running, self._waits_for = False, future
            future.when_done(self._go_on)
        finally:
            context.owner = resumed_by

    def _report(self, error: Exception) -> None:
        if self._owner is None:
            report("in the background", error)
        else:
            self._owner.broken(error)

    def cancel(self) -> None:
        """Raise `Cancelled` where the task waits; what it awaits after that is waited for.

        A task that has ended stays as it is. One that runs at this moment, since it has caused
        the call itself, gets it at its next wait.
        """
        if self.ended.done:
            return
        if self._running:
            self._cancelled = True
            return
        assert self._waits_for is not None
        self._waits_for.forget(self._go_on)
        self._run(Cancelled())


def run_task(coroutine: Coroutine[Future[Any], None, Any]) -> Task:
    """Run a coroutine up to its first wait; it goes on by itself."""
    return Task(coroutine)


async def first(*futures: Future[Any]) -> None:
    """Wait until one of the futures is done, whatever its result."""
    if any(future.done for future in futures):
        return
    gate: Future[None] = Future()

    def let_through() -> None:
        if not gate.done:
            gate.set(None)

    for future in futures:
        future.when_done(let_through)
    try:
        await gate
    finally:
        for future in futures:
            future.forget(let_through)


async def owned(future: Future[_T], release: Callable[[_T], object]) -> _T:
    """Wait for a result that has to be released.

    Args:
        future: To be awaited.
        release: Called with the result if the task is cancelled before it comes.
    """
    try:
        return await future
    except Cancelled:

        def late() -> None:
            try:
                result = future.result()
            except Exception:  # noqa: BLE001 - there is nothing to release
                return
            release(result)

        future.when_done(late)
        raise


async def sleep(loop: Loop, delay_s: float) -> None:
    """Wait for `delay_s` seconds."""
    over: Future[None] = Future()
    timer = loop.call_later(delay_s, lambda: over.set(None))
    try:
        await over
    finally:
        loop.cancel(timer)


async def writable(loop: Loop, fd: int, timeout_s: float) -> bool:
    """Wait until `fd` can be written to, or has failed; False after `timeout_s` seconds."""
    outcome: Future[bool] = Future()
    loop.add_writer(fd, lambda: outcome.set(True))
    timer = loop.call_later(timeout_s, lambda: outcome.set(False))
    try:
        return await outcome
    finally:
        loop.remove_writer(fd)
        loop.cancel(timer)
