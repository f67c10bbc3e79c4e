"""When a container counts as ready: ``ready=pc.wait.port(5432)`` and the like.

Every wait ends at once when the container ends, with its exit code and last output. Waits for
listening sockets and for output are answered by the run when it happens; the others ask again
after pauses that grow from 1 to 50 ms.
"""

from __future__ import annotations

import re
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pytest_containers.errors import (
    ContainersError,
    ExitedError,
    NotReadyError,
    SpecError,
    WaitTimeoutError,
    hide_frames,
)

if TYPE_CHECKING:
    from pytest_containers.engines.protocol import Container

__tracebackhide__ = hide_frames

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.05
_TAIL_LINES = 10
_DEFAULT_TIMEOUT_S = 60.0

__all__ = [
    "Deadline", "Talk", "Wait", "all_of", "callable", "exec", "file", "health", "http", "log",
    "port", "tcp",
]  # fmt: skip


class Deadline:
    """A point in time that several waits share.

    Args:
        timeout_s: From now.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        """Seconds until then, at least a millisecond."""
        return max(self._end - time.monotonic(), 0.001)

    @property
    def passed(self) -> bool:
        """Whether it is over."""
        return time.monotonic() >= self._end


class Wait(Protocol):
    """A readiness test."""

    def until(self, container: Container, deadline: Deadline) -> None:
        """Return once `container` is ready.

        Raises:
            WaitTimeoutError: Not before `deadline`.
            ExitedError: The container ended first.
        """


class _Port:
    def __init__(self, ports: Sequence[int | str]) -> None:
        self._ports = ports

    def until(self, container: Container, deadline: Deadline) -> None:
        wanted = [_port_key(port) for port in self._ports]
        if not wanted:
            wanted = [(one.number, one.protocol) for one in container.spec.parsed_ports]
        if not wanted:
            raise SpecError("wait.port(): the container lists no ports; name some, wait.port(8000)")
        container.wait_listening(wanted, deadline.left_s)

    def __repr__(self) -> str:
        return f"port({', '.join(map(repr, self._ports))})"


def _port_key(port: int | str) -> tuple[int, str]:
    number, _, protocol = str(port).partition("/")
    return int(number), protocol or "tcp"


def port(*ports: int | str) -> Wait:
    """Something listens on `ports` (``8000``, ``"53/udp"``); on all of the spec's without any.

    The kernel is asked for listening sockets: nobody connects to find out.
    """
    return _Port(ports)


class _Log:
    def __init__(self, wanted: str | re.Pattern[str], times: int, stream: int | None) -> None:
        self._wanted = wanted
        self._times = times
        self._stream = stream

    def until(self, container: Container, deadline: Deadline) -> None:
        found, partial = 0, {1: "", 2: ""}
        try:
            for _, stream, data in container.follow(deadline.left_s):
                if self._stream not in (None, stream):
                    continue
                text = partial[stream] + data.decode(errors="replace")
                *lines, partial[stream] = text.split("\n")
                found += sum(self._count(line) for line in lines)
                if found + sum(map(self._count, partial.values())) >= self._times:
                    return
        except WaitTimeoutError:
            raise WaitTimeoutError(
                f"{self!r} came {found} times of {self._times}", timeout_s=deadline.timeout_s
            ) from None
        raise _exited(container, f"{self!r} came")

    def _count(self, line: str) -> int:
        if isinstance(self._wanted, str):
            return line.count(self._wanted)
        return sum(1 for _ in self._wanted.finditer(line))

    def __repr__(self) -> str:
        return f"log({self._wanted!r})"


def log(text_or_regex: str | re.Pattern[str], times: int = 1, *, stream: str | None = None) -> Wait:
    """The container wrote a line with a text, or one that a compiled regular expression finds.

    Args:
        text_or_regex: Text as it is, or ``re.compile(…)``; within one line.
        times: How often in all.
        stream: ``"stdout"`` or ``"stderr"``; None is both.
    """
    if isinstance(text_or_regex, str) and not text_or_regex:
        raise SpecError("wait.log(''): the text is empty, so it would match at once")
    numbers = {None: None, "stdout": 1, "stderr": 2}
    if stream not in numbers:
        raise SpecError(f"wait.log(): stream {stream!r} is not 'stdout' or 'stderr'")
    return _Log(text_or_regex, times, numbers[stream])


class _Asking(ABC):
    """A wait that asks again and again; subclasses say what."""

    def until(self, container: Container, deadline: Deadline) -> None:
        pause_s, why = _FIRST_PAUSE_S, ""
        while True:
            answer = self.ask(container, deadline)
            if answer is None:
                return
            if deadline.passed:
                # The last answer may only be that there was no time left for one.
                raise WaitTimeoutError(f"{self!r}: {why or answer}", timeout_s=deadline.timeout_s)
            why = answer
            # The pause ends early if the container does.
            try:
                container.wait(min(pause_s, deadline.left_s))
            except WaitTimeoutError:
                pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
            else:
                raise _exited(container, f"{self!r} was true")

    @abstractmethod
    def ask(self, container: Container, deadline: Deadline) -> str | None:
        """None if it is true, else why not."""


class _Http(_Asking):
    def __init__(
        self, path: str, number: int | None, status: int | range, method: str, tls: bool
    ) -> None:
        self._path = path
        self._number = number
        self._status = status
        self._method = method
        self._tls = tls

    def until(self, container: Container, deadline: Deadline) -> None:
        container.wait_listening([(self._port(container), "tcp")], deadline.left_s)
        super().until(container, deadline)

    def _port(self, container: Container) -> int:
        if self._number is not None:
            return self._number
        ports = [one.number for one in container.spec.parsed_ports if one.protocol == "tcp"]
        if not ports:
            raise SpecError("wait.http(): the container lists no TCP port; name one, port=8000")
        return ports[0]

    def ask(self, container: Container, deadline: Deadline) -> str | None:
        import http.client

        number = self._port(container)
        timeout_s = min(deadline.left_s, 5.0)
        try:
            with container.connect(number, timeout_s) as sock:
                sock.settimeout(timeout_s)
                connection = http.client.HTTPConnection("localhost", number)
                connection.sock = _over_tls(sock) if self._tls else sock
                connection.request(self._method, self._path)
                status = connection.getresponse().status
                connection.close()
        except (OSError, ContainersError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        wanted = self._status
        right = status in wanted if isinstance(wanted, range) else status == wanted
        return None if right else f"the answer was status {status}"

    def __repr__(self) -> str:
        return f"http({self._path!r})"


def _connected(container: Any, number: int, timeout_s: float) -> socket.socket:
    """A connection to a port: the straight way, where there is one."""
    if getattr(container, "reachable", False):
        return socket.create_connection((container.ip, number), timeout_s)
    sock: socket.socket = container.connect(number, timeout_s)
    sock.settimeout(timeout_s)
    return sock


class Talk(_Asking):
    """Connects, says something and looks at the answer; a base for waits of services.

    Args:
        request: What to say; empty where the server speaks first.
        number: The port, in the container.
    """

    def __init__(self, request: bytes, number: int) -> None:
        self._request = request
        self._number = number

    def until(self, container: Container, deadline: Deadline) -> None:
        """See `Wait.until`."""
        container.wait_listening([(self._number, "tcp")], deadline.left_s)
        super().until(container, deadline)

    def ask(self, container: Container, deadline: Deadline) -> str | None:
        """Whether it is ready now."""
        timeout_s = min(deadline.left_s, 5.0)
        try:
            with _connected(container, self._number, timeout_s) as sock:
                if self._request:
                    sock.sendall(self._request)
                return self.answer(sock.recv(4096))
        except (OSError, ContainersError) as error:
            return f"{type(error).__name__}: {error}"

    @abstractmethod
    def answer(self, data: bytes) -> str | None:
        """None if `data`, the beginning of the answer, is a good one; else what is wrong."""

    def __repr__(self) -> str:
        return f"talk on port {self._number}"


class _Said(Talk):
    def __init__(self, number: int, request: bytes, wanted: bytes) -> None:
        super().__init__(request, number)
        self._wanted = wanted

    def answer(self, data: bytes) -> str | None:
        return None if self._wanted in data else f"the answer was {data[:60]!r}"


def tcp(port: int, send: bytes = b"", expect: bytes = b"") -> Wait:
    """Somebody answers on a TCP port.

    Args:
        port: Of the container.
        send: What to say first; empty where the server speaks first.
        expect: What the beginning of the answer must contain.
    """
    return _Said(port, send, expect)


def _over_tls(sock: Any) -> Any:
    import ssl

    context = ssl.create_default_context()
    # Whether it answers is asked here, not who it is: test servers sign their own certificates.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(sock)


def http(
    path: str = "/",
    *,
    port: int | None = None,
    status: int | range = range(200, 400),
    method: str = "GET",
    tls: bool = False,
) -> Wait:
    """An HTTP request is answered with a good status.

    Args:
        port: Of the container; None is the first TCP port that the spec lists.
        status: What is good: a number or a range.
        tls: Speak HTTPS; any certificate will do.
    """
    return _Http(path, port, status, method, tls)


class _Exec(_Asking):
    def __init__(self, command: Sequence[str] | str, user: str | int | None) -> None:
        self._command = command
        self._user = user

    def ask(self, container: Container, deadline: Deadline) -> str | None:
        try:
            result = container.exec(
                self._command,
                user=self._user,
                timeout_s=deadline.left_s,
            )
        except WaitTimeoutError as error:
            return str(error)
        except ContainersError:
            if container.exit_code is None:
                raise  # there is no such program: waiting will not help
            return "the container is ending"
        return None if result.returncode == 0 else f"exit code {result.returncode}"

    def __repr__(self) -> str:
        return f"exec({self._command!r})"


def exec(command: Sequence[str] | str, *, user: str | int | None = None) -> Wait:
    """A program run in the container ends with 0.

    Raises when it waits:
        StartError: There is no such program.
    """
    return _Exec(command, user)


class _Health(_Asking):
    def __init__(self, test: Sequence[str] | None = None) -> None:
        self._test = test

    def ask(self, container: Container, deadline: Deadline) -> str | None:
        test = self._test
        if test is None:
            check = getattr(
                getattr(getattr(container, "image", None), "config", None), "healthcheck", None
            )
            if check is None or check.test[:1] in ((), ("NONE",)):
                raise SpecError("wait.health(): the image has no HEALTHCHECK; use another wait")
            test = check.test
        command = ["/bin/sh", "-c", *test[1:]] if test[0] == "CMD-SHELL" else list(test[1:])
        return _Exec(command, None).ask(container, deadline)

    def __repr__(self) -> str:
        return "health()"


def health() -> Wait:
    """The image's own HEALTHCHECK succeeds; asked for at once and often, not every 30 s."""
    return _Health()


