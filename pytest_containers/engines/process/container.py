"""The handle of a container of the process engine."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_containers.engines import health
from pytest_containers.engines.forwarding import ThreadLead
from pytest_containers.engines.process import execution, start
from pytest_containers.engines.process.core import ProcessCore, ProcessNetwork
from pytest_containers.engines.process.handle import ContainerFiles
from pytest_containers.engines.process.output import Output
from pytest_containers.engines.process.ports import ContainerPorts
from pytest_containers.engines.process.run import BoxProgram
from pytest_containers.linux.process import signal_is_in
from pytest_containers.model import capabilities
from pytest_containers.model.arguments import LIMIT, require
from pytest_containers.model.arguments import check as check_arguments
from pytest_containers.model.command import program_words
from pytest_containers.model.errors import (
    ContainersError,
    NotRunningError,
    WaitTimeoutError,
    hide_frames,
)
from pytest_containers.model.reports import ContainerReport, HealthReport, Refusals, Stats
from pytest_containers.model.results import ExecResult, Logs, Status
from pytest_containers.model.spec import ContainerSpec, signal_number, spec_of

if TYPE_CHECKING:
    from pytest_containers.engines.process.view import FileView
    from pytest_containers.images.image import Image

__tracebackhide__ = hide_frames


class ProcessContainer(ContainerFiles, ContainerPorts):
    """Confined processes, running or ended; as a context manager, they are removed at the end.

    States: *created* (its init is being confined), *running*, *paused*, *exited*, *removed*.

    Attributes:
        id, name, spec, image, command, streams: See the contract.
        names: Its host names.
        view: Its files.
        ip: Its address; empty without a network.
    """

    def __init__(
        self,
        core: ProcessCore,
        spec: ContainerSpec,
        image: Image,
        name: str | None,
        network: ProcessNetwork | None,
        attach: str = "",
    ) -> None:
        self._core = core
        self.spec = spec
        self.image = image
        self.name: str = name or core.next_name()
        self.id: str = core.next_id()
        self.command: Sequence[str] = program_words(spec, image.config)
        self.names: list[str] = start.names_of(spec, self.name)
        self.streams: Sequence[int] = ()
        self._attach = attach
        self._leads: dict[tuple[int, str], ThreadLead] = {}
        if not spec.network:
            network = None
        elif network is None:
            network = core.default_network()
        self._network = network
        prepared = start.prepare(core, self.id, self.name, spec, image, network)
        self.view: FileView = prepared.view
        self._init = prepared.init
        self.ip: str = prepared.address
        self._output = Output(core.run, spec.log_limit_bytes)
        self._program: BoxProgram | None = None
        self._failure: BaseException | None = None
        self._removed = self._paused = False
        self._last_logs: Logs | None = None
        self._last_code: int | None = None
        self._last_refused = 0
        self._started_at = self._started_monotonic_s = 0.0
        self._lock = threading.RLock()
        core.containers[self] = None
        core.write_hosts()
        self._begin()

    # -------------------------------------------------------------------------- start

    def _begin(self) -> None:
        """Start the program; a failure is raised by `started`."""
        try:
            for port in self.spec.parsed_ports:
                if port.host is not None:
                    lead = ThreadLead(None, self.name, port.host)
                    lead.to(self, port.number)
                    self._leads[port.number, port.protocol] = lead
            self._init.confined()
            self._spawn()
        except ContainersError as error:
            self._failure = error
            self._discard()

    def _spawn(self) -> None:
        user = self.image.config.user if self.spec.user is None else str(self.spec.user)
        env = start.environment(self.spec, self.image, self.name, self.view, "")
        fields = start.spawn_fields(
            self.view, self.command, env, self.spec.workdir or self.image.config.workdir or "/",
            user, [str(group) for group in self.spec.groups], self.spec.ulimits,
        )  # fmt: skip
        fds, self.streams, tty = self._streams()
        try:
            self._program = self._init.spawn(
                {**fields, "main": True, "tty": tty}, fds, self._output.finish
            )
        finally:
            for fd in fds:
                os.close(fd)
        self._started_at, self._started_monotonic_s = time.time(), time.monotonic()

    def _streams(self) -> tuple[list[int], list[int], bool]:
        """Return the streams of the program, and those of the caller if they are attached."""
        self._output.begin()
        if self.spec.tty:
            theirs, ours = execution.streams(has_input=True, tty=True)
            if self._attach:
                return theirs, ours, True
            self._output.read(ours[0], 1)
            return theirs, [], True
        if not self._attach:
            null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            return [null, self._output.pipe(1), self._output.pipe(2)], [], False
        theirs, ours = execution.streams(has_input=self._attach == "all", tty=False)
        return theirs, ours, False

    def started(self) -> None:
        """Wait until its program runs."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        if self._program is not None and not self._removed:
            self._core.events.publish("start", self)

    # -------------------------------------------------------------------------- facts

    @property
    def network(self) -> ProcessNetwork | None:
        """Its network."""
        return self._network

    @property
    def pid(self) -> int:
        """The process id of its program."""
        return self._running_program().pid

    @property
    def ip6(self) -> str:
        """Empty: it has no address of IPv6."""
        return ""

    @property
    def status(self) -> Status:
        """``running``, ``paused``, ``exited`` or ``removed``."""
        if self._removed:
            return "removed"
        if self.exit_code is not None:
            return "exited"
        return "paused" if self._paused else "running"

    @property
    def exit_code(self) -> int | None:
        """Its exit code as a shell reports it; None while it runs."""
        return self._last_code if self._program is None else self._program.code

    def inspect(self) -> ContainerReport:
        """Return a report of the container as it is now."""
        self._live()
        keys = [(port.number, port.protocol) for port in self.spec.parsed_ports]
        return ContainerReport(
            id=self.id, name=self.name, image=self.image.name, image_id=self.image.id,
            command=tuple(self.command), status=self.status, exit_code=self.exit_code,
            pid=self._running_program().pid, ip=self.ip, ip6="",
            network=self._network.id if self._network is not None else "",
            ports={key: self.address(*key) for key in keys},
            started_at=self._started_at, labels=dict(self.image.config.labels),
        )  # fmt: skip

    def health(self, timeout_s: float | None = None) -> HealthReport:
        """Run the HEALTHCHECK of the image once."""
        check_arguments("health()", timeout_s=timeout_s)
        return health.check(self, time.monotonic() - self._started_monotonic_s, timeout_s)

    def stats(self) -> Stats:
        """Is refused: nothing counts what processes use."""
        self._refuse("stats")

    def refusals(self) -> Refusals:
        """Return how many connections had no way; known once it is removed."""
        return Refusals(self._last_refused, ())

    # ----------------------------------------------------------------------- programs

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
        self._require_running("exec")
        chosen = user if user is not None else self.spec.user
        own = self.image.config.user if chosen is None else str(chosen)
        groups = [str(group) for group in self.spec.groups] if user is None else []
        variables = start.environment(self.spec, self.image, self.name, self.view, "")
        variables |= {key: self.view.text(value) for key, value in (env or {}).items()}
        directory = workdir or self.spec.workdir or self.image.config.workdir or "/"

        def fields_of(args: Sequence[str]) -> dict[str, Any]:
            limits = self.spec.ulimits
            return start.spawn_fields(self.view, args, variables, directory, own, groups, limits)

        return execution.run(
            self._init, self.name, command, fields_of,
            input=input, check=check, text=text, tty=tty, timeout_s=timeout_s,
        )  # fmt: skip

    def logs(self) -> Logs:
        """Return its output so far, also after its end and removal."""
        return self._last_logs or self._output.logs()

    def follow(self, timeout_s: float | None = None) -> Iterator[tuple[float, int, bytes]]:
        """Iterate over records ``(time, stream, data)`` from the start until the end."""
        check_arguments("follow()", timeout_s=timeout_s)
        if self._last_logs is not None:
            return iter(self._last_logs.records)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        return self._output.follow(
            deadline, lambda: self._too_late("follow the output of", timeout_s)
        )

    def keep_logs(self) -> None:
        """Keep the output for the time after `remove`."""
        if not self._removed:
            self._last_logs = self._output.logs()

    # --------------------------------------------------------------------------- life

    def wait_ready(self) -> None:
        """Wait until the container is ready (`ContainerSpec.ready`)."""
        spec, config = self.spec, self.image.config
        if spec.ready is not None or spec.ports or config.healthcheck is not None:
            from pytest_containers.model import wait

            wait.until_ready(self, spec.ready, spec.ready_timeout_s, config)
        self._core.copy_ahead(self.image)

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end; return the exit code as a shell reports it."""
        check_arguments("wait()", timeout_s=timeout_s)
        program = self._program
        if program is None:
            if self._last_code is None:
                raise NotRunningError(f"container {self.name!r} was removed")
            return self._last_code
        if not program.ended.wait(timeout_s):
            raise self._too_late("wait for", timeout_s)
        if self._init.was_killed and self._core.run.is_lost_soon():
            raise self._core.run.loss()
        assert program.code is not None
        return program.code

    def _too_late(self, doing: str, timeout_s: float | None) -> WaitTimeoutError:
        return WaitTimeoutError(
            f"{doing} container {self.name!r}: it did not end within {timeout_s} s",
            timeout_s=timeout_s,
        )

    def stop(self, timeout_s: float = 10.0) -> int:
        """Send the stop signal (of the spec or image, else TERM), and kill after `timeout_s`."""
        require("stop()", "timeout_s", timeout_s, LIMIT)
        if self.exit_code is not None:
            return self.exit_code
        self._signal(signal_number(self.spec.stop_signal or self.image.config.stop_signal))
        try:
            return self.wait(timeout_s)
        except WaitTimeoutError:
            self._signal(9)
            return self.wait(10.0)

    def heeds_stop_signal(self) -> bool:
        """Return True if the program handles the stop signal, or ends by it."""
        signum = signal_number(self.spec.stop_signal or self.image.config.stop_signal)
        try:
            status = Path(f"/proc/{self._running_program().pid}/status").read_text()
        except OSError:
            return True
        return not signal_is_in(status, signum, "SigIgn")

    def kill(self, signal: str | int = "KILL") -> None:
        """Send a signal to the program."""
        check_arguments("kill()", signal=signal)
        self._signal(signal_number(signal))

    def _signal(self, signum: int) -> None:
        self._require_running("signal")
        program = self._running_program()
        self._init.kill(program, signum)

    def pause(self) -> None:
        """Stop all processes by SIGSTOP, which their parents may notice."""
        self._require_running("pause")
        self._init.stop_programs(stopped=True)
        self._paused = True
        self._core.events.publish("pause", self)

    def unpause(self) -> None:
        """Let all processes continue."""
        self._require_running("unpause")
        self._init.stop_programs(stopped=False)
        self._paused = False
        self._core.events.publish("unpause", self)

    def _require_running(self, doing: str) -> None:
        self._live()
        if self.exit_code is not None:
            raise NotRunningError(
                f"{doing} of container {self.name!r}: it has ended with exit code {self.exit_code}",
                exit_code=self.exit_code,
            )

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Keep its processes from writing meanwhile."""
        if self._paused or self.exit_code is not None:
            yield
            return
        self._init.stop_programs(stopped=True)
        try:
            yield
        finally:
            with contextlib.suppress(NotRunningError):  # it was killed meanwhile
                self._init.stop_programs(stopped=False)

    def restart(self, timeout_s: float = 10.0) -> None:
        """Stop the program and start it again with the same files and addresses."""
        require("restart()", "timeout_s", timeout_s, LIMIT)
        self.stop(timeout_s)
        self._spawn()
        self._core.events.publish("restart", self)

    def remove(self, *, wait: bool = True) -> None:
        """Kill the container and remove all that belongs to it; idempotent."""
        check_arguments("remove()", wait=wait)
        if self._removed:
            return
        self._last_code = self.exit_code
        self._discard()
        self._core.events.publish("remove", self)

    def _discard(self) -> None:
        with self._lock:
            if self._removed:
                return
            self._removed = True
        for lead in self._leads.values():
            lead.close()
        core, run = self._core, self._core.started_run
        core.containers.pop(self, None)
        if run is None:
            return
        self._init.close()
        self._init.wait_closed()
        self._last_refused = run.drop(self.id)
        if self._last_logs is None:
            self._last_logs = self._output.logs()
        if self.ip:
            run.places.give_back(self.ip)
        core.remove_later(self.view.root)
        core.write_hosts()

    def clone(
        self, name: str | None = None, *, wait_ready: bool = True, **changes: Any
    ) -> ProcessContainer:
        """Start a second container with the files of this one; both continue independently."""
        check_arguments("clone()", name=name, wait_ready=wait_ready)
        # Without fixed ports of the host, which this container uses.
        ports = [
            dataclasses.replace(port, host=None) if port.host else port
            for port in self.spec.parsed_ports
        ]
        spec = spec_of(self.spec, None, {"ports": ports, **changes})
        spec = dataclasses.replace(spec, image=self.snapshot())
        return run_container(self._core, spec, name, self._network, wait_ready=wait_ready)

    # ------------------------------------------------------------------------ helpers

    def _running_program(self) -> BoxProgram:
        if self._program is None:
            raise NotRunningError(f"container {self.name!r} was removed")
        return self._program

    def _live(self) -> None:
        if self._removed:
            raise NotRunningError(f"container {self.name!r} was removed")

    def _refuse(self, capability: capabilities.Capability) -> NoReturn:
        capabilities.require(capability, "process", ())
        raise AssertionError(capability)

    def __enter__(self) -> ProcessContainer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        state = "removed" if self._removed else "started"
        return f"<ProcessContainer {self.name!r} {self.id} of {self.image.name} ({state})>"


def run_container(
    core: ProcessCore,
    spec: ContainerSpec,
    name: str | None,
    network: ProcessNetwork | None,
    *,
    wait_ready: bool,
) -> ProcessContainer:
    """Start a container and wait until it is ready; see `Engine.run`."""
    check_arguments("run()", name=name, network=network, wait_ready=wait_ready)
    container = ProcessContainer(core, spec, core.image(spec.image), name, network)
    container.started()
    if wait_ready:
        try:
            container.wait_ready()
        except BaseException:
            container.remove()
            raise
    return container
