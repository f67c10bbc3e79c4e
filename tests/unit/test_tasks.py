"""Tasks on the event loop: order, results, errors, cancellation."""

from __future__ import annotations

import time

import pytest

from pytest_containers.runtime.wire.defects import context
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.tasks import Cancelled, Future, first, owned, run_task, sleep


def test_a_task_runs_at_once_and_goes_on_where_its_future_is_set() -> None:
    seen: list[object] = []
    future: Future[int] = Future()

    async def work() -> str:
        seen.append("begun")
        seen.append(await future)
        return "result"

    task = run_task(work())
    task.ended.when_done(lambda: seen.append("ended"))
    assert seen == ["begun"]
    future.set(1)
    assert seen == ["begun", 1, "ended"]
    assert task.ended.result() == "result"


def test_several_tasks_wait_for_one_future_in_their_order() -> None:
    seen: list[tuple[str, int]] = []
    future: Future[int] = Future()

    async def work(name: str) -> None:
        seen.append((name, await future))

    tasks = [run_task(work(name)) for name in "abc"]
    tasks[1].cancel()
    future.set(7)
    assert seen == [("a", 7), ("c", 7)]


def test_an_error_is_raised_where_the_task_waits() -> None:
    future: Future[int] = Future()
    seen: list[str] = []

    async def inner() -> int:
        return await future

    async def work() -> None:
        try:
            await inner()
        except OSError as error:
            seen.append(str(error))

    run_task(work())
    future.fail(OSError("no"))
    assert seen == ["no"]


def test_a_cancelled_task_runs_its_finally_blocks_which_may_wait() -> None:
    seen: list[str] = []
    future: Future[int] = Future()
    cleaned: Future[None] = Future()

    async def work() -> None:
        try:
            await future
        finally:
            seen.append("cleaning")
            await cleaned
            seen.append("clean")

    task = run_task(work())
    task.cancel()
    assert seen == ["cleaning"]
    assert not task.ended.done
    cleaned.set(None)
    assert seen == ["cleaning", "clean"]
    with pytest.raises(Cancelled):
        task.ended.result()
    task.cancel()  # without effect


def test_a_result_that_comes_after_cancellation_is_released() -> None:
    released: list[int] = []
    future: Future[int] = Future()

    async def work() -> None:
        await owned(future, released.append)

    run_task(work()).cancel()
    assert released == []
    future.set(3)
    assert released == [3]


def test_a_task_that_is_cancelled_by_itself_ends_at_its_next_wait() -> None:
    seen: list[str] = []
    begin: Future[None] = Future()
    later: Future[None] = Future()

    async def work() -> None:
        await begin
        task.cancel()
        seen.append("still here")
        try:
            await later
        finally:
            seen.append("cleaned")

    task = run_task(work())
    begin.set(None)
    assert seen == ["still here", "cleaned"]
    assert task.ended.done


def test_an_error_in_one_task_ends_no_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "owner", None)
    future: Future[int] = Future()
    seen: list[int] = []

    async def fail() -> None:
        await future
        raise KeyError("lost")

    async def work() -> None:
        seen.append(await future)

    run_task(fail())
    run_task(work())
    future.set(4)
    assert seen == [4]
    assert "KeyError: 'lost'" in capsys.readouterr().err


@pytest.mark.parametrize("which", [0, 1])
def test_the_first_of_several_futures_is_enough(which: int) -> None:
    futures: list[Future[int]] = [Future(), Future()]
    task = run_task(first(*futures))
    futures[which].set(1)
    assert task.ended.done
    assert not futures[1 - which].awaited, "the other one is forgotten"
    futures[1 - which].set(1)


def test_sleeping_tasks_wake_in_the_order_of_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop()
    seen: list[float] = []
    clock = time.monotonic()

    async def work(delay_s: float) -> None:
        await sleep(loop, delay_s)
        seen.append(delay_s)

    with monkeypatch.context() as patch:  # all of them begin at the same time
        patch.setattr(time, "monotonic", lambda: clock)
        for delay_s in (0.003, 0.001, 0.002):
            run_task(work(delay_s))
        run_task(work(0.0015)).cancel()
        loop.call_later(0.02, loop.stop)
    loop.run()
    assert seen == [0.001, 0.002, 0.003]