class _File(_Asking):
    def __init__(self, path: str) -> None:
        self._path = path

    def ask(self, container: Container, deadline: Deadline) -> str | None:
        try:
            container.read_bytes(self._path)
        except ContainersError as error:
            # A directory or a socket is there as well, just not readable as a file.
            if getattr(error, "errno", None) == 2:
                return f"{self._path} is not there"
        return None

    def __repr__(self) -> str:
        return f"file({self._path!r})"


def file(path: str) -> Wait:
    """A file (or directory, or socket) is there in the container."""
    return _File(path)


class _Callable(_Asking):
    def __init__(self, function: Callable[[Any], object]) -> None:
        self._function = function

    def ask(self, container: Container, deadline: Deadline) -> str | None:
        try:
            result = self._function(container)
        except Exception as error:  # noqa: BLE001 - whatever a client library raises means "not yet"
            return f"{type(error).__name__}: {error}"
        return None if result or result is None else f"it returned {result!r}"

    def __repr__(self) -> str:
        return f"callable({getattr(self._function, '__qualname__', self._function)})"


def callable(function: Callable[[Any], object]) -> Wait:
    """``function(container)`` returns something true, or None, and does not raise."""
    return _Callable(function)


class _AllOf:
    def __init__(self, waits: Sequence[Wait]) -> None:
        self._waits = waits

    def until(self, container: Container, deadline: Deadline) -> None:
        for wait in self._waits:
            wait.until(container, deadline)

    def __repr__(self) -> str:
        return f"all_of({', '.join(map(repr, self._waits))})"


