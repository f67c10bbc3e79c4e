"""Containers of OCI bundles: the door to the runtime's core, see `Engine.run_oci`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, cast

from pytest_containers.engines.native import execution, output
from pytest_containers.engines.native.bundle import Bundle, read_bundle
from pytest_containers.engines.native.config import text_of
from pytest_containers.engines.native.core import Core
from pytest_containers.engines.native.filters import filter_of_document
from pytest_containers.linux.descriptors import OwnedDescriptors
from pytest_containers.model import engine as contract
from pytest_containers.model.errors import (
    NotRunningError,
    SpecError,
    StartError,
    WaitTimeoutError,
    hide_frames,
)
from pytest_containers.model.reports import OciState, OciStatus
from pytest_containers.model.results import ExecResult, Logs
from pytest_containers.model.spec import signal_number
from pytest_containers.runtime.wire.operations.containers import Inspect, Remove, Signal, WaitExit
from pytest_containers.runtime.wire.operations.starts import (
    BundleCreated,
    CreateBundle,
    Execute,
    SyscallFilter,
)

__tracebackhide__ = hide_frames

_LOG_LIMIT_BYTES = 16 << 20


class OciContainer:
    """A container of an OCI bundle. A context manager that deletes it at the end, by force.

    Its states are those of the runtime specification: *created* (all is there but the execve of
    its program), *running* and *stopped*. Thread-safe. Made by `Engine.run_oci`.

    Attributes:
        id: Unique among the OCI containers of the engine.
        bundle: The directory of the bundle.
        config: Its config, as it was given.
        streams: With ``attach``: descriptors of its standard input (if it has one), output and
            error output, or of its terminal. They are the caller's.
    """

    def __init__(
        self,
        core: Core,
        container_id: str,
        bundle: Bundle,
        created: BundleCreated,
        others: dict[str, contract.OciContainer],
    ) -> None:
        self.id: str = container_id
        self.bundle: Path = bundle.path
        self.config: Mapping[str, Any] = bundle.config
        self.streams: Sequence[int] = created.streams
        self._core = core
        self._key = created.id
        self._pid = _pid_of(created.process)
        self._others = others
        self._deleted = False

    def state(self) -> OciState:
        """Return its state, as ``runc state`` does.

        Raises:
            NotRunningError: It was deleted.
        """
        state = self._call(Inspect(container=self._key)).state
        status = "stopped" if state == "exited" else cast("OciStatus", state)
        return OciState(
            id=self.id,
            status=status,
            pid=0 if status == "stopped" else self._pid,
            bundle=str(self.bundle),
            oci_version=self.config["ociVersion"],
            annotations=dict(self.config.get("annotations") or {}),
        )

    def start(self) -> None:
        """Start the program of a created container.

        Raises:
            StartError: It is not created; or there is no such program (``exit_code`` 127), or it
                cannot be run (126), and the container is stopped.
        """
        self._call(Execute(container=self._key))

    def exec(
        self,
        process: Mapping[str, Any] | Sequence[str],
        *,
        input: str | bytes | None = None,
        check: bool = False,
        text: bool = False,
        timeout_s: float | None = None,
    ) -> ExecResult:
        """Run one more program in it, as ``runc exec``.

        Args:
            process: A process object of the specification; or a command line, for a program like
                the container's own with other arguments.
            input: Written to its standard input; without it that is ``/dev/null``.
            check: Raise when it fails.
            text: Take and give text in UTF-8 rather than bytes.
            timeout_s: How long it may take.

        Raises:
            SpecError: The process object cannot be applied as it is.
            StartError, ExecError, WaitTimeoutError, NotRunningError: See `Container.exec`.
        """
        self._require()
        described: Mapping[str, Any] = self.config["process"]
        command, tty = process, False
        if isinstance(process, Mapping):
            described = process
            command, tty = process.get("args") or (), bool(process.get("terminal"))
            if isinstance(command, str):
                raise SpecError("OCI config process.args: it is not a list", field="process.args")
        return execution.run(
            self._core.client,
            self._key,
            self.id,
            described,
            {},
            cast("Sequence[str]", command),
            user=None,
            groups=(),
            workdir=None,
            env=None,
            input=input,
            check=check,
            text=text,
            tty=tty,
            timeout_s=timeout_s,
        )

    def kill(self, signal: str | int = "TERM") -> None:
        """Send a signal to its process.

        Raises:
            NotRunningError: It is stopped.
        """
        self._call(Signal(container=self._key, signum=signal_number(signal)))

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until it is stopped; returns the exit code as a shell reports it.

        Raises:
            WaitTimeoutError: It runs on.
        """
        self._require()
        try:
            return self._core.client.call(WaitExit(container=self._key), within_s=timeout_s).code
        except WaitTimeoutError:
            raise output.timed_out("wait for", self.id, timeout_s) from None

    def logs(self) -> Logs:
        """Return what it has written so far."""
        self._require()
        return Logs(tuple(output.records(self._core.client, self._key, self.id, wait=False)))

    def delete(self, *, force: bool = False) -> None:
        """Drop all that it had; idempotent.

        Args:
            force: Kill it first.

        Raises:
            StartError: It is not stopped, and `force` is not given.
        """
        if self._deleted:
            return
        if not force and (status := self.state().status) != "stopped":
            raise StartError(
                f"delete of container {self.id!r}: it is {status}; kill it first, or use force=True"
            )
        self._deleted = True
        self._others.pop(self.id, None)
        self._core.tell(Remove(container=self._key))

    def _call(self, operation: Any) -> Any:
        self._require()
        return self._core.client.call(operation)

    def _require(self) -> None:
        if self._deleted:
            raise NotRunningError(f"container {self.id!r} was deleted")

    def __enter__(self) -> OciContainer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.delete(force=True)

    def __repr__(self) -> str:
        return f"<OciContainer {self.id!r} of {self.bundle}>"


