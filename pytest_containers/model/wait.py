"""Conditions that make a container ready: ``ready=pc.wait.port(5432)`` and others.

Every wait but `exit` fails at once when the container ends, with its exit code and last output. The
run reports listening sockets and output as soon as they appear; all other conditions are polled
with pauses that grow from 1 to 50 ms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pytest_containers.model.arguments import TEXT, check, require
from pytest_containers.model.engine import Container
from pytest_containers.model.errors import (
    ContainersError,
    ExitedError,
    NotReadyError,
    SpecError,
    WaitTimeoutError,
    hide_frames,
)
from pytest_containers.model.polling import (
    NOTHING,
    Http,
    Polling,
    Response,
    Talk,
    exited,
    log_tail,
    shown,
)
from pytest_containers.model.readiness import Deadline, Wait
from pytest_containers.model.spec import Port

if TYPE_CHECKING:
    from pytest_containers.model.image import HealthCheck
    from pytest_containers.model.matches import Matches

__tracebackhide__ = hide_frames

_DEFAULT_TIMEOUT_S = 60.0
_PROBE_TIMEOUT_S = 30.0  # of a HEALTHCHECK without a Timeout, as in Docker
_SHOWN_CHARACTERS = 300

__all__ = [
    "Deadline",
    "Talk",
    "Wait",
    "all_of",
    "any_of",
    "callable",
    "exec",
    "exit",
    "file",
    "health",
    "http",
    "log",
    "port",
    "tcp",
]


class _Port:
    def __init__(self, ports: Sequence[int | str]) -> None:
        self._ports = ports

    def until(self, container: Container, deadline: Deadline) -> None:
        keys = [_port_key(port) for port in self._ports]
        if not keys:
            keys = [(port.number, port.protocol) for port in container.spec.parsed_ports]
        if not keys:
            raise SpecError("wait.port(): the container lists no ports; name some, wait.port(8000)")
        container.wait_listening(keys, deadline.left_s)

    def __repr__(self) -> str:
        return f"port({', '.join(map(repr, self._ports))})"


def _port_key(port: int | str) -> tuple[int, str]:
    number, _, protocol = str(port).partition("/")
    return int(number), protocol or "tcp"


def port(*ports: int | str) -> Wait:
    """Wait until the container listens on `ports` (``8000``, ``"53/udp"``).

    Without arguments, wait for all ports of the spec. A port of the spec must be reachable at the
    IPv4 address of the container: a socket of 127.0.0.1 or of IPv6 only does not count. Other ports
    may listen on any address. The kernel reports the listening sockets, so the server sees no
    connection.
    """
    for each in ports:
        Port.parse(each)
    return _Port(ports)


class _Log:
    def __init__(self, pattern: str | re.Pattern[str], times: int, stream: int | None) -> None:
        self._pattern = pattern
        self._times = times
        self._stream = stream

    def until(self, container: Container, deadline: Deadline) -> None:
        from pytest_containers.model.matches import matches_of

        counts: dict[int, int] = {}
        searches: dict[int, Matches] = {}
        try:
            for _, stream, data in container.follow(deadline.left_s):
                if self._stream not in (None, stream):
                    continue
                if stream not in searches:
                    searches[stream] = matches_of(self._pattern)
                counts[stream] = searches[stream].feed(data)
                if sum(counts.values()) >= self._times:
                    return
        except WaitTimeoutError:
            raise WaitTimeoutError(
                f"{self!r} came {sum(counts.values())} times of {self._times}",
                timeout_s=deadline.timeout_s,
            ) from None
        raise exited(container, f"before {self!r} came")

    def __repr__(self) -> str:
        return f"log({self._pattern!r})"


def log(text_or_regex: str | re.Pattern[str], times: int = 1, *, stream: str | None = None) -> Wait:
    """Wait until the container has written a text, or a match of a regular expression.

    Output is decoded as UTF-8; every end of a line is ``\\n``, also a terminal's. Each stream is
    searched by itself.

    Args:
        text_or_regex: A literal text, which may have line breaks, or ``re.compile(…)``. A match of
            an expression lies within one line, unless the expression contains ``\\n`` or has
            `re.DOTALL`: then it may have up to 16,384 characters, and ``^`` and ``$`` match at
            each line.
        times: The number of matches to wait for.
        stream: ``"stdout"`` or ``"stderr"``; None is both.
    """
    check("wait.log()", text_or_regex=text_or_regex, times=times)
    if isinstance(text_or_regex, str) and not text_or_regex:
        raise SpecError("wait.log(''): the text is empty, so it would match at once")
    numbers = {None: None, "stdout": 1, "stderr": 2}
    if stream not in numbers:
        raise SpecError(f"wait.log(): stream {stream!r} is not 'stdout' or 'stderr'")
    return _Log(text_or_regex, times, numbers[stream])


def tcp(port: int, send: bytes = b"", expect: bytes = b"", *, tls: bool = False) -> Wait:
    """Wait until a server responds on a TCP port.

    Args:
        port: The port in the container.
        send: The bytes to send first; empty if the server speaks first.
        expect: Bytes that the start of the response must contain.
        tls: Speak TLS, with any certificate.
    """
    check("wait.tcp()", port=port, send=send, expect=expect, tls=tls)
    return Response(port, send, expect, tls)


def http(
    path: str = "/",
    *,
    port: int | None = None,
    status: int | range = range(200, 400),
    method: str = "GET",
    tls: bool = False,
) -> Wait:
    """Wait until an HTTP request is answered with an accepted status.

    Args:
        port: The port in the container; None is the first TCP port of the spec.
        status: The accepted status: a number or a range.
        tls: Speak HTTPS, with any certificate.
    """
    require("wait.http()", "path", path, TEXT)
    check("wait.http()", status=status, method=method, tls=tls)
    if port is not None:
        check("wait.http()", port=port)
    return Http(path, port, status, method, tls)


class _Exec(Polling):
    def __init__(self, command: Sequence[str] | str, user: str | int | None) -> None:
        self._command = command
        self._user = user

    def ask(self, container: Container, deadline: Deadline) -> str | None:
        return _probe(container, self._command, self._user, deadline.left_s)

    def __repr__(self) -> str:
        return f"exec({self._command!r})"


def _probe(
    container: Container, command: Sequence[str] | str, user: str | int | None, timeout_s: float
) -> str | None:
    """Run a program; return None if its exit code is 0, else why not, with its output."""
    try:
        result = container.exec(command, user=user, timeout_s=timeout_s)
    except WaitTimeoutError as error:
        ended = f"the program did not end within {timeout_s:.3g} s and was killed"
        return ended + _outputs(error.stdout, error.stderr)
    except ContainersError:
        if container.exit_code is None:
            raise  # the program does not exist: waiting will not help
        return "the container is ending"
    if result.returncode == 0:
        return None
    return f"exit code {result.returncode}{_outputs(result.stdout, result.stderr)}"


def _outputs(*outputs: bytes | None) -> str:
    """Return the end of what a program has written, for one line of a message."""
    decoded = (output.decode(errors="replace").strip() for output in outputs if output)
    shown = " ".join(" ".join(output.split()) for output in decoded if output)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = f"…{shown[-_SHOWN_CHARACTERS:]}"
    return f": {shown}" if shown else ""


def exec(command: Sequence[str] | str, *, user: str | int | None = None) -> Wait:
    """Wait until a program run in the container ends with exit code 0.

    The wait raises `StartError` if the program does not exist.
    """
    check("wait.exec()", command=command, user=user)
    return _Exec(command, user)


class _Health(Polling):
    def __init__(self, check: HealthCheck | None = None) -> None:
        self._check = check

    def ask(self, container: Container, deadline: Deadline) -> str | None:
        config = getattr(getattr(container, "image", None), "config", None)
        check = self._check or getattr(config, "healthcheck", None)
        if check is None or not check.test[1:]:
            raise SpecError("wait.health(): the image has no HEALTHCHECK; use another wait")
        timeout_s = min(check.timeout_s or _PROBE_TIMEOUT_S, deadline.left_s)
        return _probe(container, check.command(getattr(config, "shell", ())), None, timeout_s)

    def __repr__(self) -> str:
        return "health()"


def health() -> Wait:
    """Wait until the HEALTHCHECK of the image succeeds.

    It is polled without its interval. A probe that takes longer than the timeout of the HEALTHCHECK
    (30 s by default) is killed.
    """
    return _Health()


class _File(Polling):
    def __init__(self, path: str) -> None:
        self._path = path

    def ask(self, container: Container, deadline: Deadline) -> str | None:
        try:
            container.read_bytes(self._path)
        except ContainersError as error:
            # Another error means that a directory or a socket exists, which cannot be read.
            if getattr(error, "errno", None) == 2:
                return f"{self._path} does not exist"
        return None

    def __repr__(self) -> str:
        return f"file({self._path!r})"


def file(path: str) -> Wait:
    """Wait until a file, directory or socket exists in the container."""
    check("wait.file()", path=path)
    return _File(path)


class _Callable(Polling):
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
    """Wait until ``function(container)`` returns a true value or None without raising."""
    check("wait.callable()", function=function)
    return _Callable(function)


class _AllOf:
    def __init__(self, waits: Sequence[Wait]) -> None:
        self.waits = waits

    def until(self, container: Container, deadline: Deadline) -> None:
        for wait in self.waits:
            wait.until(container, deadline)

    def __repr__(self) -> str:
        return f"all_of({', '.join(map(repr, self.waits))})"


def all_of(*waits: Wait) -> Wait:
    """Wait for all of `waits`, one after the other, within one time limit."""
    check("wait.all_of()", waits=waits)
    return _AllOf(waits)


def any_of(*waits: Wait) -> Wait:
    """Wait for the first of `waits`, which are tried at the same time, each in a thread.

    The error tells of each why it was not ready. A wait that raises anything else than a
    `ContainersError` ends the race.
    """
    from pytest_containers.model.race import AnyOf

    check("wait.any_of()", waits=waits)
    if not waits:
        raise SpecError("wait.any_of(): there is nothing to wait for; pass at least one wait")
    return AnyOf(waits)


class _Exit:
    def __init__(self, code: int) -> None:
        self._code = code

    def until(self, container: Container, deadline: Deadline) -> None:
        try:
            code = container.wait(deadline.left_s)
        except WaitTimeoutError:
            raise WaitTimeoutError(
                f"{self!r}: it did not end", timeout_s=deadline.timeout_s
            ) from None
        if code != self._code:
            raise exited(container, f"and not with {self._code}")

    def __repr__(self) -> str:
        return f"exit({self._code})"


def exit(code: int = 0) -> Wait:
    """Wait until the container has ended with an exit code, as a job such as a migration does."""
    check("wait.exit()", code=code)
    return _Exit(code)


def may_end(ready: object) -> bool:
    """Return True for a wait that a container which has ended may satisfy."""
    waits = getattr(ready, "waits", ())
    return isinstance(ready, _Exit) or any(may_end(wait) for wait in waits)


def until_ready(
    container: Any, ready: Wait | None, timeout_s: float | None, image_config: Any = None
) -> None:
    """Wait for `ready`, else for the HEALTHCHECK of the image, else for the ports of the spec.

    Raises:
        NotReadyError: The time ran out; with the last output.
        ExitedError: The container ended first; with its exit code and last output.
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
            + shown(tail),
            timeout_s=limit_s,
            log_tail=tail,
        ) from None
    except ExitedError as error:
        if error.log_tail or error.message.endswith(NOTHING):
            raise
        raise exited(container, "before it was ready") from None


def _default(container: Any, image_config: Any) -> Wait | None:
    check = getattr(image_config, "healthcheck", None)
    if check is not None and check.test[:1] not in ((), ("NONE",)):
        return _Health(check)
    return port() if container.spec.ports else None