def all_of(*waits: Wait) -> Wait:
    """All of `waits`, one after the other, within one time limit."""
    return _AllOf(waits)


def until_ready(
    container: Any, ready: Wait | None, timeout_s: float | None, image_config: Any = None
) -> None:
    """Wait as the spec says, else for the image's HEALTHCHECK, else for the spec's ports.

    Raises:
        NotReadyError: Not in time; with the last output.
        ExitedError: The container ended first; with exit code and last output.
    """
    if ready is None:
        ready = _default(container, image_config)
    if ready is None:
        return
    limit_s = _DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s
    try:
        ready.until(container, Deadline(limit_s))
    except WaitTimeoutError as error:
        tail = log_tail(container)
        named = f"container {container.name!r}"
        raise NotReadyError(
            f"{named} was not ready after {limit_s:g} s: {error.message.removeprefix(f'{named}: ')}"
            + _shown(tail),
            timeout_s=limit_s, log_tail=tail,
        ) from None  # fmt: skip
    except ExitedError as error:
        if "log_tail" in error.data:
            raise
        raise _exited(container, "it was ready") from None


def _default(container: Any, image_config: Any) -> Wait | None:
    check = getattr(image_config, "healthcheck", None)
    if check is not None and check.test[:1] not in ((), ("NONE",)):
        return _Health(check.test)
    return port() if container.spec.ports else None


def log_tail(container: Any, lines: int = _TAIL_LINES) -> list[str]:
    """The last lines of a container's output, both streams."""
    return str(container.logs()).splitlines()[-lines:]


def _exited(container: Any, event: str) -> ExitedError:
    code, tail = container.wait(1.0), log_tail(container)
    return ExitedError(
        f"container {container.name!r} ended with exit code {code} before {event}" + _shown(tail),
        exit_code=code, log_tail=tail,
    )  # fmt: skip


def _shown(tail: Sequence[str]) -> str:
    return ("; its last output:\n" + "\n".join(_indented(tail))) if tail else "; it wrote nothing"


def _indented(lines: Sequence[str]) -> Iterator[str]:
    return (f"    {line}" for line in lines)
