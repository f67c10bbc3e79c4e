"""What builds need, by the native engine."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from pytest_containers.build.runtime import (
    FileMount,
    FolderMount,
    ImageMount,
    MemoryMount,
    Process,
    Program,
    SocketMount,
    StepMount,
)
from pytest_containers.engines.native.container import Container
from pytest_containers.errors import (
    BuildError,
    ContainersError,
    ImageError,
    hide_frames,
)
from pytest_containers.images.image import Image
from pytest_containers.images.layers import FREEZE
from pytest_containers.runtime.launcher.egress import NAME_SERVER
from pytest_containers.spec import Bind, ContainerSpec, Mount, Tmpfs

if TYPE_CHECKING:
    from pytest_containers.engines.native.engine import Engine

__tracebackhide__ = hide_frames

_MAX_PROCESSES = 4096  # of one RUN: enough for any build, and not for a fork bomb
_LOG_BYTES = 64 << 20
_TUN = "/dev/net/tun"


class BuildRuntime:
    """`build.runtime.Runtime` by containers of a run."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._running: set[Container] = set()
        self._way_out, self._why_not = way_out()

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
        more: dict[str, Any] = {}
        if program.network == "host" or (program.network == "default" and not self._way_out):
            engine = self._engine.on_host_network()
            more = {"resolv": _text("/etc/resolv.conf"), "hosts": _text("/etc/hosts")}
        elif program.network == "default":
            more = {"egress": self._way_out, "resolv": _resolv(_text("/etc/resolv.conf"))}
        own = [one for one in program.mounts if isinstance(one, MemoryMount | SocketMount)]
        spec = ContainerSpec(
            image, list(program.args), entrypoint=(), env=program.env, user=program.user or None,
            workdir=program.workdir, mounts=[_mount(one) for one in own], network=False, init=True,
            log_limit_bytes=_LOG_BYTES, rlimits={"nproc": _MAX_PROCESSES},
            scratch=program.scratch, scratch_size_bytes=program.scratch_size_bytes,
        )  # fmt: skip
        with ExitStack() as stack:
            mounts = _handed(engine, program.mounts, stack)
            container = Container.start(
                engine, spec, image, "build", None, numbered=True, mounts=mounts, **more
            )
            stack.callback(container.remove)
            with self._lock:
                self._running.add(container)
            stack.callback(self._running.discard, container)
            container.started()
            yield _Process(engine, container)

    def stop(self) -> None:
        """See `build.runtime.Runtime`."""
        with self._lock:
            running = list(self._running)
        for container in running:
            container.remove()

    def explain_network(self) -> str:
        """See `build.runtime.Runtime`."""
        return "" if self._way_out else f"network: the host's own, since {self._why_not}"


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


def way_out() -> tuple[str, str]:
    """The program that connects containers to other machines; or why there is none."""
    found = shutil.which("slirp4netns") or shutil.which("pasta")
    if found is None:
        return "", "neither slirp4netns nor pasta is installed"
    if not os.access(_TUN, os.R_OK | os.W_OK):
        return "", f"{found} needs {_TUN}, which may not be opened"
    return found, ""


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _resolv(host: str) -> str:
    """The host's, with the name server that leads to the host's."""
    kept = [line for line in host.splitlines() if line.split()[:1] in (["search"], ["options"])]
    return "\n".join([f"nameserver {NAME_SERVER}", *kept, ""])


def _mount(mount: MemoryMount | SocketMount) -> Mount:
    if isinstance(mount, MemoryMount):
        return Tmpfs(mount.target, mount.size_bytes)
    return Bind(os.fspath(mount.path), mount.target)


def _handed(engine: Engine, mounts: Sequence[StepMount], stack: ExitStack) -> list[dict[str, Any]]:
    """Mounts that a spec has no words for, as an OCI config has them."""
    found: list[dict[str, Any]] = []

    def add(kind: str, source: str, target: str, *options: str | bool) -> None:
        given = [one for one in options if one]
        found.append({"type": kind, "source": source, "destination": target, "options": given})

    files = [one for one in mounts if isinstance(one, FileMount)]
    if files:
        volume = engine.create_volume(
            files=[(one.data, one.mode, one.uid, one.gid) for one in files]
        )
        stack.callback(volume.remove)
        for number, file in enumerate(files):
            add("volume", volume.id, file.target, "ro", f"name={number}")
    for mount in mounts:
        if isinstance(mount, ImageMount):
            key = engine.make_ready(mount.image)
            add("image", key, mount.target, mount.read_only and "ro", f"path={mount.source}")
        elif isinstance(mount, FolderMount):
            source = os.fspath(mount.path)
            add("bind", source, mount.target, mount.read_only and "ro", "mapped")
    return found
