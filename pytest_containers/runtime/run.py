"""Start a run: the launcher's process, from a test process that may have threads and forks."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_containers.model.errors import ContainersError, StartError, UnsupportedError
from pytest_containers.model.threads import starting_threads

if TYPE_CHECKING:
    from pytest_containers.runtime.wire.channel import Channel
    from pytest_containers.runtime.wire.client import Client

_BOOT = (
    "import gc, sys; gc.disable(); sys.path.append(sys.argv[1]); "
    "from pytest_containers.runtime.launcher.main import main; main(3)"
)


_LOOK_S = 1.0
"""How often a thread that is waited for is looked at."""


class _Begun(NamedTuple):
    """A run that was started ahead of its engine."""

    pid: int
    options: tuple[str | None, dict[str, Any]]
    client: Client


_begun: _Begun | None = None


def begin_run(debug: str | None = None, **options: Any) -> None:
    """Start a run that the next `start_run` with the same options returns.

    What calls that is large, and is imported while the processes of the run start.

    Raises:
        SettingsError, UnsupportedError: As in `start_run`.
    """
    global _begun
    end_begun()
    _begun = _Begun(os.getpid(), (debug, options), _start(debug, options))


def end_begun() -> None:
    """End a run that was begun and is not used; idempotent."""
    global _begun
    begun, _begun = _begun, None
    if begun is not None:
        begun.client.close()


def start_run(debug: str | None = None, **options: Any) -> Client:
    """Start launcher, supervisor and network helper; returns at once, before they are ready.

    The run lives as long as this process and no longer, however it ends.

    Args:
        debug: A file that what the processes do is written to; None for none.
        **options: Fields of `StartRun`, but for the search path.

    Raises:
        SettingsError: `debug` cannot be written.
        UnsupportedError: Not Linux, or no interpreter to start.
        StartError: There is no memory, process or descriptor left for it.
    """
    global _begun
    if _begun is not None and _begun[:2] == (os.getpid(), (debug, options)):
        client, _begun = _begun.client, None
        return client
    return _start(debug, options)


def _start(debug: str | None, options: dict[str, Any]) -> Client:
    if sys.platform != "linux":
        raise UnsupportedError(
            f"containers need Linux; this is {sys.platform}. Run the tests in a virtual machine "
            "with Linux"
        )
    if not sys.executable:
        raise UnsupportedError("this process does not know its own interpreter (sys.executable)")
    try:
        return _begin(debug, options)
    except ContainersError:
        raise
    except MemoryError as error:
        raise StartError(
            f"start of the run of containers: {os.strerror(errno.ENOMEM)}", errno=errno.ENOMEM
        ) from error
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise StartError(
            f"start of the run of containers: {place}{error.strerror}", errno=error.errno
        ) from error


def _begin(debug: str | None, options: dict[str, Any]) -> Client:
    with contextlib.ExitStack() as on_failure:
        errors_fd = os.memfd_create("pytest-containers errors", os.MFD_CLOEXEC)
        on_failure.callback(os.close, errors_fd)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        on_failure.callback(ours.close)
        with theirs:
            _on_lasting_thread(lambda: _spawn(theirs.fileno(), errors_fd))
        # Only now, while the interpreter of the launcher starts.
        from pytest_containers.runtime.wire.channel import Channel, ChannelClosed
        from pytest_containers.runtime.wire.dispatch import send_operation
        from pytest_containers.runtime.wire.operations.run import StartRun

        channel = Channel(ours)
        search_path = [path for path in sys.path if path]
        client = make_client(channel, errors_fd, debug)
        request = StartRun(search_path=search_path, trace=client.trace_fds, **options)
        with contextlib.suppress(ChannelClosed):  # whoever asks for its facts hears why
            send_operation(channel, request)
        on_failure.pop_all()
    return client


def make_client(channel: Channel, errors_fd: int, debug: str | None) -> Client:
    """The test process's end of a channel to a run.

    Args:
        errors_fd: What the run's processes wrote to their standard error; owned from now on.
        debug: As in `start_run`.

    Raises:
        SettingsError: `debug` cannot be written.
    """
    if debug is None:
        from pytest_containers.runtime.wire.client import Client

        return Client(channel, errors_fd)
    from pytest_containers.runtime.wire.traced import TracedClient

    return TracedClient(channel, errors_fd, debug)


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
