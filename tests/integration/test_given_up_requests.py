"""Requests that are given up, or whose container goes away meanwhile."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

import pytest_containers as pc
from pytest_containers.runtime.wire.channel import encode
from pytest_containers.runtime.wire.client import Client
from pytest_containers.runtime.wire.message import Operation, pack
from pytest_containers.runtime.wire.operations.containers import (
    Exec,
    ListContainers,
    ReadLogs,
    WaitExit,
)
from pytest_containers.runtime.wire.operations.session import Cancel
from pytest_containers.runtime.wire.operations.starts import Restart, Run

TIMEOUT_S = 20.0


def becomes(condition: Callable[[], bool]) -> bool:
    """True once `condition` is; False if it is not in time."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def give_up_at_once(client: Client, operation: Operation[Any]) -> None:
    """Send a request and its cancellation together, so that they arrive together."""
    number = client._next_id
    client._next_id += 2
    frames = b""
    for request, id_ in ((operation, number), (Cancel(request=number), number + 1)):
        fields, _, blob = pack(request)
        frames += encode({"op": type(request).__name__, "id": id_, **fields}, 0, blob)
    client._channel.sock.sendall(frames)


def test_a_start_that_is_given_up_leaves_nothing(engine: pc.Engine) -> None:
    client = engine._core.client
    with engine.run("host:", ["sleep", "1000"]) as container:
        before = set(client.call(ListContainers()).ids)
        for _ in range(20):
            give_up_at_once(client, Run(request=container._request, config=container._config))
        assert becomes(lambda: set(client.call(ListContainers()).ids) == before)
        assert container.exec(["true"]).returncode == 0


def test_a_wait_that_is_given_up_is_not_answered(engine: pc.Engine) -> None:
    client = engine._core.client
    with engine.run("host:", ["sleep", "1000"]) as container:
        request = client.start(WaitExit(container=container.id))
        client.call(Cancel(request=request.id))
        container.kill()
        assert container.wait(TIMEOUT_S) == 137
        assert not request.answers


def test_a_program_whose_exec_is_given_up_is_killed(engine: pc.Engine) -> None:
    client = engine._core.client
    process = {"args": ["sleep"], "cwd": "/", "env": ["PATH=/usr/bin:/bin"]}
    script = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    with engine.run("host:", ["sleep", "1000"]) as container:

        def runs() -> bool:
            return "sleep 4242" in container.exec(["sh", "-c", script], text=True).stdout

        exec_ = Exec(
            container=container.id, user=None, groups=(), stdin=False, args=["sleep", "4242"],
            process=json.dumps(process).encode(),
        )  # fmt: skip
        request = client.start(exec_)
        started = client.receive(request, last=False)
        assert becomes(runs)
        client.call(Cancel(request=request.id))
        assert becomes(lambda: not runs())
        os.close(started.ended)
        for fd in started.streams:
            with open(fd, "rb") as file:
                assert file.read() == b""


@pytest.mark.parametrize("init", [False, True])
def test_who_follows_the_log_of_a_removed_container_is_told(engine: pc.Engine, init: bool) -> None:
    client = engine._core.client
    # A second process has the log open. With `init`, it outlives the program for a moment.
    command = ["sh", "-c", "sleep 1000 & exec sleep 1000"]
    for _ in range(5):
        container = engine.run("host:", command, init=init)
        request = client.start(ReadLogs(container=container.id, position=0, wait=True))
        container.remove()
        try:
            answer = client.receive(request, within_s=TIMEOUT_S)
        except pc.NotRunningError:
            continue
        assert (answer.position, answer.records) == (0, b"")


def test_a_running_container_is_not_restarted_beside_itself(engine: pc.Engine) -> None:
    with engine.run("host:", ["sleep", "1000"], name="db") as container:
        restart = Restart(
            container=container.id, request=container._request, config=container._config
        )
        with pytest.raises(pc.StartError, match="restart of container 'db': it is running"):
            engine._core.client.call(restart)
        assert container.exec(["true"]).returncode == 0
