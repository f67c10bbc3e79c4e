"""Containers that stay after their test run, as commands see them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class KeepLimits:
    """How many containers are kept, and how long.

    Attributes:
        most: The largest number of kept containers of the user; the oldest one goes first.
        keep_s: The time from the end of the test run, in seconds.
    """

    most: int
    keep_s: float


@dataclass(frozen=True, slots=True)
class KeptContainer:
    """A container of a run that is kept, or that has a test at a debugger's prompt.

    Attributes:
        id: Its id.
        name: Its host name, which is that of its fixture if it has one.
        image: The name of its image.
        test: The node id of its test.
        command: Entrypoint and arguments.
        ports: Where its ports are, such as ``5432/tcp at 127.0.0.1:40001``.
        ip: Its IPv4 address; empty without a network.
        status: ``running``, ``paused`` or ``exited``.
        exit_code: Its exit code, once it has ended.
        kept: False if it ends with its test.
        kept_at: When it was kept, in seconds since the epoch.
        ends_in_s: When its run ends; None while the test run lives.
    """

    id: str
    name: str
    image: str
    test: str
    command: Sequence[str]
    ports: Sequence[str]
    ip: str
    status: str
    exit_code: int | None
    kept: bool
    kept_at: float
    ends_in_s: float | None


class KeptProgram(Protocol):
    """A program that runs in a kept container.

    Attributes:
        streams: Descriptors of its standard input (if asked for), output and error, or its
            terminal; the caller owns them.
    """

    streams: Sequence[int]

    def wait(self) -> int:
        """Wait for its end; return the exit code as a shell reports it."""


class KeptRun(Protocol):
    """A connection to a run that is kept."""

    def containers(self) -> Sequence[KeptContainer]:
        """Return its containers, the oldest first."""

    def records(
        self, container: KeptContainer, *, follow: bool, tail: int | None
    ) -> Iterator[tuple[float, int, bytes]]:
        """Iterate over the output of a container, as `Container.follow` does.

        Args:
            follow: Go on until the container ends.
            tail: Begin with the last lines; None begins at the start.
        """

    def exec(
        self,
        container: KeptContainer,
        command: Sequence[str],
        *,
        user: str | None,
        workdir: str | None,
        env: Mapping[str, str],
        stdin: bool,
        tty: bool,
    ) -> KeptProgram:
        """Start a program in a container.

        Raises:
            StartError: The program does not exist or cannot be run.
            NotRunningError: The container has ended.
        """

    def drop(self, container: KeptContainer | None) -> None:
        """Remove a kept container, or all of them; the run ends with the last one."""

    def close(self) -> None:
        """End the connection."""
