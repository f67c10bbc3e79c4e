"""Transfers that nobody waits for: pushes of results, and fetches of what is needed next."""

from __future__ import annotations

import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Generic, TypeVar

from pytest_containers.model.errors import ContainersError, hide_frames
from pytest_containers.model.threads import starting_threads

__tracebackhide__ = hide_frames

_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031
_PATIENCE_S = 1.0
"""How long to wait for a thread that has no more to do than to notice."""

T = TypeVar("T")


class Pushes:
    """Pushes of results, one after the other, in a thread that lives while there are any.

    Thread-safe. In a forked child there are none. No failure is an error of the caller.

    States: in use, until `finish` gives up what is not pushed in time; nothing is pushed then.

    Args:
        tell: Gets a sentence about each problem.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._pid = os.getpid()
        self._waiting: deque[tuple[ExitStack, Callable[[], object]]] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._given_up = False

    def add(
        self, push: Callable[[], object], hold: Callable[[], AbstractContextManager[object]]
    ) -> None:
        """Have `push` called, after those before it.

        Args:
            hold: Keeps what is pushed from being removed; entered at once.
        """
        try:
            with ExitStack() as stack:
                stack.enter_context(hold())
                held = stack.pop_all()
            with self._changed:
                self._waiting.append((held, push))
                if self._busy:
                    return
                with starting_threads():
                    threading.Thread(target=self._run, daemon=True, name="pushes").start()
                self._busy = True
        except (ContainersError, OSError) as error:
            self._tell(f"a result is not shared: {error}")

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting or self._given_up:
                    self._busy = False
                    self._changed.notify_all()
                    return
                held, push = self._waiting.popleft()
            try:
                with held:
                    push()
            except (ContainersError, OSError) as error:
                if not self._given_up:
                    self._tell(f"a result is not shared: {error}")

    def finish(self, timeout_s: float) -> None:
        """Wait until all is pushed; give up the rest after a time, and tell of that."""
        if os.getpid() != self._pid:
            return
        with self._changed:
            if self._given_up or self._changed.wait_for(lambda: not self._busy, timeout_s):
                return
            self._given_up = True
            number = len(self._waiting) + 1
        self._tell(
            f"{number} of the results of this run were not pushed within {timeout_s:g} s, and are "
            "not shared"
        )


class FetchAhead(Generic[T]):
    """The answer of a function that a thread calls meanwhile.

    Args:
        work: The function; its errors are those of `ContainersError` and OSError.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._answer: T | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="fetch ahead")
        with starting_threads():
            self._thread.start()

    def _run(self) -> None:
        with suppress(ContainersError, OSError):  # whoever needs it does the same, and tells
            self._answer = self._work()

    def answer(self) -> T | None:
        """Wait for the answer; None if there is none."""
        self._thread.join()
        return self._answer


@contextmanager
def arriving(fetch: Callable[[Callable[[bytes], None]], None]) -> Iterator[int]:
    """Provide the end of a pipe that data comes from while it is fetched.

    Args:
        fetch: Gets a function that takes the data, piece by piece.

    Raises:
        Exception: What `fetch` raised, also in place of the error of a body that got only a part.
    """
    failures: list[BaseException] = []
    reader, writer = os.pipe2(os.O_CLOEXEC)

    def take(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(writer, rest) :]

    def run() -> None:
        try:
            fetch(take)
        except BrokenPipeError:
            pass  # the body has ended, and says why
        except BaseException as error:  # noqa: BLE001 - raised where the data is used
            failures.append(error)
        finally:
            os.close(writer)

    thread = threading.Thread(target=run, daemon=True, name="fetch")
    try:
        _enlarge(writer)
        with starting_threads():
            thread.start()
    except OSError:
        os.close(reader)
        os.close(writer)
        raise
    try:
        yield reader
    except Exception:
        os.close(reader)
        thread.join(_PATIENCE_S)
        if failures:
            raise failures[0] from None
        raise
    except BaseException:
        os.close(reader)  # the thread notices when it has more
        raise
    else:
        os.close(reader)
        thread.join()
        if failures:
            raise failures[0]


def _enlarge(pipe: int) -> None:
    """Let more of the data be on its way, where the system permits it."""
    with suppress(OSError):
        fcntl.fcntl(pipe, _F_SETPIPE_SZ, _PIPE_BYTES)
