"""Start a run, and connect to it."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_containers.model.errors import ContainersError, StartError, UnsupportedError
from pytest_containers.runtime import launch

if TYPE_CHECKING:
    from pytest_containers.runtime.wire.channel import Channel
    from pytest_containers.runtime.wire.client import Client


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
    if _begun is not None:
        end_begun()
    _begun = _Begun(os.getpid(), (debug, options), _start(debug, options))


def end_begun() -> None:
    """End a run that was begun and is not used, also one that is only launched; idempotent."""
    global _begun
    launch.drop()
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
        launched = launch.take()
        errors_fd = launched.errors_fd
        on_failure.callback(launched.close)
        # Only now, while the interpreter of the launcher starts.
        from pytest_containers.runtime.wire.channel import Channel, ChannelClosed
        from pytest_containers.runtime.wire.dispatch import send_operation
        from pytest_containers.runtime.wire.operations.run import StartRun

        channel = Channel(launched.sock)
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
