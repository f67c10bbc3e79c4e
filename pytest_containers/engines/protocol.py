"""What an engine and its containers offer, whoever implements them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from pytest_containers.spec import ContainerSpec

Status = Literal["created", "running", "paused", "exited", "removed"]


@dataclass(frozen=True, slots=True)
class Logs:
    """What a container has written so far (the newest part, see `ContainerSpec.log_limit_bytes`).

    Attributes:
        records: ``(time, stream, data)`` in order of arrival; time in seconds since the epoch,
            stream 1 (stdout) or 2 (stderr).
    """

    records: tuple[tuple[float, int, bytes], ...]

    @property
    def stdout_bytes(self) -> bytes:
        """All of standard output."""
        return b"".join(data for _, stream, data in self.records if stream == 1)

    @property
    def stderr_bytes(self) -> bytes:
        """All of standard error."""
        return b"".join(data for _, stream, data in self.records if stream == 2)

    @property
    def stdout(self) -> str:
        """Standard output as text; bytes that are not UTF-8 become U+FFFD."""
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """Standard error as text; bytes that are not UTF-8 become U+FFFD."""
        return self.stderr_bytes.decode(errors="replace")

    def __str__(self) -> str:
        return b"".join(data for _, _, data in self.records).decode(errors="replace")


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a program run in a container ended; as `subprocess.CompletedProcess`."""

    args: Sequence[str]
    returncode: int
    stdout: Any
    stderr: Any


@runtime_checkable
class Network(Protocol):
    """A private network: its containers see each other and, one way, those of its parents."""

    id: str

    def remove(self) -> None:
        """Take the network away; idempotent. Its containers must be gone."""


@runtime_checkable
class Container(Protocol):
    """A running (or ended) container. A context manager that removes it at the end."""

    id: str
    name: str
    spec: ContainerSpec

    @property
    def status(self) -> Status: ...
    @property
    def pid(self) -> int: ...
    @property
    def exit_code(self) -> int | None: ...
    @property
    def command(self) -> Sequence[str]: ...
    @property
    def host(self) -> str: ...
    @property
    def ip(self) -> str: ...
    @property
    def ip6(self) -> str: ...
    def port(self, number: int, protocol: str = "tcp") -> int: ...
    def address(self, number: int, protocol: str = "tcp") -> tuple[str, int]: ...
    def connect(self, port: int, timeout_s: float | None = 10.0) -> socket.socket: ...
    def exec(
        self,
        command: Sequence[str],
        *,
        user: str | int | None = None,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        input: str | bytes | None = None,
        check: bool = False,
        text: bool = False,
        tty: bool = False,
        timeout_s: float | None = None,
    ) -> ExecResult: ...
    def logs(self) -> Logs: ...
    def follow(self, timeout_s: float | None = None) -> Iterator[tuple[float, int, bytes]]:
        """Records from the start and then as they come; ends when the container has ended.

        Raises:
            WaitTimeoutError: `timeout_s` passed (counted from the call of `follow`).
        """

    def wait_listening(self, ports: Sequence[tuple[int, str]], timeout_s: float) -> None:
        """Return once every ``(number, protocol)`` has a listening socket in the container.

        Raises:
            WaitTimeoutError: Not in time; its `missing` attribute lists the ports.
            ExitedError: The container ended first.
        """

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end; returns the exit code as a shell reports it."""

    def stop(self, timeout_s: float = 10.0) -> int: ...
    def kill(self, signal: str | int = "KILL") -> None: ...
    def pause(self) -> None: ...
    def unpause(self) -> None: ...
    def restart(self, timeout_s: float = 10.0) -> None: ...
    def remove(self) -> None:
        """Kill it at once and drop everything it had; idempotent."""

    def read_bytes(self, path: str) -> bytes: ...
    def write_bytes(self, path: str, data: bytes, *, mode: int = 0o644) -> None: ...
    def copy_in(self, source: str | os.PathLike[str], target: str) -> None: ...
    def copy_out(self, source: str, target: str | os.PathLike[str]) -> None: ...
    def __enter__(self) -> Container: ...
    def __exit__(self, *exc: object) -> None: ...


@runtime_checkable
class Engine(Protocol):
    """Makes containers, networks and volumes; closing it ends all of them."""

    def run(
        self,
        image: Any,
        command: Sequence[str] | str | None = None,
        *,
        name: str | None = None,
        network: Network | None = None,
        wait_ready: bool = True,
        **options: Any,
    ) -> Container:
        """Start a container; `options` are the fields of `ContainerSpec`.

        `image` may be a whole `ContainerSpec`. Without `network`, the engine's own is used.
        With `wait_ready`, returns once the container is ready.
        """

    def create_network(self, parents: Sequence[Network] = ()) -> Network: ...
    def create_volume(self) -> Any: ...
    def image(self, reference: str) -> Any: ...
    def close(self) -> None: ...
