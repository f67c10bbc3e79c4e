"""A limit for code that may hang."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pytest_containers.errors import ContainersError, SeedError, hide_frames

if TYPE_CHECKING:
    from pytest_containers.engines.native import Container

__tracebackhide__ = hide_frames

_GRACE_S = 2.0


@contextmanager
def time_limit(limit_s: float | None, container: Container, title: str) -> Iterator[None]:
    """Raise when the body takes longer.

    First the container is killed, which ends code that waits for it; what still goes on is
    interrupted, if it is in the main thread.

    Raises:
        SeedError: It took longer.
    """
    if limit_s is None:
        yield
        return
    done, late = threading.Event(), threading.Event()
    main = threading.current_thread() is threading.main_thread()
    # Not the handler that is there: workers of pytest-xdist ignore the signal.
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler) if main else None

    def watch() -> None:
        if done.wait(limit_s):
            return
        late.set()
        with suppress(ContainersError):  # it has ended: whatever hangs is not waiting for that
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
        if main and earlier is not None:  # a handler that was not set from Python cannot be, now
            signal.signal(signal.SIGINT, earlier)
    if late.is_set():
        raise _too_long(title, limit_s)


def _too_long(title: str, limit_s: float) -> SeedError:
    return SeedError(
        f"{title} did not end within {limit_s:g} s and was interrupted; let it do less, or give it "
        "more time with seed_timeout_s",
        timeout_s=limit_s,
    )
