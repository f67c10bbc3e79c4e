"""The runtime of builds in the native engine."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from pytest_containers.builder.runtime import (
    BuildProcess,
    BuildProgram,
    FileMount,
    FolderMount,
    ImageMount,
    MemoryMount,
    SocketMount,
    StepMount,
)
from pytest_containers.engines.native.container import Container
from pytest_containers.engines.native.core import Core
from pytest_containers.engines.native.egress import resolv
from pytest_containers.engines.native.jobs import call_job
from pytest_containers.images.image import Image
from pytest_containers.images.jobs import FREEZE
from pytest_containers.model.errors import BuildError, hide_frames
from pytest_containers.model.spec import Bind, ContainerSpec, Mount, Tmpfs
from pytest_containers.runtime.network.outside import way_out
from pytest_containers.runtime.wire.operations.job import Job

__tracebackhide__ = hide_frames

_MAX_PROCESSES = 4096  # of one RUN: enough for any build, and not for a fork bomb
_LOG_BYTES = 64 << 20


class BuildRuntime:
    """The implementation of `builder.runtime.Runtime` with containers of a run."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._running: set[Container] = set()
        self._egress, self._egress_problem = way_out()

    def call(
        self,
        job: Job[Any, Any],
        args: Mapping[str, Any],
        fds: Sequence[int],
        views: Sequence[Image],
    ) -> dict[str, Any]:
        """Run a job; see `builder.runtime.Runtime`."""
        return self._call(self._core, job, args, fds, views)

    @staticmethod
    def _call(
        core: Core,
        job: Job[Any, Any],
        args: Mapping[str, Any],
        fds: Sequence[int],
        views: Sequence[Image],
        **extra: Any,
    ) -> dict[str, Any]:
        keys = [core.make_ready(image) for image in views]
        return call_job(core.client, job, args, fds, views=keys, kind=BuildError, **extra)

    @contextmanager
    def start(self, image: Image, program: BuildProgram) -> Iterator[BuildProcess]:
        """Start a program; see `builder.runtime.Runtime`."""
        core = self._core
        extra: dict[str, Any] = {}
        if program.network == "host" or (program.network == "default" and not self._egress):
            core = self._core.on_host_network()
            extra = {"resolv": _read("/etc/resolv.conf"), "hosts": _read("/etc/hosts")}
        elif program.network == "default":
            extra = {"egress": self._egress, "resolv": resolv()}
        spec_mounts = [
            mount for mount in program.mounts if isinstance(mount, MemoryMount | SocketMount)
        ]
        spec = ContainerSpec(
            image,
            list(program.args),
            entrypoint=(),
            env=program.env,
            user=program.user or None,
            workdir=program.workdir,
            mounts=[_mount(mount) for mount in spec_mounts],
            network=False,
            init=True,
            log_limit_bytes=_LOG_BYTES,
            ulimits={"nproc": _MAX_PROCESSES},
            scratch=program.scratch,
            scratch_size_bytes=program.scratch_size_bytes,
        )
        with ExitStack() as stack:
            mounts = _oci_mounts(core, program.mounts, stack)
            container = Container._start(
                core, spec, image, "build", None, numbered=True, mounts=mounts, **extra
            )
            stack.callback(container.remove)
            with self._lock:
                self._running.add(container)
            stack.callback(self._running.discard, container)
            container.started()
            yield _Process(core, container)

    def stop(self) -> None:
        """Remove all running containers; see `builder.runtime.Runtime`."""
        with self._lock:
            running = list(self._running)
        for container in running:
            container.remove()

    def explain_network(self) -> str:
        """Return why the network of the host is used; see `builder.runtime.Runtime`."""
        return "" if self._egress else f"network: that of the host, since {self._egress_problem}"


class _Process:
    def __init__(self, core: Core, container: Container) -> None:
        self._core = core
        self._container = container

    def output(self) -> Iterator[bytes]:
        for _, _, data in self._container.follow():
            yield data

    def wait(self) -> int:
        return self._container.wait()

    def freeze(
        self, parent: int, without: Sequence[str], latest_ns: int | None, base: Image
    ) -> dict[str, Any]:
        args = {"without": list(without), "latest_ns": latest_ns}
        return BuildRuntime._call(
            self._core, FREEZE, args, [parent], [base], upper_of=self._container.id
        )


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _mount(mount: MemoryMount | SocketMount) -> Mount:
    if isinstance(mount, MemoryMount):
        return Tmpfs(mount.target, mount.size_bytes)
    return Bind(os.fspath(mount.path), mount.target)


def _oci_mounts(core: Core, mounts: Sequence[StepMount], stack: ExitStack) -> list[dict[str, Any]]:
    """Return the mounts that a `ContainerSpec` cannot express, as in an OCI config."""
    oci_mounts: list[dict[str, Any]] = []

    def add(kind: str, source: str, target: str, *options: str | bool) -> None:
        set_options = [option for option in options if option]
        oci_mounts.append(
            {"type": kind, "source": source, "destination": target, "options": set_options}
        )

    files = [mount for mount in mounts if isinstance(mount, FileMount)]
    if files:
        volume = core.create_volume(
            files=[(file.data, file.mode, file.uid, file.gid) for file in files]
        )
        stack.callback(volume.remove)
        for number, file in enumerate(files):
            add("volume", volume.id, file.target, "ro", f"name={number}")
    for mount in mounts:
        if isinstance(mount, ImageMount):
            key = core.make_ready(mount.image)
            add("image", key, mount.target, mount.read_only and "ro", f"path={mount.source}")
        elif isinstance(mount, FolderMount):
            source = os.fspath(mount.path)
            add("bind", source, mount.target, mount.read_only and "ro", "mapped")
    return oci_mounts
