"""What builds need, by the native engine."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_containers.build import runtime as needs
from pytest_containers.build.runtime import Process, Program
from pytest_containers.errors import (
    BuildError,
    ContainersError,
    ImageError,
    hide_frames,
)
from pytest_containers.images.image import Image
from pytest_containers.images.layers import FREEZE
from pytest_containers.spec import Bind, ContainerSpec, Mount, Tmpfs

if TYPE_CHECKING:
    from pytest_containers.engines.native.container import Container
    from pytest_containers.engines.native.engine import Engine

__tracebackhide__ = hide_frames

_MAX_PROCESSES = 4096  # of one RUN: enough for any build, and not for a fork bomb
_LOG_BYTES = 64 << 20


class BuildRuntime:
    """`build.runtime.Runtime` by containers of a run."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._running: set[Container] = set()

    def call(
        self, function: str, args: Mapping[str, Any], fds: Sequence[int], views: Sequence[Image]
    ) -> dict[str, Any]:
        """See `build.runtime.Runtime`."""
        return self._call(self._engine, function, args, fds, views)

    @staticmethod
    def _call(
        engine: Engine, function: str, args: Mapping[str, Any], fds: Sequence[int],
        views: Sequence[Image], **more: Any,
    ) -> dict[str, Any]:  # fmt: skip
        search_path = [path for path in sys.path if path]
        keys = [engine.make_ready(one) for one in views]
        try:
            frame = engine.client.call(
                "job", function=function, args=dict(args), search_path=search_path, fds=fds,
                views=keys, **more,
            )  # fmt: skip
        except (BuildError, ImageError):
            raise
        except ContainersError as error:
            raise BuildError(error.message, **error.data) from error
        result: dict[str, Any] = frame.body["ok"]
        return result

    @contextmanager
    def start(self, image: Image, program: Program) -> Iterator[Process]:
        """See `build.runtime.Runtime`."""
        engine = self._engine
        spec = ContainerSpec(
            image, list(program.args), entrypoint=(), env=program.env, user=program.user or None,
            workdir=program.workdir, mounts=[_mount(one) for one in program.mounts],
            network=False, init=True, log_limit_bytes=_LOG_BYTES,
            rlimits={"nproc": _MAX_PROCESSES},
        )  # fmt: skip
        container = engine.run(spec, wait_ready=False)
        with self._lock:
            self._running.add(container)
        try:
            yield _Process(engine, container)
        finally:
            with self._lock:
                self._running.discard(container)
            container.remove()

    def stop(self) -> None:
        """See `build.runtime.Runtime`."""
        with self._lock:
            running = list(self._running)
        for container in running:
            container.remove()

    def explain_network(self) -> str:
        """See `build.runtime.Runtime`."""
        return ""


class _Process:
    def __init__(self, engine: Engine, container: Container) -> None:
        self._engine = engine
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
            self._engine, FREEZE, args, [parent], [base], upper_of=self._container.id
        )


def _mount(mount: needs.StepMount) -> Mount:
    if isinstance(mount, needs.MemoryMount):
        return Tmpfs(mount.target, mount.size_bytes)
    if isinstance(mount, needs.SocketMount):
        return Bind(os.fspath(mount.path), mount.target)
    raise NotImplementedError(mount)
