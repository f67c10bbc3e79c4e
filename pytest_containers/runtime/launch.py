"""Launch a run: the launcher's process, from a test process that may have threads and forks.

The interpreter of the launcher takes long to start, and needs to know nothing for that. So it may
be launched before anything else is imported or decided (`launch_ahead`).
"""

from __future__ import annotations

import errno
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from pytest_containers.model.threads import starting_threads

_BOOT = (
    "import gc, sys; gc.disable(); sys.path.append(sys.argv[1]); "
    "from pytest_containers.runtime.launcher.main import main; main(3)"
)
_LOOK_S = 1.0
"""How often a thread that is waited for is looked at."""


class Launched(NamedTuple):
    """A launcher that waits for its `StartRun`; it ends with the socket.

    Attributes:
        pid: The process that launched it.
        sock: The socket to it.
        errors_fd: What the run's processes write to their standard error.
    """

    pid: int
    sock: socket.socket
    errors_fd: int

    def close(self) -> None:
        """End it."""
        self.sock.close()
        os.close(self.errors_fd)


_ahead: Launched | None = None


def launch_ahead() -> None:
    """Launch what the next `take` returns. Does nothing where that is not possible."""
    global _ahead
    if _ahead is None and sys.platform == "linux" and sys.executable:
        with suppress(OSError, MemoryError):  # `take` meets the same, and raises it
            _ahead = _launch()


def drop() -> None:
    """End what was launched ahead and not taken; idempotent."""
    global _ahead
    launched, _ahead = _ahead, None
    if launched is not None:
        launched.close()


def take() -> Launched:
    """Return a launcher, which is the caller's.

    Raises:
        OSError: It cannot be started.
    """
    global _ahead
    launched, _ahead = _ahead, None
    if launched is not None:
        if launched.pid == os.getpid():
            return launched
        launched.close()  # the parent's
    return _launch()


def _launch() -> Launched:
    errors_fd = os.memfd_create("pytest-containers errors", os.MFD_CLOEXEC)
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                _on_lasting_thread(lambda: _spawn(theirs.fileno(), errors_fd))
        except BaseException:
            ours.close()
            raise
    except BaseException:
        os.close(errors_fd)
        raise
    return Launched(os.getpid(), ours, errors_fd)


def _spawn(fd: int, errors_fd: int) -> int:
    """Start the launcher with nothing of ours but `fd`, as descriptor 3."""
    folder = os.path.realpath(__file__)
    for _ in range(3):
        folder = os.path.dirname(folder)
    arguments = [sys.executable, "-I", "-S", "-c", _BOOT, folder]
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
            # Whatever the tests ignore or block is theirs alone: without SIGCHLD, no process of
            # the run would hear of the end of its children.
            setsigmask=(),
            setsigdef=signal.valid_signals(),
        )
    finally:
        os.close(high)


class _LastingThread:
    """A thread that never ends, since a parent-death signal follows the parent *thread*."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._work: queue.SimpleQueue[tuple[Callable[[], int], queue.SimpleQueue[Any]]] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._serve, name="pytest-containers", daemon=True)
        with starting_threads():
            self._thread.start()

    def _serve(self) -> None:
        while True:
            work, answer = self._work.get()
            try:
                answer.put((work(), None))
            except Exception as error:  # noqa: BLE001 - is raised where it is waited for
                answer.put((0, error))

    def call(self, work: Callable[[], int]) -> int:
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._work.put((work, answer))
        while True:
            try:
                result, error = answer.get(timeout=_LOOK_S)
                break
            except queue.Empty:
                if not self._thread.is_alive():  # it had no memory to begin with
                    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), "a thread") from None
        if error is not None:
            raise error
        return int(result)


_thread: _LastingThread | None = None
_lock = threading.Lock()


def _on_lasting_thread(work: Callable[[], int]) -> int:
    global _thread
    with _lock:
        if _thread is None or _thread.pid != os.getpid():
            _thread = _LastingThread()
        thread = _thread
    return thread.call(work)
