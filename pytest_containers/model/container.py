"""The contract of containers, and of the networks and volumes that they use.

The docstring of a method says which capability it needs (`model.capabilities`); a container of an
engine without it raises `UnsupportedError`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pytest_containers.model.image import Image
    from pytest_containers.model.reports import (
        ContainerReport,
        HealthReport,
        OciState,
        Refusals,
        Stats,
    )
    from pytest_containers.model.results import ExecResult, Logs, Status
    from pytest_containers.model.spec import ContainerSpec


@runtime_checkable
class Network(Protocol):
    """A private network whose containers reach each other and those of its parent networks."""

    @property
    def id(self) -> str:
        """Its id, unique in the run."""

    def remove(self, *, wait: bool = True) -> None:
        """Remove the network; idempotent. Its containers must be removed first.

        Args:
            wait: Return only when the network is gone.
        """


@runtime_checkable
class Volume(Protocol):
    """A file system that outlives containers; a `VolumeMount` mounts it."""

    @property
    def id(self) -> str:
        """Its id, unique in the run."""

    def remove(self) -> None:
        """Remove the volume and its files; idempotent."""


@runtime_checkable
class Container(Protocol):
    """A container, running or ended; as a context manager, it is removed at the end."""

    @property
    def id(self) -> str:
        """Its id, unique in the run."""

    @property
    def name(self) -> str:
        """Its host name, unless the spec has another."""

    @property
    def spec(self) -> ContainerSpec:
        """Its spec."""

    @property
    def image(self) -> Image:
        """Its image."""

    @property
    def network(self) -> Network | None:
        """Its private network."""

    @property
    def command(self) -> Sequence[str]:
        """Entrypoint and arguments."""

    @property
    def streams(self) -> Sequence[int]:
        """The descriptors of the streams that `Engine.launch` attached."""

    @property
    def status(self) -> Status:
        """``running``, ``paused``, ``exited`` or ``removed``."""

    @property
    def pid(self) -> int:
        """The process id of its program in the pid namespace of the run (not of the host)."""

    @property
    def exit_code(self) -> int | None:
        """Its exit code as a shell reports it; None while it runs."""

    @property
    def host(self) -> str:
        """The host address to connect to: that of the container, or 127.0.0.1 if forwarded."""

    @property
    def ip(self) -> str:
        """Its IPv4 address; empty without a network."""

    @property
    def ip6(self) -> str:
        """Its IPv6 address; empty without a network."""

    @property
    def reachable(self) -> bool:
        """True if this process can connect to the address of the container."""

    def port(self, number: int, protocol: str = "tcp") -> int:
        """Return the port at `host` for port `number` of the container.

        Raises:
            SpecError: The port must be in the ``ports`` of the spec, and is not.
        """

    def address(self, number: int, protocol: str = "tcp") -> tuple[str, int]:
        """Return the ``(host, port)`` of port `number` of the container.

        A port with a fixed number on the host is at that number of 127.0.0.1.
        """

    def connect(
        self, port: int, timeout_s: float | None = 10.0, *, protocol: str = "tcp"
    ) -> socket.socket:
        """Connect to a port in the container and return the socket, without a proxy.

        This works for unlisted ports too, and for programs that listen only on 127.0.0.1 in the
        container.

        Raises:
            ContainersError: No socket listens on the port.
        """

    def exec(
        self,
        command: Sequence[str] | str,
        *,
        user: str | int | None = None,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        input: str | bytes | None = None,
        check: bool = False,
        text: bool = False,
        tty: bool = False,
        timeout_s: float | None = None,
    ) -> ExecResult:
        """Run a program in the container and wait for its end, like `subprocess.run`.

        Background processes of the program keep running, with its streams. Their output is part of
        the result if it arrives within 0.1 s after the end of the program.

        Args:
            user: As in `ContainerSpec.user`; None is the user of the container.
            workdir: The working directory, which is made if necessary; None is that of the
                container.
            env: Variables to add to the environment of the container.
            input: The standard input of the program; None is ``/dev/null``.
            check: Raise an error if the exit code is not 0.
            text: Use strings in UTF-8 instead of bytes.
            tty: Give the program a terminal; all output is then in ``stdout``.

        Raises:
            StartError: The program does not exist (``exit_code`` 127) or cannot be run (126).
            ExecError: The exit code is not 0, and `check` is true.
            WaitTimeoutError: The program did not end in time and was killed; with its output.
            NotRunningError: The container has ended.
        """

    def logs(self) -> Logs:
        """Return its output so far, also after its end and removal."""

    def keep_logs(self) -> None:
        """Fetch output, exit code and refusals now, so that they are available after `remove`."""

    def refusals(self) -> Refusals:
        """Return what it has tried to reach of other machines without ``egress=True``.

        After `remove`, these are the refusals that `keep_logs` fetched, if it was called.
        """

    def follow(self, timeout_s: float | None = None) -> Iterator[tuple[float, int, bytes]]:
        """Iterate over records ``(time, stream, data)`` from the start until the container ends.

        Raises:
            WaitTimeoutError: `timeout_s` seconds passed since the call.
        """

    def stats(self) -> Stats:
        """Return what it uses now, and has used since its start. Needs ``stats``.

        Raises:
            NotRunningError: It has ended.
        """

    def inspect(self) -> ContainerReport:
        """Return a report of the container as it is now.

        Raises:
            NotRunningError: The container was removed.
        """

    def health(self, timeout_s: float | None = None) -> HealthReport:
        """Run the HEALTHCHECK of the image once.

        Args:
            timeout_s: The time limit of the check; None is the one of the image, else 30 s.
        """

    def started(self) -> None:
        """Wait until its program runs; see `Engine.launch`.

        Raises:
            StartError: The container could not be started; nothing of it is left.
        """

    def wait_ready(self) -> None:
        """Wait until the container is ready (`ContainerSpec.ready`).

        Raises:
            ExitedError: The container ended first; with its exit code and last output.
            NotReadyError: `ContainerSpec.ready_timeout_s` passed first.
        """

    def wait_listening(self, ports: Sequence[tuple[int, str]], timeout_s: float) -> None:
        """Wait until each ``(number, protocol)`` has a listening socket in the container.

        Ports of the spec's ``ports`` must be reached from outside: a socket of 127.0.0.1 or of
        IPv6 only does not count. Other ports may listen on any address.

        Raises:
            WaitTimeoutError: The time ran out; its `missing` attribute lists the ports.
            ExitedError: The container ended first.
        """

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end; return the exit code as a shell reports it.

        Raises:
            WaitTimeoutError: The container still runs.
        """

    def stop(self, timeout_s: float = 10.0) -> int:
        """Send the stop signal (of the spec or image, else TERM), and kill after `timeout_s`.

        For a PID 1 without a handler, the kernel drops the signal (pid_namespaces(7)), so it is
        killed at once, where Docker waits first. A program that ignores or blocks the signal has
        `timeout_s` to end. With ``init=True`` the program is not PID 1, and the signal ends it.

        Returns:
            The exit code, also of a container that has ended before.
        """

    def heeds_stop_signal(self) -> bool:
        """Return True if the program handles the stop signal, which is ignored otherwise.

        The first process of a PID namespace gets only signals that it has a handler for
        (pid_namespaces(7)).
        """

    def kill(self, signal: str | int = "KILL") -> None:
        """Send a signal to the program.

        Raises:
            NotRunningError: The container has ended.
        """

    def pause(self) -> None:
        """Freeze all processes. Needs ``pause``."""

    def unpause(self) -> None:
        """Thaw all processes. Needs ``pause``."""

    def restart(self, timeout_s: float = 10.0) -> None:
        """Stop the program and start it again with the same files and addresses."""

    def remove(self, *, wait: bool = True) -> None:
        """Kill the container and remove all that belongs to it; idempotent.

        `logs` and `exit_code` stay available if they were fetched before.

        Args:
            wait: Return only when the container is gone.
        """

    def read_bytes(self, path: str) -> bytes:
        """Return the contents of a file in the container, also after its end.

        Raises:
            ContainersError: The file does not exist or is not regular; see ``errno``.
        """

    def read_text(self, path: str) -> str:
        """Return the contents of a file as a string, decoded from UTF-8."""

    def write_bytes(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a file as root of the container; overwrite an existing one."""

    def write_text(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a string to a file, encoded in UTF-8; see `write_bytes`."""

    def copy_in(self, source: str | os.PathLike[str], target: str) -> None:
        """Copy a file or directory of the host into the container, like ``docker cp``.

        If `target` is a directory, the copy is made in it with the name of the source; otherwise
        the copy is `target`. The owner of all files is root of the container.
        """

    def copy_out(self, source: str, target: str | os.PathLike[str]) -> None:
        """Copy a file or directory of the container to the host, like ``docker cp``.

        Links are copied as links. The owner of all files is the caller.
        """

    def commit(
        self,
        name: str,
        *,
        changes: Mapping[str, Any] | None = None,
        message: str = "",
        author: str = "",
    ) -> Image:
        """Make an image from its files, like ``docker commit``. Needs ``snapshots``.

        The container may have ended; if it runs, it is paused during the copy. Files in volumes and
        other mounts are not included. The image of a container of ``host:`` can only be used on
        this machine.

        Args:
            name: The name of the image in the store.
            changes: Changes to the configuration of the image: ``{"Cmd": ["app"]}``.
            message, author: Entries for the history of the image.
        """

    def snapshot(self, name: str | None = None) -> Image:
        """Return its files as an image for other containers. Needs ``snapshots``.

        The written files become one layer, on top of the shared lower layers. Files in volumes and
        other mounts are not included. The container may have ended; if it runs, it is paused during
        the copy, so that the snapshot is in the state after a power cut (with all caches written):
        a database recovers when it starts. `stop` the container first for a clean state.

        Args:
            name: The name of the image in the store, to run, save and push it; None makes an image
                that lasts until the end of the run. An image on top of ``host:`` can only be run,
                and only on this machine.

        Raises:
            ImageError: The image cannot be stored; nothing is left of it.
        """

    def freeze(self, parent: int) -> dict[str, Any]:
        """Copy its written files to a new directory ``tree`` below `parent` (a descriptor).

        This is the callback for `StateStore.keep`. Needs ``snapshots``.
        """

    def clone(
        self, name: str | None = None, *, wait_ready: bool = True, **changes: Any
    ) -> Container:
        """Start a second container with the files of this one. Needs ``snapshots``.

        Both continue independently. The program starts again: memory and connections are not
        copied. See `snapshot` about the files of a running database.

        Args:
            name: Its name; None numbers it.
            wait_ready: As for `Engine.run`.
            **changes: Fields of `ContainerSpec` to change.
        """

    def __enter__(self) -> Container: ...
    def __exit__(self, *exc: object) -> None: ...


@runtime_checkable
class OciContainer(Protocol):
    """A container of an OCI bundle, with the operations of the runtime specification."""

    @property
    def id(self) -> str:
        """Its id, unique in the run."""

    @property
    def bundle(self) -> Path:
        """The directory of its bundle."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Its config, as ``config.json`` has it."""

    @property
    def streams(self) -> Sequence[int]:
        """The descriptors of the streams that `Engine.run_oci` attached."""

    def state(self) -> OciState:
        """Return its state.

        Raises:
            NotRunningError: The container was deleted.
        """

    def start(self) -> None:
        """Start the program of a created container.

        Raises:
            StartError: The container is not created, or its program cannot be run.
        """

    def exec(
        self,
        process: Mapping[str, Any] | Sequence[str],
        *,
        input: str | bytes | None = None,
        check: bool = False,
        text: bool = False,
        timeout_s: float | None = None,
    ) -> ExecResult:
        """Run a program in the container and wait for its end; see `Container.exec`.

        Args:
            process: A process object, or a command line, which runs like the program of the
                container otherwise.
            input, check, text, timeout_s: As for `Container.exec`.
        """

    def kill(self, signal: str | int = "TERM") -> None:
        """Send a signal to the program."""

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end; return the exit code as a shell reports it."""

    def logs(self) -> Logs:
        """Return its output so far."""

    def delete(self, *, force: bool = False) -> None:
        """Remove all that belongs to the container; idempotent.

        Raises:
            StartError: The container is not stopped, and `force` is false.
        """

    def __enter__(self) -> OciContainer: ...
    def __exit__(self, *exc: object) -> None: ...
