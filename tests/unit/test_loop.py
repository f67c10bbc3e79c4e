"""The event loop: what is put off, and for how long."""

from __future__ import annotations

import os
import select

import pytest

from pytest_containers.runtime.wire.loop import Loop


def test_what_is_made_ahead_waits_for_those_who_wait() -> None:
    loop, seen = Loop(), []
    loop.waiting()
    loop.call_at_leisure(0.001, lambda: (seen.append("made"), loop.stop()))
    loop.call_later(0.004, lambda: (seen.append("ready"), loop.waited()))
    loop.run()
    assert seen == ["ready", "made"]


def test_what_is_made_ahead_waits_for_a_pause() -> None:
    loop, seen = Loop(), []
    reader, writer = os.pipe()

    def asked() -> None:
        os.read(reader, 1)
        seen.append("asked")
        if len(seen) < 3:
            os.write(writer, b"x")

    loop.add_reader(reader, asked)
    loop.call_at_leisure(0, lambda: None)
    loop.call_at_leisure(0.001, lambda: (seen.append("made"), loop.stop()))
    os.write(writer, b"x")
    loop.run()
    assert seen == ["asked"] * 3 + ["made"]
    os.close(reader)
    os.close(writer)


def test_nobody_puts_it_off_for_ever() -> None:
    loop, seen = Loop(), []
    loop.waiting()
    loop.call_at_leisure(0.0001, lambda: (seen.append("made"), loop.stop()))
    loop.run()
    assert seen == ["made"]


def test_timers_run_in_the_order_of_their_times() -> None:
    loop, seen = Loop(), []
    loop.call_later(0.0021, loop.stop)
    for delay_s in (0.0011, 0.0003, 0.0007):
        loop.call_later(delay_s, lambda delay_s=delay_s: seen.append(delay_s))
    loop.run()
    assert seen == [0.0003, 0.0007, 0.0011]


class _Recorder:
    """An epoll that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def register(self, fd: int, events: int) -> None:
        self.asked.append(("register", events))

    def modify(self, fd: int, events: int) -> None:
        self.asked.append(("modify", events))

    def unregister(self, fd: int) -> None:
        self.asked.append(("unregister", 0))


def test_the_kernel_is_asked_once_for_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, recorder = Loop(), _Recorder()
    monkeypatch.setattr(loop, "_epoll", recorder)
    for _ in range(2):  # the number may be another file's the second time
        loop.add_reader(7, lambda: None)
        loop.add_reader(7, lambda: None)
        loop.add_writer(7, lambda: None)
        loop.remove_writer(7)
        loop.remove_reader(7)
        loop.remove_reader(7)
    reading, both = select.EPOLLIN, select.EPOLLIN | select.EPOLLOUT
    assert recorder.asked == [
        ("register", reading), ("modify", both), ("modify", reading), ("unregister", 0),
    ] * 2  # fmt: skip