def create_container(
    core: Core,
    config: Mapping[str, Any] | str | os.PathLike[str],
    rootfs: str | os.PathLike[str] | None,
    container_id: str | None,
    attach: Literal["", "output", "all"],
) -> OciContainer:
    """Create a container of a bundle; see `Engine.run_oci`."""
    bundle = read_bundle(config, rootfs)
    container_id = container_id or core.next_name()
    if container_id in core.oci_containers:
        raise SpecError(f"container {container_id!r} exists; delete it first, or choose another id")
    own = core if bundle.has_network else core.on_host_network()
    config_bytes, syscall_filter = _compiled(bundle.resolved)
    with OwnedDescriptors() as namespaces:
        for path in bundle.namespaces:
            try:
                # Not to wait at a pipe; what is no namespace is refused when it is joined.
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
                namespaces.fds.append(os.open(path, flags))
            except OSError as error:
                raise SpecError(
                    f"OCI config linux.namespaces: path {path!r}: {error.strerror}",
                    field="linux.namespaces",
                    path=path,
                    errno=error.errno,
                ) from None
        created = own.client.call(
            CreateBundle(
                name=container_id,
                rootfs=str(bundle.rootfs),
                config=config_bytes,
                log_limit_bytes=_LOG_LIMIT_BYTES,
                attach=attach,
                namespaces=namespaces.fds,
                syscall_filter=syscall_filter,
            )
        )
    container = OciContainer(own, container_id, bundle, created, core.oci_containers)
    core.oci_containers[container_id] = container
    return container


def _compiled(config: Mapping[str, Any]) -> tuple[bytes, SyscallFilter | None]:
    """Return a config as it is sent, and apart from it the filter of its ``linux.seccomp``."""
    linux = config.get("linux")
    if not isinstance(linux, dict) or not linux.get("seccomp"):
        return text_of(config), None
    document = linux["seccomp"]
    syscall_filter = filter_of_document(document, "OCI config linux.seccomp")
    rest = {name: value for name, value in linux.items() if name != "seccomp"}
    return text_of({**config, "linux": rest}), syscall_filter


def _pid_of(pidfd: int) -> int:
    """Return the number of a process in this process's view, and close its pidfd; 0 if unseen."""
    with OwnedDescriptors([pidfd]), suppress(OSError, StopIteration):
        for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
            if line.startswith("Pid:"):
                return max(int(line.split()[1]), 0)
    return 0
