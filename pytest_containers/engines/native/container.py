"""The handle of a container in a test process."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pytest_containers.engines.native import config as configs
from pytest_containers.engines.native import (
    execution,
    listening,
    output,
)
from pytest_containers.engines.native.description import Description, describe
from pytest_containers.model.arguments import (
    LIMIT,
    MAPPING,
    NUMBER,
    PATH,
    SECRET_TEXT,
    TEXT,
    require,
)
from pytest_containers.model.arguments import check as check_arguments
from pytest_containers.model.errors import (
    ContainersError,
    ExitedError,
    NotRunningError,
    RunLostError,
    SpecError,
    StartError,
    WaitTimeoutError,
    hide_frames,
)
from pytest_containers.model.results import Logs
from pytest_containers.model.spec import Bind, ContainerSpec, signal_number, spec_of
from pytest_containers.runtime.wire.message import pack, unpack
from pytest_containers.runtime.wire.operations.containers import (
    Connect,
    ContainerPort,
    ContainerState,
    Inspect,
    Pause,
    ReadRefusals,
    ReadUsage,
    Remove,
    Signal,
    Stop,
    Unpause,
    WaitExit,
    WaitListening,
)
from pytest_containers.runtime.wire.operations.session import Open
from pytest_containers.runtime.wire.operations.starts import (
    Restart,
    Run,
    Started,
)

if TYPE_CHECKING:
    from pytest_containers.engines.native.core import Core
    from pytest_containers.images.image import Image
    from pytest_containers.model.engine import Network
    from pytest_containers.model.reports import ContainerReport, HealthReport, Refusals, Stats
    from pytest_containers.model.results import ExecResult, Status
    from pytest_containers.runtime.wire.client import Client, Request

__tracebackhide__ = hide_frames

_log = logging.getLogger(__name__)


class Container:
    """A container, running or ended; as a context manager, it is removed at the end.

    `Engine.run` makes containers. Thread-safe. The contract tells more of each method.

    Attributes:
        id: Its id, unique in the run.
        name: Its host name, unless the spec has another.
        spec: Its spec.
        image: Its image.
        command: Entrypoint and arguments.
        streams: Descriptors of an attached container (see `Engine.launch`): standard input if
            attached, output and error, or the terminal. The caller owns them.
    """

    def __init__(
        self,
        core: Core,
        spec: ContainerSpec,
        image: Image,
        name: str,
        description: Description,
    ) -> None:
        self.spec = spec
        self.name = name
        self.image = image
        self.command: Sequence[str] = description.command
        self.id: str = ""
        self.streams: Sequence[int] = ()
        self._core = core
        self._network = description.network
        self._config = configs.text_of(description.config)
        self._request = description.request
        self._process: Mapping[str, Any] = description.config["process"]
        self._exec_processes: dict[tuple[str, bool], bytes] = {}
        self._started: Started | None = None
        self._starting: Request[Started] | None = None
        self._removed = False
        self._last_logs: Logs | None = None
        self._last_refusals: Refusals | None = None
        self._exit_code: int | None = None
        self._started_at = 0.0
        self._started_monotonic_s = 0.0

    @classmethod
    def _start(
        cls,
        core: Core,
        spec: ContainerSpec,
        image: Image,
        name: str | None,
        network: Network | None,
        *,
        numbered: bool = False,
        mounts: Sequence[Mapping[str, Any]] = (),
        **extra: Any,
    ) -> Container:
        """Begin to start a container; `started` waits until its program runs.

        Args:
            core: The run.
            spec: The spec.
            image: The image of `spec`.
            name: Its name; None numbers it.
            network: Its network; None is the default network of the engine.
            numbered: True if the name is generated.
            mounts: Mounts besides those of the spec, as in an OCI config.
            **extra: More fields of the `StartRequest`.
        """
        numbered = numbered or name is None
        name = name or core.next_name()
        try:
            description = describe(
                core, spec, image, name, network, numbered=numbered, mounts=mounts, **extra
            )
            container = cls(core, spec, image, name, description)
            container._starting = core.client.start(
                Run(request=container._request, config=container._config)
            )
        except ContainersError:  # some are OSErrors too, and say what they are
            raise
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            raise StartError(
                f"start of container {name!r}: {place}{error.strerror or error}", errno=error.errno
            ) from error
        core.containers[container] = None
        for mount in spec.parsed_mounts:
            if isinstance(mount, Bind) and not mount.read_only:
                core.bound[os.path.realpath(mount.source)] = None
        return container

    def started(self) -> None:
        """Wait until its program runs."""
        starting, self._starting = self._starting, None
        if starting is None:
            return
        try:
            self._started = started = self._core.client.receive(starting)
        except BaseException:
            self._removed = True
            self._core.containers.pop(self, None)
            raise
        self.id, self.streams = started.id, started.streams
        for note in started.notes:
            _log.warning("container %r: %s", self.name, note)
        self._started_at, self._started_monotonic_s = time.time(), time.monotonic()
        self._core.events.publish("start", self)

    @property
    def _shared_facts(self) -> dict[str, Any]:
        """The facts for other processes of the run; see `_join`."""
        return pack(self._facts)[0]

    def _join(self, facts: dict[str, Any]) -> None:
        """Take the facts of a container that another process of the run has started."""
        self._started = unpack(Started, facts)
        self.id = self._started.id

    @property
    def _facts(self) -> Started:
        assert self._started is not None, "the container is not started yet"
        return self._started

    # ------------------------------------------------------------------ facts

    @property
    def network(self) -> Network | None:
        """Its private network."""
        return self._network

    @property
    def status(self) -> Status:
        """``running``, ``paused``, ``exited`` or ``removed``."""
        if self._removed:
            return "removed"
        return cast("Status", self._inspect().state)

    @property
    def exit_code(self) -> int | None:
        """Its exit code as a shell reports it; None while it runs."""
        if self._exit_code is None and not self._removed:
            self._exit_code = self._inspect().exit_code
        return self._exit_code

    def _inspect(self) -> ContainerState:
        return self._live_client().call(Inspect(container=self.id))

    def inspect(self) -> ContainerReport:
        """Return a report of the container as it is now."""
        state = self._inspect()
        keys = [(port.number, port.protocol) for port in self.spec.parsed_ports]
        from pytest_containers.model.reports import ContainerReport

        return ContainerReport(
            id=self.id,
            name=self.name,
            image=self.image.name,
            image_id=self.image.id,
            command=tuple(self.command),
            status=cast("Status", state.state),
            exit_code=state.exit_code,
            pid=self.pid,
            ip=self.ip,
            ip6=self.ip6,
            network=self._network.id if self._network is not None and self.spec.network else "",
            ports={key: self.address(*key) for key in keys},
            started_at=self._started_at,
            labels=dict(self.image.config.labels),
            oom_killed=state.oom_killed,
        )

    def health(self, timeout_s: float | None = None) -> HealthReport:
        """Run the HEALTHCHECK of the image once."""
        check_arguments("health()", timeout_s=timeout_s)
        from pytest_containers.engines import health

        return health.check(self, time.monotonic() - self._started_monotonic_s, timeout_s)

    @property
    def pid(self) -> int:
        """The process id of its program in the pid namespace of the run (not of the host)."""
        return self._facts.pid

    @property
    def ip(self) -> str:
        """Its IPv4 address; empty without a network."""
        return self._facts.ip

    @property
    def ip6(self) -> str:
        """Its IPv6 address; empty without a network."""
        return self._facts.ip6

    @property
    def reachable(self) -> bool:
        """True if this process can connect to the address of the container."""
        return self._core.client.facts.connected and bool(self.ip)

    @property
    def host(self) -> str:
        """The host address to connect to: that of the container, or 127.0.0.1 if forwarded."""
        return self.ip if self.reachable else "127.0.0.1"

    def port(self, number: int, protocol: str = "tcp") -> int:
        """Return the port at `host` for port `number` of the container."""
        return self.address(number, protocol)[1]

    def address(self, number: int, protocol: str = "tcp") -> tuple[str, int]:
        """Return the ``(host, port)`` of port `number` of the container."""
        check_arguments("address()", number=number, protocol=protocol)
        for forward in self._facts.forwards:
            if (forward.number, forward.protocol) == (number, protocol):
                return ("127.0.0.1", forward.host)
        if self.reachable:
            return (self.ip, number)
        raise SpecError(
            f"port {number}/{protocol} of container {self.name!r} is not reachable from here: "
            f"list it, ports=[{number if protocol == 'tcp' else f'{number}/{protocol}'!r}]"
        )

    def connect(
        self, port: int, timeout_s: float | None = 10.0, *, protocol: str = "tcp"
    ) -> socket.socket:
        """Connect to a port in the container and return the socket, without a proxy."""
        check_arguments("connect()", port=port, protocol=protocol, timeout_s=timeout_s)
        connected = self._live_client().call(
            Connect(
                container=self.id,
                port=port,
                protocol=protocol,
                timeout_s=10.0 if timeout_s is None else timeout_s,
            )
        )
        sock = socket.socket(fileno=connected.socket)
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
        """Run a program in the container and wait for its end, like `subprocess.run`."""
        check_arguments(
            "exec()", command=command, user=user, workdir=workdir, env={} if env is None else env,
            input=input, check=check, text=text, tty=tty, timeout_s=timeout_s,
        )  # fmt: skip
        groups = [str(group) for group in self.spec.groups]
        return execution.run(
            self._live_client(),
            self.id,
            self.name,
            self._process,
            self._exec_processes,
            command,
            user=None if user is None else str(user),
            groups=() if user is None else groups,
            workdir=workdir,
            env=env,
            input=input,
            check=check,
            text=text,
            tty=tty,
            timeout_s=timeout_s,
        )

    def logs(self) -> Logs:
        """Return its output so far, also after its end and removal."""
        if self._last_logs is not None:
            return self._last_logs
        return Logs(tuple(self._records(wait=False)))

    def follow(self, timeout_s: float | None = None) -> Iterator[tuple[float, int, bytes]]:
        """Iterate over records ``(time, stream, data)`` from the start until the end."""
        check_arguments("follow()", timeout_s=timeout_s)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        return self._records(wait=True, deadline=deadline, timeout_s=timeout_s)

    def _records(
        self, *, wait: bool, deadline: float | None = None, timeout_s: float | None = None
    ) -> Iterator[tuple[float, int, bytes]]:
        if self._last_logs is not None:
            return iter(self._last_logs.records)
        return output.records(
            self._live_client(),
            self.id,
            self.name,
            wait=wait,
            timeout_s=timeout_s,
            deadline=deadline,
        )

    # -------------------------------------------------------------------- life

    def wait_ready(self) -> None:
        """Wait until the container is ready (`ContainerSpec.ready`)."""
        if (
            self.spec.ready is None
            and not self.spec.ports
            and self.image.config.healthcheck is None
        ):
            return
        from pytest_containers.model import wait

        wait.until_ready(self, self.spec.ready, self.spec.ready_timeout_s, self.image.config)

    def wait_listening(self, ports: Sequence[tuple[int, str]], timeout_s: float) -> None:
        """Wait until each ``(number, protocol)`` has a listening socket in the container."""
        check_arguments("wait_listening()", ports=ports)
        for number, protocol in ports:
            check_arguments("wait_listening()", number=number, protocol=protocol)
        require("wait_listening()", "timeout_s", timeout_s, LIMIT)
        ports_to_open = [
            ContainerPort(number=number, protocol=protocol) for number, protocol in ports
        ]
        answer = self._live_client().call(
            WaitListening(container=self.id, ports=ports_to_open, timeout_s=timeout_s)
        )
        if answer.exit_code is not None:
            code = answer.exit_code
            raise ExitedError(
                f"container {self.name!r} ended with exit code {code} before it listened",
                exit_code=code,
            )
        missing = [(port.number, port.protocol) for port in answer.missing]
        if missing:
            raise WaitTimeoutError(
                f"container {self.name!r}: {listening.explain(answer, timeout_s)}",
                missing=missing,
                timeout_s=timeout_s,
            )

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end; return the exit code as a shell reports it."""
        check_arguments("wait()", timeout_s=timeout_s)
        if self._exit_code is None:
            try:
                exited = self._live_client().call(WaitExit(container=self.id), within_s=timeout_s)
            except WaitTimeoutError:
                raise output.timed_out("wait for", self.name, timeout_s) from None
            self._exit_code = exited.code
            if exited.complete:
                self._last_logs = Logs(tuple(output.parse(exited.output)))
        assert self._exit_code is not None
        return self._exit_code

    def stop(self, timeout_s: float = 10.0) -> int:
        """Send the stop signal (of the spec or image, else TERM), and kill after `timeout_s`."""
        require("stop()", "timeout_s", timeout_s, LIMIT)
        if self._exit_code is not None:
            return self._exit_code
        signal = self.spec.stop_signal or self.image.config.stop_signal
        signum = signal_number(signal)
        try:
            stop = Stop(container=self.id, signum=signum, timeout_s=timeout_s)
            self._exit_code = self._live_client().call(stop).code
        except NotRunningError:
            return self.wait()
        assert self._exit_code is not None
        return self._exit_code

    def stats(self) -> Stats:
        """Return what the container uses now, and has used since its start."""
        from pytest_containers.model.reports import Stats

        return Stats(**vars(self._live_client().call(ReadUsage(container=self.id))))

    def heeds_stop_signal(self) -> bool:
        """Return True if the program handles the stop signal, which is ignored otherwise."""
        signum = signal_number(self.spec.stop_signal or self.image.config.stop_signal)
        own_proc = self._core.client.facts.features["own_proc"]
        if signum in (9, 19) or self.spec.init or not own_proc:
            return True
        try:
            status = self.read_bytes("/proc/1/status").decode("utf-8", "replace")
        except ContainersError:
            return True
        from pytest_containers.linux.process import signal_is_in

        return signal_is_in(status, signum, "SigCgt", "SigBlk")

    def kill(self, signal: str | int = "KILL") -> None:
        """Send a signal to the program."""
        check_arguments("kill()", signal=signal)
        self._live_client().call(Signal(container=self.id, signum=signal_number(signal)))

    def pause(self) -> None:
        """Freeze all processes."""
        self._live_client().call(Pause(container=self.id))
        self._core.events.publish("pause", self)

    def unpause(self) -> None:
        """Thaw all processes."""
        self._live_client().call(Unpause(container=self.id))
        self._core.events.publish("unpause", self)

    def restart(self, timeout_s: float = 10.0) -> None:
        """Stop the program and start it again with the same files and addresses."""
        require("restart()", "timeout_s", timeout_s, LIMIT)
        self.stop(timeout_s)
        restart = Restart(container=self.id, request=self._request, config=self._config)
        started = self._live_client().call(restart)
        self._exit_code = self._last_logs = None
        self._started = Started(**{**vars(started), "forwards": self._facts.forwards})
        self._started_at, self._started_monotonic_s = time.time(), time.monotonic()
        self._core.events.publish("restart", self)

    def remove(self, *, wait: bool = True) -> None:
        """Kill the container and remove all that belongs to it; idempotent."""
        check_arguments("remove()", wait=wait)
        if self._removed:
            return
        with contextlib.suppress(ContainersError):  # the start failed: there is nothing to remove
            self.started()
        if not self._removed:
            self._removed = True
            self._core.containers.pop(self, None)
            self._core.tell(Remove(container=self.id), wait=wait and not self._is_spent())
            self._core.events.publish("remove", self)

    def _is_spent(self) -> bool:
        """Return True if nothing of it is left that anything but the run itself could notice.

        The end of PID 1 has taken all processes and mounts along, and the run handles requests in
        their order: the next one finds the name and the address free.
        """
        spec, started = self.spec, self._started
        return (
            self._exit_code is not None
            and started is not None
            and not (started.forwards or spec.host_ports)
            and not (spec.init or spec.egress or spec.scratch == "disk")
            and spec.scratch_size_bytes is None
        )

    def _hand_over(self) -> None:
        """Leave the container to the run, which keeps it."""
        self.keep_logs()
        self._removed = True
        self._core.containers.pop(self, None)

    def keep_logs(self) -> None:
        """Fetch output, exit code and refusals now, so that they are available after `remove`."""
        if self._removed:
            return
        with contextlib.suppress(RunLostError, NotRunningError):
            self._last_refusals = self.refusals()
            logs, _ = self.logs(), self.exit_code
            self._last_logs = logs

    def refusals(self) -> Refusals:
        """Return what the container tried to reach without ``egress=True``."""
        from pytest_containers.model.reports import Refusals

        if self._removed or self.spec.egress:
            return self._last_refusals or Refusals()
        answer = self._live_client().call(ReadRefusals(container=self.id))
        return Refusals(answer.count, tuple(answer.names))

    # ------------------------------------------------------------------- files

    def read_bytes(self, path: str) -> bytes:
        """Return the contents of a file in the container, also after its end."""
        with open(self._open(path, os.O_RDONLY, 0), "rb") as file:
            return file.read()

    def read_text(self, path: str) -> str:
        """Return the contents of a file as a string, decoded from UTF-8."""
        return self.read_bytes(path).decode()

    def write_bytes(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a file as root of the container; overwrite an existing one."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        check_arguments("write_bytes()", data=data)
        with open(self._open(path, flags, mode), "wb") as file:
            file.write(data)

    def _open(self, path: str, flags: int, mode: int) -> int:
        require("file of a container", "path", path, TEXT)
        require("file of a container", "mode", mode, NUMBER)
        operation = Open(container=self.id, path=path, flags=flags, mode=mode)
        return self._live_client().call(operation).file

    def write_text(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a string to a file, encoded in UTF-8; see `write_bytes`."""
        require("write_text()", "text", text, SECRET_TEXT)
        self.write_bytes(path, text.encode(), mode=mode)

    def copy_in(self, source: str | os.PathLike[str], target: str) -> None:
        """Copy a file or directory of the host into the container, like ``docker cp``."""
        check_arguments("copy_in()", source=source, target=target)
        from pytest_containers.engines.native import transfer

        transfer.copy_in(self._live_client(), self.id, self.name, Path(source), target)

    def copy_out(self, source: str, target: str | os.PathLike[str]) -> None:
        """Copy a file or directory of the container to the host, like ``docker cp``."""
        require("copy_out()", "source", source, TEXT)
        require("copy_out()", "target", target, PATH)
        from pytest_containers.engines.native import transfer

        transfer.copy_out(self._live_client(), self.id, self.name, source, Path(target))

    def commit(
        self,
        name: str,
        *,
        changes: Mapping[str, Any] | None = None,
        message: str = "",
        author: str = "",
    ) -> Image:
        """Make an image from its current files, like ``docker commit``, also after its end."""
        require("commit()", "name", name, TEXT)
        require("commit()", "changes", changes or {}, MAPPING)
        check_arguments("commit()", message=message, author=author)
        from pytest_containers.engines.native import snapshots

        return snapshots.commit(
            self._core, self, self.image, name, changes=changes, message=message, author=author
        )

    def snapshot(self, name: str | None = None) -> Image:
        """Return its current files as an image for other containers, also after its end."""
        check_arguments("snapshot()", name=name)
        from pytest_containers.engines.native import snapshots

        return snapshots.snapshot(self._core, self, self.image, name)

    def freeze(self, parent: int) -> dict[str, Any]:
        """Copy its written files to a new directory ``tree`` below `parent` (a descriptor)."""
        from pytest_containers.engines.native import snapshots

        return snapshots.freeze(self._core, self, parent)

    def clone(
        self, name: str | None = None, *, wait_ready: bool = True, **changes: Any
    ) -> Container:
        """Start a second container with the files of this one; both continue independently."""
        # Without fixed ports of the host, which this container uses.
        ports = [
            dataclasses.replace(port, host=None) if port.host else port
            for port in self.spec.parsed_ports
        ]
        check_arguments("clone()", name=name, wait_ready=wait_ready)
        spec = spec_of(self.spec, None, {"ports": ports, **changes})
        spec = dataclasses.replace(spec, image=self.snapshot())
        return run_container(self._core, spec, name, self._network, wait_ready=wait_ready)

    # ----------------------------------------------------------------- helpers

    def _live_client(self) -> Client:
        if self._removed:
            raise NotRunningError(f"container {self.name!r} was removed")
        return self._core.client

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        state = "removed" if self._removed else "started"
        return f"<Container {self.name!r} {self.id} of {self.image.name} ({state})>"


def run_container(
    core: Core, spec: ContainerSpec, name: str | None, network: Network | None, *, wait_ready: bool
) -> Container:
    """Start a container and wait until it is ready; see `Engine.run`."""
    check_arguments("run()", name=name, network=network, wait_ready=wait_ready)
    container = Container._start(core, spec, core.image(spec.image), name, network)
    container.started()
    if wait_ready:
        try:
            container.wait_ready()
        except BaseException:
            container.remove()
            raise
    return container
