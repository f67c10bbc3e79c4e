"""The launch of a run, before it is known what it is for."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pytest_containers.runtime import launch


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    launch.drop()
    yield
    launch.drop()


def test_what_was_launched_ahead_is_taken_once() -> None:
    launch.launch_ahead()
    ahead = launch._ahead
    launch.launch_ahead()
    assert launch._ahead is ahead
    taken, another = launch.take(), launch.take()
    try:
        assert taken is ahead
        assert another.sock.fileno() != taken.sock.fileno()
    finally:
        taken.close()
        another.close()


def test_a_launcher_ends_with_its_socket() -> None:
    launch.launch_ahead()
    assert launch._ahead is not None
    errors_fd = os.dup(launch._ahead.errors_fd)
    sock = launch._ahead.sock.dup()
    try:
        launch.drop()
        sock.shutdown(1)
        sock.settimeout(60)
        assert sock.recv(1) == b""  # its end of the socket was closed with it
        assert os.pread(errors_fd, 1000, 0) == b""
    finally:
        sock.close()
        os.close(errors_fd)


def test_a_forked_child_does_not_take_the_launcher_of_its_parent() -> None:
    launch.launch_ahead()
    ahead = launch._ahead
    assert ahead is not None
    child = os.fork()
    if child == 0:
        code = 1
        try:
            taken = launch.take()
            code = 0 if taken is not ahead and taken.pid == os.getpid() else 2
            taken.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert launch.take() is ahead
    ahead.close()
