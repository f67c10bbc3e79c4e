"""A time limit for seeds."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pytest_containers.model.engine import Container
from pytest_containers.model.errors import ContainersError, SeedError, hide_frames

__tracebackhide__ = hide_frames

_GRACE_S = 2.0


@contextmanager
def time_limit(limit_s: float | None, container: Container, title: str) -> Iterator[None]:
    """Raise an error if the body takes longer.

    The container is killed first, which ends code that waits for it. If the body still runs then,
    it is interrupted; this works in the main thread only.

    Raises:
        SeedError: The body took longer.
    """
    if limit_s is None:
        yield
        return
    done, late = threading.Event(), threading.Event()
    main = threading.current_thread() is threading.main_thread()
    # Workers of pytest-xdist ignore the signal.
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler) if main else None

    def watch() -> None:
        if done.wait(limit_s):
            return
        late.set()
        with suppress(ContainersError):  # the container has already ended
            container.kill()
        if main and not done.wait(_GRACE_S):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    watcher = threading.Thread(target=watch, name="pytest-containers seed limit", daemon=True)
    watcher.start()
    try:
        yield
    except BaseException as error:
        if late.is_set() and isinstance(error, Exception | KeyboardInterrupt):
            raise _too_long(title, limit_s) from error
        raise
    finally:
        done.set()
        watcher.join()
        if main and earlier is not None:  # None: the handler was not set from Python
            signal.signal(signal.SIGINT, earlier)
    if late.is_set():
        raise _too_long(title, limit_s)


def _too_long(title: str, limit_s: float) -> SeedError:
    return SeedError(
        f"{title} did not end within {limit_s:g} s and was interrupted; make it faster, or raise "
        "the limit with seed_timeout_s",
        timeout_s=limit_s,
    )
