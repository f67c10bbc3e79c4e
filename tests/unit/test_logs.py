"""Reading what a container writes: all of it, and no faster than others can bear."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from pytest_containers.runtime.supervisor.logs import Log
from pytest_containers.runtime.wire.loop import Loop

_BURST_BYTES, _BYTES_PER_S = 16 << 20, 64 << 20


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def log(loop: Loop) -> Iterator[Log]:
    log = Log(loop, 1 << 20)
    yield log
    log.close()


def writes(log: Log, command: str) -> subprocess.Popen[bytes]:
    """Start a program that writes to a log."""
    inner, outer = os.pipe()
    process = subprocess.Popen(["sh", "-c", command], stdout=outer, start_new_session=True)
    os.close(outer)
    log.add(inner, 1)
    return process


def run(loop: Loop, until: Callable[[], bool]) -> None:
    def look() -> None:
        if until():
            loop.stop()
        else:
            loop.call_later(0.01, look)

    look()
    loop.run()


def test_a_flood_is_read_in_turn_with_all_else(loop: Loop) -> None:
    began = time.monotonic()  # a log may be read from the moment that it is made
    log = Log(loop, 1 << 20)
    process = writes(log, "exec yes")
    run(loop, lambda: time.monotonic() > began + 0.6 and log.end > _BURST_BYTES)
    end, most = log.end, _BURST_BYTES + _BYTES_PER_S * (time.monotonic() - began) + (1 << 16)
    process.kill()
    process.wait()
    log.close()
    assert _BURST_BYTES < end <= most


def test_nothing_of_a_flood_is_lost(loop: Loop, log: Log) -> None:
    process = writes(log, "yes | head -c 30m; echo the end")
    run(loop, lambda: not log.open)
    assert process.wait() == 0
    assert log.end == (30 << 20) + len("the end\n")
    assert log.since(log.end - 8)[1].endswith(b"the end\n")


def test_a_program_that_goes_on_to_write_does_not_hold_up_the_end(log: Log) -> None:
    process = writes(log, "yes & yes & yes & exec yes")
    while log.end < 1 << 20:
        log.drain()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    while log.open:
        log.drain()
