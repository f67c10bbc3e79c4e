"""The side of the engine's process: supervisor, inits and programs, as one thread hears of them."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pytest_containers.engines.process import wire
from pytest_containers.engines.process.places import Places
from pytest_containers.model.errors import (
    NotRunningError,
    RunLostError,
    StartError,
    UnsupportedError,
    hide_frames,
)
from pytest_containers.model.threads import starting_threads

__tracebackhide__ = hide_frames

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from pytest_containers.engines.process.supervisor import main; main()"
)
_CHUNK_BYTES = 1 << 16
_ANSWER_S, _LOST_S = 60.0, 1.0
_MOST_WORDS_BYTES = 1 << 16


class BoxProgram:
    """A program in a container.

    Attributes:
        pid: Its number.
        code: Its exit code as a shell reports it; None while it runs.
        ended: Is set at its end.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None
        self.ended: threading.Event = threading.Event()
        self.at_end: Callable[[], None] = lambda: None


class Init:
    """The channel to the init of a container, for several threads.

    Args:
        run: Its run.
        channel: The channel, owned from now on.
        name: The name of the container, for messages.

    Attributes:
        was_killed: True if it has ended and nobody has asked it to.
    """

    def __init__(self, run: Run, channel: socket.socket, name: str) -> None:
        self._run = run
        self._channel = channel
        self._name = name
        self._answers: dict[int, tuple[threading.Event, dict[str, Any]]] = {}
        self._programs: dict[int, BoxProgram] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._is_closing = False
        self.was_killed: bool = False
        # The answer to the start, which has no number of its own.
        self._answers[0] = (threading.Event(), {})

    def confined(self) -> None:
        """Wait until the container is confined.

        Raises:
            StartError: A step failed.
        """
        self._wait(0)

    def spawn(
        self, fields: dict[str, Any], fds: Sequence[int], at_end: Callable[[], None] = lambda: None
    ) -> BoxProgram:
        """Start a program.

        Args:
            fields: What `init` takes.
            fds: Its streams.
            at_end: Is called on the thread of the run when the program has ended.

        Raises:
            StartError: It cannot be started.
        """
        number = next(self._numbers)
        with self._lock:
            self._answers[number] = (threading.Event(), {"at_end": at_end})
        self._send({"op": "spawn", "id": number, **fields}, fds)
        return self._wait(number)["program"]  # type: ignore[no-any-return]  # as `_on_answer` put it

    def kill(self, program: BoxProgram, signum: int) -> None:
        """Send a signal to a program of this init."""
        self._send({"op": "kill", "pid": program.pid, "signal": signum})

    def stop_programs(self, *, stopped: bool) -> None:
        """Stop all programs, or let them continue."""
        number = next(self._numbers)
        with self._lock:
            self._answers[number] = (threading.Event(), {})
        self._send({"op": "stop" if stopped else "continue", "id": number})
        self._wait(number)

    def close(self) -> None:
        """Kill all programs and end the init; idempotent."""
        self._is_closing = True
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)

    def wait_closed(self) -> None:
        """Wait until the init has ended, all programs before it."""
        self.closed.wait(_ANSWER_S)

    @property
    def closed(self) -> threading.Event:
        """Is set when the init has ended."""
        return self._closed

    def attach(self) -> None:
        """Begin to hear of the init."""
        self._closed = threading.Event()
        self._run.listen(self._channel.fileno(), self._on_message)

    def _send(self, fields: dict[str, Any], fds: Sequence[int] = ()) -> None:
        try:
            wire.send(self._channel, fields, fds)
        except OSError as error:
            if self._run.lost:
                raise self._run.loss() from None
            raise NotRunningError(f"container {self._name!r} has ended: {error.strerror}") from None

    def _wait(self, number: int) -> dict[str, Any]:
        event, answer = self._answers[number]
        if not event.wait(_ANSWER_S):
            raise StartError(f"container {self._name!r}: no answer within {_ANSWER_S} s")
        with self._lock:
            self._answers.pop(number, None)
        if "lost" in answer:
            if self._run.lost:
                raise self._run.loss()
            raise NotRunningError(f"container {self._name!r} has ended")
        if "failed" in answer:
            number = answer["errno"] or 0
            raise StartError(
                f"start in container {self._name!r}: {answer['failed']}: {os.strerror(number)}",
                errno=number,
                exit_code=(126 if number != 2 else 127) if answer["failed"] == "run" else None,
            )
        return answer

    def _on_message(self) -> None:
        message = wire.receive(self._channel)
        if message is None:
            self._run.ignore(self._channel.fileno())
            self.was_killed = not self._is_closing
            with self._lock:
                waiting = list(self._answers.values())
                programs, self._programs = self._programs, {}
            for program in programs.values():
                self._end(program, 137)
            for event, answer in waiting:
                answer["lost"] = True
                event.set()
            self._channel.close()
            self._closed.set()
            return
        fields = message.fields
        if "ended" in fields:
            ended = self._programs.pop(fields["ended"], None)
            if ended is not None:
                self._end(ended, fields["code"])
            return
        with self._lock:
            waiting_for = self._answers.get(fields.get("id", 0))
        if waiting_for is None:  # it has been given up, or a program speaks for its init
            return
        event, answer = waiting_for
        if "pid" in fields:
            program = answer["program"] = self._programs[fields["pid"]] = BoxProgram(fields["pid"])
            program.at_end = answer["at_end"]
        answer.update(fields)
        event.set()

    @staticmethod
    def _end(program: BoxProgram, code: int) -> None:
        program.code = code
        program.at_end()
        program.ended.set()


