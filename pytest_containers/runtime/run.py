"""Start a run: the launcher's process, from a test process that may have threads and forks."""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_containers.errors import UnsupportedError
from pytest_containers.runtime.channel import Channel
from pytest_containers.runtime.client import Client

_BOOT = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from pytest_containers.runtime.launcher.main import main; main(3)"
)


def start_run(**wanted: Any) -> Client:
    """Start launcher, supervisor and network helper; returns at once, before they are ready.

    The run lives as long as this process and no longer, however it ends.

    Args:
        **wanted: ``home``, for what has to be on disk;
            ``identity`` (``auto``, ``root``, ``range``, ``single``) and ``runner``
            (``auto``, ``stub``, ``python``), to get less than possible.

    Raises:
        UnsupportedError: Not Linux, or no interpreter to start.
    """
    if sys.platform != "linux":
        raise UnsupportedError(
            f"containers need Linux; this is {sys.platform}. Run the tests in a virtual machine "
            "with Linux"
        )
    if not sys.executable:
        raise UnsupportedError("this process does not know its own interpreter (sys.executable)")
    errors_fd = os.memfd_create("pytest-containers errors", os.MFD_CLOEXEC)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        _on_lasting_thread(lambda: _spawn(theirs.fileno(), errors_fd))
    channel = Channel(ours)
    search_path = [path for path in sys.path if path]
    channel.send({"search_path": search_path, **wanted})
    return Client(channel, errors_fd)


def _spawn(fd: int, errors_fd: int) -> int:
    """Start the launcher with nothing of ours but `fd`, as descriptor 3."""
    package_parent = str(Path(__file__).resolve().parents[2])
    arguments = [sys.executable, "-I", "-S", "-c", _BOOT, package_parent]
    # The environment of tests may hold secrets: nothing of it goes along.
    environment = {"LC_CTYPE": "C.UTF-8"}
    # A high number first: the descriptor could be 3 already, and then would be closed on exec.
    high = os.dup(fd)
    try:
        return os.posix_spawn(
            sys.executable,
            arguments,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, errors_fd, 2),
                (os.POSIX_SPAWN_DUP2, high, 3),
            ],
            setpgroup=0,
        )
    finally:
        os.close(high)


class _Thread:
    """A thread that never ends, since a parent-death signal follows the parent *thread*."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._work: queue.SimpleQueue[tuple[Callable[[], int], queue.SimpleQueue[Any]]] = (
            queue.SimpleQueue()
        )
        thread = threading.Thread(target=self._serve, name="pytest-containers", daemon=True)
        thread.start()

    def _serve(self) -> None:
        while True:
            work, answer = self._work.get()
            try:
                answer.put((work(), None))
            except OSError as error:
                answer.put((0, error))

    def call(self, work: Callable[[], int]) -> int:
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._work.put((work, answer))
        result, error = answer.get()
        if error is not None:
            raise error
        return int(result)


_thread: _Thread | None = None
_lock = threading.Lock()


def _on_lasting_thread(work: Callable[[], int]) -> int:
    global _thread
    with _lock:
        if _thread is None or _thread.pid != os.getpid():
            _thread = _Thread()
        thread = _thread
    return thread.call(work)
