"""The handle of a container of a daemon in a test process."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_containers.engines.docker import execution, files, listening, output, starting
from pytest_containers.engines.docker.api import DaemonRefusal
from pytest_containers.engines.docker.core import DockerCore, DockerNetwork
from pytest_containers.engines.docker.create import refuse_options
from pytest_containers.engines.docker.tracked import TrackedContainer
from pytest_containers.linux.process import signal_is_in
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
from pytest_containers.model.command import program_words
from pytest_containers.model.errors import (
    ContainersError,
    NotRunningError,
    RunLostError,
    SpecError,
    UnsupportedError,
    hide_frames,
)
from pytest_containers.model.results import Logs
from pytest_containers.model.spec import ContainerSpec, signal_number, spec_of

if TYPE_CHECKING:
    from pytest_containers.engines.docker.images import DockerImage
    from pytest_containers.model.reports import HealthReport, Refusals, Stats
    from pytest_containers.model.results import ExecResult

__tracebackhide__ = hide_frames

Attach = Literal["", "output", "all"]


class DockerContainer(TrackedContainer):
    """A container of a daemon; as a context manager, it is removed at the end.

    `Engine.run` makes containers. Thread-safe. The contract tells more of each method.

    Attributes:
        id: Its id in the daemon; empty until it is created.
        name: Its host name, unless the spec has another.
        spec, image, network: Its spec, image and private network.
        streams: Descriptors of an attached container; the caller owns them.
        labels: Its labels in the daemon.
        core: The run.
    """

    def begin(self, attach: Attach = "") -> None:
        """Begin to create and start it; see `Engine.launch`."""
        self.core.add(self)
        self._starting = self.core.in_background(lambda: starting.start(self, attach))

    def health(self, timeout_s: float | None = None) -> HealthReport:
        """Run the HEALTHCHECK of the image once."""
        check_arguments("health()", timeout_s=timeout_s)
        from pytest_containers.engines import health

        return health.check(self, time.time() - self._started_at, timeout_s)

    def stats(self) -> Stats:
        """Return what the container uses now, and has used since its start."""
        from pytest_containers.engines.docker import usage

        if self.exit_code is not None:
            raise NotRunningError(f"container {self.name!r} has ended", exit_code=self.exit_code)
        return usage.stats_of(
            self._call("stats", lambda c: c.stats(self.id, stream=False, one_shot=True))
        )

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
        self._live()
        return execution.run(
            self.core.api, self.id, self.name, command, user=None if user is None else str(user),
            workdir=workdir, env=env, input=input, check=check, text=text, tty=tty,
            timeout_s=timeout_s, make_folder=lambda path: files.make_folder(self, path),
        )  # fmt: skip

    def logs(self) -> Logs:
        """Return its output so far, also after its end and removal."""
        if self._last_logs is not None:
            return self._last_logs
        return Logs(tuple(self._records(follow=False)))

    def follow(self, timeout_s: float | None = None) -> Iterator[tuple[float, int, bytes]]:
        """Iterate over records ``(time, stream, data)`` from the start until the end."""
        check_arguments("follow()", timeout_s=timeout_s)
        if self._last_logs is not None:
            return iter(self._last_logs.records)
        return self._records(follow=True, timeout_s=timeout_s)

    def _records(
        self, *, follow: bool, timeout_s: float | None = None
    ) -> Iterator[tuple[float, int, bytes]]:
        self._live()
        return output.records(
            self.core.api, self.id, self.name, tty=self.spec.tty, follow=follow,
            timeout_s=timeout_s,
        )  # fmt: skip

    # -------------------------------------------------------------------- life

    def wait_ready(self) -> None:
        """Wait until the container is ready (`ContainerSpec.ready`)."""
        from pytest_containers.model import wait

        wait.until_ready(self, self.spec.ready, self.spec.ready_timeout_s, self.image.config)

    def wait_listening(self, ports: Sequence[tuple[int, str]], timeout_s: float) -> None:
        """Wait until each ``(number, protocol)`` has a listening socket in the container."""
        check_arguments("wait_listening()", ports=ports)
        require("wait_listening()", "timeout_s", timeout_s, LIMIT)
        self._live()
        listening.wait_listening(self, self.port_table, ports, timeout_s)

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end; return the exit code as a shell reports it."""
        check_arguments("wait()", timeout_s=timeout_s)
        with self._condition:
            self._condition.wait_for(
                lambda: self._exit_code is not None or self._removed or self.core.lost, timeout_s
            )
            code = self._exit_code
        if code is not None:
            return code
        self._live()
        raise output.timed_out("wait for", self.name, timeout_s)

    def stop(self, timeout_s: float = 10.0) -> int:
        """Send the stop signal (of the spec or image, else TERM), and kill after `timeout_s`."""
        require("stop()", "timeout_s", timeout_s, LIMIT)
        if self._exit_code is not None:
            return self._exit_code
        if self.heeds_stop_signal():
            seconds = max(round(timeout_s), 0)
            self._call("stop", lambda c: c.stop(self.id, timeout=seconds))
        else:
            with contextlib.suppress(NotRunningError):
                self.kill()
        return self.wait()

    def heeds_stop_signal(self) -> bool:
        """Return True if the program handles the stop signal, which is ignored otherwise."""
        number = signal_number(self.spec.stop_signal or self.image.config.stop_signal)
        if number in (9, 19) or self.spec.init:
            return True
        try:
            if self.port_table.is_local:
                status = Path(f"/proc/{self.pid}/status").read_text()
            else:
                status = self.read_text("/proc/1/status")
        except (ContainersError, OSError):
            return True
        return signal_is_in(status, number, "SigCgt", "SigBlk")

    def kill(self, signal: str | int = "KILL") -> None:
        """Send a signal to the program."""
        check_arguments("kill()", signal=signal)
        number = signal_number(signal)
        self._call("kill", lambda c: c.kill(self.id, number))

    def pause(self) -> None:
        """Freeze all processes."""
        self._call("pause", lambda c: c.pause(self.id))

    def unpause(self) -> None:
        """Thaw all processes."""
        self._call("unpause", lambda c: c.unpause(self.id))

    def restart(self, timeout_s: float = 10.0) -> None:
        """Stop the program and start it again with the same files and addresses."""
        require("restart()", "timeout_s", timeout_s, LIMIT)
        self.stop(timeout_s)
        self._exit_code = self._last_logs = None
        starting.start_again(self)

    def remove(self, *, wait: bool = True) -> None:
        """Kill the container and remove all that belongs to it; idempotent."""
        check_arguments("remove()", wait=wait)
        if self._removed:
            return
        with contextlib.suppress(ContainersError):  # the start failed: there is nothing to remove
            self.started()
        if self._removed:
            return
        self._publish_removal()
        self.note_removal()
        self._forget()
        if self._table is not None:
            self._table.close()
        if self.core.lost is not None:
            return
        if wait:
            self._delete()
            return
        removal = self.core.in_background(self._delete)
        if self.network is not None:
            for network in self.network.all:
                network.leaving(removal)

    def _publish_removal(self) -> None:
        from pytest_containers.model.reports import Event

        self.core.events.publish(Event("remove", self.id, self.name, time.time()))

    def _delete(self) -> None:
        with contextlib.suppress(RunLostError):
            try:
                self.core.api.call(
                    f"removal of container {self.name!r}",
                    lambda c: c.remove_container(self.id, v=True, force=True),
                )
            except DaemonRefusal as error:
                if error.status not in (404, 409):  # gone, or going
                    raise

    def keep_logs(self) -> None:
        """Fetch output and exit code now, so that they are available after `remove`."""
        if self._removed:
            return
        with contextlib.suppress(RunLostError, NotRunningError):
            logs, _ = self.logs(), self.exit_code
            self._last_logs = logs

    def refusals(self) -> Refusals:
        """Return nothing: a daemon does not count what its containers try to reach."""
        from pytest_containers.model.reports import Refusals

        return Refusals()

    # ------------------------------------------------------------------- files

    def read_bytes(self, path: str) -> bytes:
        """Return the contents of a file in the container, also after its end."""
        require("file of a container", "path", path, TEXT)
        self._live()
        return files.read_bytes(self, path)

    def read_text(self, path: str) -> str:
        """Return the contents of a file as a string, decoded from UTF-8."""
        return self.read_bytes(path).decode()

    def write_bytes(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a file as root of the container; overwrite an existing one."""
        check_arguments("write_bytes()", data=data)
        require("file of a container", "path", path, TEXT)
        require("file of a container", "mode", mode, NUMBER)
        self._live()
        files.write_bytes(self, path, data, mode)

    def write_text(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a string to a file, encoded in UTF-8; see `write_bytes`."""
        require("write_text()", "text", text, SECRET_TEXT)
        self.write_bytes(path, text.encode(), mode=mode)

    def copy_in(self, source: str | os.PathLike[str], target: str) -> None:
        """Copy a file or directory of the host into the container, like ``docker cp``."""
        check_arguments("copy_in()", source=source, target=target)
        self._live()
        files.copy_in(self, Path(source), target)

    def copy_out(self, source: str, target: str | os.PathLike[str]) -> None:
        """Copy a file or directory of the container to the host, like ``docker cp``."""
        require("copy_out()", "source", source, TEXT)
        require("copy_out()", "target", target, PATH)
        self._live()
        files.copy_out(self, source, Path(target))

    def commit(
        self,
        name: str,
        *,
        changes: Mapping[str, Any] | None = None,
        message: str = "",
        author: str = "",
    ) -> DockerImage:
        """Make an image from its current files, like ``docker commit``, also after its end."""
        require("commit()", "name", name, TEXT)
        require("commit()", "changes", changes or {}, MAPPING)
        check_arguments("commit()", message=message, author=author)
        from pytest_containers.engines.docker import commits

        self._live()
        return commits.commit(self, name, changes=changes or {}, message=message, author=author)

    def snapshot(self, name: str | None = None) -> DockerImage:
        """Return its current files as an image for other containers, also after its end."""
        check_arguments("snapshot()", name=name)
        from pytest_containers.engines.docker import commits

        self._live()
        return commits.snapshot(self, name)

    def freeze(self, parent: int) -> dict[str, Any]:
        """Refuse: the states of this engine are images of the daemon; see `DockerStates.keep`."""
        raise UnsupportedError(
            f"freeze of container {self.name!r}: engine 'docker' keeps its states as images of the "
            "daemon; call `engine.states.keep`",
            engine="docker",
        )

    def clone(
        self, name: str | None = None, *, wait_ready: bool = True, **changes: Any
    ) -> DockerContainer:
        """Start a second container with the files of this one; both continue independently."""
        check_arguments("clone()", name=name, wait_ready=wait_ready)
        # Without fixed ports of the host, which this container uses.
        ports = [
            dataclasses.replace(port, host=None) if port.host else port
            for port in self.spec.parsed_ports
        ]
        spec = spec_of(self.spec, None, {"ports": ports, **changes})
        spec = dataclasses.replace(spec, image=self.snapshot())
        return run_container(self.core, spec, name, self.network, wait_ready=wait_ready)

    def __enter__(self) -> DockerContainer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        state = "removed" if self._removed else "started"
        return f"<DockerContainer {self.name!r} {self.id[:12]} of {self.image.name} ({state})>"


def launch(
    core: DockerCore,
    spec: ContainerSpec,
    name: str | None,
    network: Any,
    attach: Attach = "",
) -> DockerContainer:
    """Begin to start a container; see `Engine.launch`."""
    refuse_options(spec)
    core.start()
    image = core.finder.get(spec.image)
    program_words(spec, image.config)
    if network is not None and not isinstance(network, DockerNetwork):
        raise SpecError(f"network {network!r} is not one of engine 'docker'")
    if not spec.network:
        network = None
    elif network is None:
        network = core.default_network()
    container = DockerContainer(core, spec, image, name or core.next_name(), network)
    container.labels = core.labels(container.name)
    container.begin(attach)
    return container


def run_container(
    core: DockerCore, spec: ContainerSpec, name: str | None, network: Any, *, wait_ready: bool
) -> DockerContainer:
    """Start a container and wait until it is ready; see `Engine.run`."""
    container = launch(core, spec, name, network)
    container.started()
    if wait_ready:
        try:
            container.wait_ready()
        except BaseException:
            container.remove()
            raise
    return container