class Run:
    """The processes of an engine; they start on first use.

    Attributes:
        lost: True once the supervisor is gone.
        pids: The numbers of the supervisor and of the guardian.
    """

    def __init__(self) -> None:
        self.lost: bool = False
        self.pids: list[int] = []
        self._lock = threading.Lock()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._epoll = select.epoll()
        self._dropped: dict[str, tuple[threading.Event, dict[str, Any]]] = {}
        self.places: Places = Places()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._process, self._channel = self._start()
        started = wire.receive(self._channel)
        if started is None:
            raise UnsupportedError(f"the process engine did not start{self._last_words()}")
        self.pids = started.fields["started"]
        self.listen(self._channel.fileno(), self._on_message)
        self._thread = threading.Thread(
            target=self._serve, name="pytest-containers processes", daemon=True
        )
        with starting_threads():
            self._thread.start()

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = wire.pair()
        package_parent = str(Path(__file__).resolve().parents[3])
        # `pass_fds` keeps numbers, and 3 may be taken.
        boot = f"import os; n = {theirs.fileno()}; n == 3 or (os.dup2(n, 3), os.close(n)); {_BOOT}"
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", boot, package_parent, str(os.getpid()),
             *self.places.folders],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=[theirs.fileno()],
            env={"LC_CTYPE": "C.UTF-8"},
            start_new_session=True,
        )  # fmt: skip
        theirs.close()
        return process, ours

    def _last_words(self) -> str:
        """Return the last line that supervisor or guardian have written, after a colon.

        They write where the same open file stands, which this must not move.
        """
        written = b""
        with contextlib.suppress(ValueError):  # closed
            written = os.pread(self._errors.fileno(), _MOST_WORDS_BYTES, 0)
        lines = written.decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def loss(self, then: str = "all its containers went with it") -> RunLostError:
        """Return the error for a run that is gone."""
        return RunLostError(f"the run of the process engine is gone{self._last_words()}; {then}")

    # -------------------------------------------------------------------- containers

    def create(self, key: str, name: str, fields: dict[str, Any]) -> Init:
        """Make the init of a container.

        Args:
            key: Its id.
            name: Its name.
            fields: What the supervisor takes.
        """
        ours, theirs = wire.pair()
        init = Init(self, ours, name)
        init.attach()
        try:
            self._tell({"op": "create", "key": key, **fields}, [theirs.fileno()])
        finally:
            theirs.close()
        return init

    def set_network(self, network: str, parents: Sequence[str]) -> None:
        """Make a network known."""
        self._tell({"op": "network", "network": network, "parents": list(parents)})

    def drop(self, key: str) -> int:
        """Forget a container that has ended; return how many connections it was refused."""
        waiting = self._dropped[key] = (threading.Event(), {})
        try:
            self._tell({"op": "drop", "key": key})
        except RunLostError:
            return 0
        waiting[0].wait(_ANSWER_S)
        return int(waiting[1].get("refused", 0))

    def is_lost_soon(self) -> bool:
        """Return True if the supervisor ends now, as it does when a watcher was killed."""
        limit = time.monotonic() + _LOST_S
        while not self.lost and time.monotonic() < limit:
            time.sleep(_LOST_S / 100)
        return self.lost

    def _tell(self, fields: dict[str, Any], fds: Sequence[int] = ()) -> None:
        if self.lost:
            raise self.loss("make another Engine")
        try:
            with self._lock:
                wire.send(self._channel, fields, fds)
        except OSError:
            self.lost = True
            raise self.loss("make another Engine") from None

    def _on_message(self) -> None:
        message = wire.receive(self._channel)
        if message is None:
            self.lost = True
            self.ignore(self._channel.fileno())
            for event, _ in self._dropped.values():
                event.set()
            return
        waiting = self._dropped.pop(message.fields["dropped"], None)
        if waiting is not None:
            waiting[1].update(message.fields)
            waiting[0].set()

    # ------------------------------------------------------------------------ thread

    def listen(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back on the thread of the run whenever a descriptor is readable."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, select.EPOLLIN)

    def ignore(self, fd: int) -> None:
        """Listen to a descriptor no more; call it on the thread of the run, before its close."""
        self._callbacks.pop(fd, None)
        with contextlib.suppress(OSError, ValueError):
            self._epoll.unregister(fd)

    def _serve(self) -> None:
        while True:
            try:
                ready = self._epoll.poll()
            except (OSError, ValueError):  # closed
                return
            for fd, _ in ready:
                callback = self._callbacks.get(fd)
                if callback is not None:
                    callback()

    def close(self) -> None:
        """End all processes; idempotent."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        self._process.wait()
        self.lost = True
        self.places.remove()
        self._errors.close()


def read_part(fd: int) -> bytes | None:
    """Read from a pipe that does not block; None if nothing is there now."""
    try:
        return os.read(fd, _CHUNK_BYTES)
    except BlockingIOError:
        return None
    except OSError:  # EIO: no program has the terminal open any more
        return b""
