"""The handle of a container, as tests hold it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_containers.engines.native import config as configs
from pytest_containers.engines.native import execution, output, snapshots, transfer
from pytest_containers.engines.protocol import ExecResult, Logs, Status
from pytest_containers.errors import (
    ContainersError,
    ExitedError,
    NotRunningError,
    RunLostError,
    SpecError,
    WaitTimeoutError,
    hide_frames,
)
from pytest_containers.images.image import Image
from pytest_containers.spec import ContainerSpec, signal_number

if TYPE_CHECKING:
    from pytest_containers.engines.native.engine import Engine, Network
    from pytest_containers.runtime.client import Request

__tracebackhide__ = hide_frames

_MAX_HOST_NAME = 63


class Container:
    """A running (or ended) container. A context manager that removes it at the end.

    Thread-safe. Made by `Engine.run`.

    Attributes:
        id: Unique in the run.
        name: Its host name, unless the spec has another.
        spec: What it was made from.
        image: The image.
        command: Entrypoint and arguments.
        streams: Of one that was begun attached (see `Engine.begin`): descriptors of its standard
            input (if it has one), output and error output, or of its terminal. They are the
            caller's.
    """

    def __init__(
        self,
        engine: Engine,
        spec: ContainerSpec,
        image: Image,
        name: str,
        network: Network | None,
        command: Sequence[str],
        config: Mapping[str, Any],
        request: Mapping[str, Any],
    ) -> None:
        self.spec = spec
        self.name = name
        self.image = image
        self.command: Sequence[str] = command
        self.id: str = ""
        self.streams: Sequence[int] = ()
        self._engine = engine
        self._network = network
        self._config = configs.text_of(config)
        self._request = request
        self._process: Mapping[str, Any] = config["process"]
        self._answer: dict[str, Any] = {}
        self._starting: Request | None = None
        self._removed = False
        self._last_logs: Logs | None = None
        self._exit_code: int | None = None

    @classmethod
    def start(
        cls,
        engine: Engine,
        spec: ContainerSpec,
        image: Image,
        name: str,
        network: Network | None,
        *,
        numbered: bool,
        mounts: Sequence[Mapping[str, Any]] = (),
        **more: Any,
    ) -> Container:
        """Begin to start one; `started` tells when its program runs.

        Args:
            numbered: Whether nobody chose the name.
            mounts: More than the spec has, as an OCI config has them.
            **more: Fields of the request (`runtime.supervisor.start.Start`).
        """
        made = cls.described(engine, spec, image, name, network, numbered=numbered, mounts=mounts)
        made._starting = engine.client.start("run", blob=made._config, **made._request, **more)
        return made

    @classmethod
    def described(
        cls,
        engine: Engine,
        spec: ContainerSpec,
        image: Image,
        name: str,
        network: Network | None,
        *,
        numbered: bool = False,
        mounts: Sequence[Mapping[str, Any]] = (),
    ) -> Container:
        """A container that is not started yet, by this process at least: see `join`."""
        args = configs.command_of(spec, image.config)
        hostname = spec.hostname or _host_name(name)
        usable = [name] if _host_name(name) == name[:_MAX_HOST_NAME] else []
        shown = None if numbered and spec.hostname is None else hostname
        config = configs.config_of(spec, image, args, shown)
        config["mounts"] += mounts
        if network is None and spec.network:
            network = engine.default_network()
        user = image.config.user if spec.user is None else str(spec.user)
        request: dict[str, Any] = {
            "image": engine.make_ready(image),
            "args": args,
            "name": name,
            "hostname": hostname,
            "names": list(dict.fromkeys([hostname, *usable, *spec.aliases])),
            "network": network.id if network is not None and spec.network else None,
            "user": user,
            "groups": [str(group) for group in spec.groups],
            "init": spec.init,
            "log_limit_bytes": spec.log_limit_bytes,
            "scratch": spec.scratch,
            "scratch_size_bytes": spec.scratch_size_bytes,
            "ports": [[port.number, port.protocol, port.host] for port in spec.parsed_ports],
            "host_ports": list(spec.host_ports),
        }
        return cls(engine, spec, image, name, network, args, config, request)

    def started(self) -> None:
        """Return when its program runs.

        Raises:
            StartError: It could not be started; nothing of it is left.
        """
        starting, self._starting = self._starting, None
        if starting is None:
            return
        try:
            frame = self._engine.client.receive(starting)
        except BaseException:
            self._removed = True
            raise
        self._answer, self.streams = frame.body["ok"], frame.fds
        self.id = self._answer["id"]

    @property
    def shared_facts(self) -> dict[str, Any]:
        """What another process of the run needs to use it: see `join`."""
        return self._answer

    def join(self, answer: dict[str, Any]) -> None:
        """Be the container that another process of the run has started and published."""
        self._answer, self.id = answer, answer["id"]

    # ------------------------------------------------------------------ facts

    @property
    def network(self) -> Network | None:
        """The private network that it is in."""
        return self._network

    @property
    def status(self) -> Status:
        """``running``, ``paused``, ``exited`` or ``removed``."""
        if self._removed:
            return "removed"
        status: Status = self._inspect()["state"]
        return status

    @property
    def exit_code(self) -> int | None:
        """As a shell reports it, or None while it runs."""
        if self._exit_code is None and not self._removed:
            self._exit_code = self._inspect()["exit_code"]
        return self._exit_code

    def _inspect(self) -> dict[str, Any]:
        state: dict[str, Any] = self._call("inspect").body["ok"]
        return state

    @property
    def pid(self) -> int:
        """Its program's number in the run's own process space (not the host's)."""
        return int(self._answer["pid"])

    @property
    def ip(self) -> str:
        """Its IPv4 address; empty without a network."""
        return str(self._answer["ip"])

    @property
    def ip6(self) -> str:
        """Its IPv6 address; empty without a network."""
        return str(self._answer["ip6"])

    @property
    def reachable(self) -> bool:
        """Whether this process reaches the container's own address."""
        return bool(self._engine.facts["connected"]) and bool(self.ip)

    @property
    def host(self) -> str:
        """Where to connect to: the container's address, or 127.0.0.1 for forwarded ports."""
        return self.ip if self.reachable else "127.0.0.1"

    def port(self, number: int, protocol: str = "tcp") -> int:
        """The port at `host` that leads to port `number` of the container.

        Raises:
            SpecError: The port is not among the spec's ``ports`` and needs to be.
        """
        return self.address(number, protocol)[1]

    def address(self, number: int, protocol: str = "tcp") -> tuple[str, int]:
        """``(host, port)`` at which port `number` of the container is reached.

        A port that was given a number of the host is at that number of 127.0.0.1.
        """
        for port, kind, host_port in self._answer["forwards"]:
            if (port, kind) == (number, protocol):
                return ("127.0.0.1", int(host_port))
        if self.reachable:
            return (self.ip, number)
        raise SpecError(
            f"port {number}/{protocol} of container {self.name!r} is not reachable from here: "
            f"list it, ports=[{number if protocol == 'tcp' else f'{number}/{protocol}'!r}]"
        )

    def connect(
        self, port: int, timeout_s: float | None = 10.0, *, protocol: str = "tcp"
    ) -> socket.socket:
        """A socket connected to `port` in the container, without any proxy.

        Also for ports that are not listed, and for programs that listen on the container's
        127.0.0.1 only.

        Raises:
            ContainersError: Nobody listens there.
        """
        frame = self._call(
            "connect",
            port=port,
            protocol=protocol,
            timeout_s=10.0 if timeout_s is None else timeout_s,
        )
        sock = socket.socket(fileno=frame.fds[0])
        sock.settimeout(None)
        return sock

    # ---------------------------------------------------------------- programs

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
        """Run a program in the container and wait for its end; arguments as `subprocess.run`.

        Args:
            user: As `ContainerSpec.user`; None is the container's own.
            env: Added to the container's environment.
            input: Written to its standard input; without it that is ``/dev/null``.
            check: Raise when it fails.
            text: Take and give text in UTF-8 rather than bytes.
            tty: Give it a terminal; all output is then ``stdout``.

        Raises:
            StartError: There is no such program (``exit_code`` 127), or it cannot be run (126).
            ExecError: It failed and `check` was asked for.
            WaitTimeoutError: It did not end in time and was killed.
            NotRunningError: The container has ended.
        """
        return execution.run(
            self._live_client(), self.id, self.name, self._process, command,
            user=None if user is None else str(user), workdir=workdir, env=env, input=input,
            check=check, text=text, tty=tty, timeout_s=timeout_s,
        )  # fmt: skip

    def logs(self) -> Logs:
        """What it has written so far; also after its end and removal."""
        if self._last_logs is not None:
            return self._last_logs
        return Logs(tuple(self._records(wait=False)))

    def follow(self, timeout_s: float | None = None) -> Iterator[tuple[float, int, bytes]]:
        """Records ``(time, stream, data)`` from the start and then as they come, until its end.

        Raises:
            WaitTimeoutError: `timeout_s` passed (counted from this call).
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        return self._records(wait=True, deadline=deadline, timeout_s=timeout_s)

    def _records(
        self, *, wait: bool, deadline: float | None = None, timeout_s: float | None = None
    ) -> Iterator[tuple[float, int, bytes]]:
        if self._last_logs is not None:
            return iter(self._last_logs.records)
        return output.records(
            self._live_client(), self.id, self.name, wait=wait, timeout_s=timeout_s,
            deadline=deadline,
        )  # fmt: skip

    # -------------------------------------------------------------------- life

    def wait_ready(self) -> None:
        """Return once it is ready (`ContainerSpec.ready`).

        Raises:
            ExitedError: It ended first; with its exit code and last output.
            NotReadyError: It was not ready within `ContainerSpec.ready_timeout_s`.
        """
        if (
            self.spec.ready is None
            and not self.spec.ports
            and self.image.config.healthcheck is None
        ):
            return
        from pytest_containers import wait

        wait.until_ready(self, self.spec.ready, self.spec.ready_timeout_s, self.image.config)

    def wait_listening(self, ports: Sequence[tuple[int, str]], timeout_s: float) -> None:
        """Return once every ``(number, protocol)`` has a listening socket in the container.

        Raises:
            WaitTimeoutError: Not in time; its `missing` attribute lists the ports.
            ExitedError: The container ended first.
        """
        answer = self._call("listening", ports=list(ports), timeout_s=timeout_s).body["ok"]
        if "exited" in answer:
            code = answer["exited"]
            raise ExitedError(
                f"container {self.name!r} ended with exit code {code} before it listened",
                exit_code=code,
            )
        missing = [(port, protocol) for port, protocol in answer["missing"]]
        if missing:
            names = ", ".join(f"{port}/{protocol}" for port, protocol in missing)
            raise WaitTimeoutError(
                f"container {self.name!r}: nothing listens on {names} after {timeout_s:.3g} s",
                missing=missing,
                timeout_s=timeout_s,
            )

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end; returns the exit code as a shell reports it.

        Raises:
            WaitTimeoutError: It runs on.
        """
        if self._exit_code is None:
            try:
                frame = self._call("wait", within_s=timeout_s)
            except WaitTimeoutError:
                raise output.timed_out("wait for", self.name, timeout_s) from None
            self._exit_code, whole = frame.body["ok"]
            if whole:
                self._last_logs = Logs(tuple(output.parse(frame.blob)))
        assert self._exit_code is not None
        return self._exit_code

    def stop(self, timeout_s: float = 10.0) -> int:
        """Ask it to end (the spec's or image's stop signal, else TERM), then kill it.

        Returns:
            The exit code, also if it had ended before.
        """
        if self._exit_code is not None:
            return self._exit_code
        wanted = self.spec.stop_signal or self.image.config.stop_signal
        signum = signal_number(wanted)
        try:
            self._exit_code = self._call("stop", signum=signum, timeout_s=timeout_s).body["ok"]
        except NotRunningError:
            return self.wait()
        assert self._exit_code is not None
        return self._exit_code

    def heeds_stop_signal(self) -> bool:
        """Whether its program does something about the stop signal; else it would be ignored.

        The first process of a PID namespace gets only signals that it has a handler for
        (pid_namespaces(7)).
        """
        signum = signal_number(self.spec.stop_signal or self.image.config.stop_signal)
        if signum in (9, 19) or self.spec.init:
            return True
        try:
            status = self.read_text("/proc/1/status")
        except ContainersError:
            return True
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        return bool(int(caught.split()[1], 16) >> (signum - 1) & 1)

    def kill(self, signal: str | int = "KILL") -> None:
        """Send a signal to its program.

        Raises:
            NotRunningError: It has ended.
        """
        self._call("signal", signum=signal_number(signal))

    def pause(self) -> None:
        """Stop all its processes where they are."""
        self._call("pause")

    def unpause(self) -> None:
        """Let them go on."""
        self._call("unpause")

    def restart(self, timeout_s: float = 10.0) -> None:
        """Stop it and start its program again on the same files and addresses."""
        self.stop(timeout_s)
        answer = self._call("restart", blob=self._config, **self._request).body["ok"]
        self._exit_code = self._last_logs = None
        self._answer = {**answer, "forwards": self._answer["forwards"]}

    def remove(self, *, wait: bool = True) -> None:
        """Kill it at once and drop everything it had; idempotent.

        Its `logs` and `exit_code` stay readable where they had been asked for before.

        Args:
            wait: Return when it is gone; else that it will be is all that is promised.
        """
        if self._removed:
            return
        with contextlib.suppress(ContainersError):  # then there is nothing to remove
            self.started()
        if not self._removed:
            self._removed = True
            self._engine.tell("remove", wait=wait, container=self.id)

    def keep_logs(self) -> None:
        """Fetch output and exit code now, so that they outlive `remove`."""
        if self._last_logs is None and not self._removed:
            with contextlib.suppress(RunLostError, NotRunningError):
                logs, _ = self.logs(), self.exit_code
                self._last_logs = logs

    # ------------------------------------------------------------------- files

    def read_bytes(self, path: str) -> bytes:
        """The contents of a file in the container; also after its end.

        Raises:
            ContainersError: It is not there or not a regular file; ``errno`` tells.
        """
        frame = self._call("open", path=path, flags=os.O_RDONLY, mode=0)
        with open(frame.fds[0], "rb") as file:
            return file.read()

    def read_text(self, path: str) -> str:
        """The same as text in UTF-8."""
        return self.read_bytes(path).decode()

    def write_bytes(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a file in the container as its root; an existing one is overwritten."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        frame = self._call("open", path=path, flags=flags, mode=mode)
        with open(frame.fds[0], "wb") as file:
            file.write(data)

    def write_text(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """The same with text in UTF-8."""
        self.write_bytes(path, text.encode(), mode=mode)

    def copy_in(self, source: str | os.PathLike[str], target: str) -> None:
        """Copy a file or directory of the host into the container, as ``docker cp``.

        If `target` is a directory there, the copy goes into it under its own name; else it is
        called `target`. Owners become container root.
        """
        transfer.copy_in(self._live_client(), self.id, self.name, Path(source), target)

    def copy_out(self, source: str, target: str | os.PathLike[str]) -> None:
        """Copy a file or directory of the container to the host, as ``docker cp``.

        Links are copied as links. Files become the caller's.
        """
        transfer.copy_out(self._live_client(), self.id, self.name, source, Path(target))

    def commit(
        self,
        name: str,
        *,
        changes: Mapping[str, Any] | None = None,
        message: str = "",
        author: str = "",
    ) -> Image:
        """Make an image of its files as they are now, also after its end, as ``docker commit``.

        It is paused meanwhile. What is in volumes and other mounts is no part of the image.

        Args:
            name: Of the image, in the store.
            changes: Replace what the image says of running it: ``{"Cmd": ["app"]}``.
            message, author: For the image's history.

        Raises:
            UnsupportedError: It was started from ``host:``.
        """
        return snapshots.commit(
            self._engine, self, name, changes=changes, message=message, author=author
        )

    def snapshot(self, name: str | None = None) -> Image:
        """Freeze its files as they are now, also after its end: an image to start others from.

        What was written goes into one layer; what lower layers have is not copied. What is in
        volumes and other mounts is no part of it. A container that runs is paused meanwhile, so
        the snapshot is what a power cut at that instant would have left (without anything lost in
        caches): a database recovers from it when it starts. `stop` it first for a clean one.

        Args:
            name: Of the image in the store, to be run, saved and pushed as any other. Without one
                it lives as long as the run. Of a container of ``host:`` it can only be run, here.

        Raises:
            ImageError: It cannot be stored; nothing of it is left then.
        """
        return snapshots.snapshot(self._engine, self, name)

    def freeze(self, parent: int) -> dict[str, Any]:
        """Copy what it has written to the new directory ``tree`` of `parent` (a descriptor).

        For the image store (`images.layers.Freeze`).
        """
        return snapshots.freeze(self._engine, self, parent)

    def clone(
        self, name: str | None = None, *, wait_ready: bool = True, **changes: Any
    ) -> Container:
        """A second container that starts from the files of this one; both go on independently.

        Its program starts anew: memory and connections are not copied. See `snapshot` for what the
        files of a running database are then.

        Args:
            name: Its name; None numbers it.
            wait_ready: As `Engine.run`.
            **changes: Fields of `ContainerSpec` that are to differ.
        """
        ports = [
            f"{port.number}/{port.protocol}" for port in self.spec.parsed_ports
        ]  # a fixed port of the host is taken by this one
        changes = {"ports": ports, **changes, "image": self.snapshot()}
        spec = dataclasses.replace(self.spec, **changes)
        return self._engine.run(spec, name=name, network=self._network, wait_ready=wait_ready)

    # ----------------------------------------------------------------- helpers

    def _call(
        self, op: str, *, blob: bytes = b"", within_s: float | None = None, **body: Any
    ) -> Any:
        return self._live_client().call(op, blob=blob, within_s=within_s, container=self.id, **body)

    def _live_client(self) -> Any:
        if self._removed:
            raise NotRunningError(f"container {self.name!r} was removed")
        return self._engine.client

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        state = "removed" if self._removed else "started"
        return f"<Container {self.name!r} {self.id} of {self.image.name} ({state})>"


def _host_name(name: str) -> str:
    """A name as gethostname(2) and /etc/hosts take it."""
    usable = (
        letter if (letter.isascii() and letter.isalnum()) or letter in "-._" else "-"
        for letter in name[:_MAX_HOST_NAME]
    )  # fmt: skip
    return "".join(usable)
