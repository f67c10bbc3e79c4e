"""The start of an OCI bundle, in two steps: all but the execve, and the execve."""

from __future__ import annotations

import os
from contextlib import ExitStack

from pytest_containers.linux import mount
from pytest_containers.linux.descriptors import OwnedDescriptors
from pytest_containers.runtime.plan import bundle
from pytest_containers.runtime.supervisor.container import RunContainer
from pytest_containers.runtime.supervisor.hold import Hold
from pytest_containers.runtime.supervisor.rootfs import ReadyImage, ready_image
from pytest_containers.runtime.supervisor.server import Belongings, Server
from pytest_containers.runtime.supervisor.start import Start
from pytest_containers.runtime.wire.dispatch import Call
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.message import close_all
from pytest_containers.runtime.wire.operations.host import HostTree
from pytest_containers.runtime.wire.operations.starts import (
    BundleCreated,
    CreateBundle,
    StartRequest,
)


class BundleStart(Start):
    """The creation of a container of a bundle; `RunContainer.execute` starts its program.

    Its root file system is a writable layer on a directory of the host. The mount of that is
    given back when the container is there: its overlay has one of its own.

    Args:
        server, owner, call: As those of `Start`.
        request: What the client asked for.
        namespaces: Descriptors of the namespaces that the config gives by path.
    """

    _bundle = True

    def __init__(
        self,
        server: Server,
        owner: Belongings,
        call: Call[BundleCreated],
        request: CreateBundle,
        namespaces: OwnedDescriptors,
    ) -> None:
        self._rootfs_path = request.rootfs
        self._namespaces = namespaces
        self._tree = ExitStack()
        super().__init__(server, owner, call, _as_start(request), request.config)
        bundle.check(self._config, server.tools.machine)

    async def create(self) -> RunContainer:
        """Create the container.

        Raises:
            FaultError: Nothing of it is left.
        """
        with self._tree:
            container, _ = await self.run()
        return container

    async def _start(self, container: RunContainer) -> None:
        kinds = self._config.joined_namespaces
        if len(kinds) != len(self._namespaces.fds):
            raise FaultError("SpecError", "OCI config linux.namespaces: a descriptor is missing")
        own = os.stat("/proc/self/ns/net").st_ino
        if any(os.fstat(fd).st_ino == own for fd in self._namespaces.fds):
            message = "it is the run's own network namespace; name that of another container"
            raise FaultError("SpecError", f"OCI config linux.namespaces: {message}")
        container.namespace_fds = dict(zip(kinds, self._namespaces.hand_over(), strict=True))
        container.hold = Hold(self._tools.loop)
        await super()._start(container)

    async def _image(self, undo: ExitStack) -> ReadyImage:
        """Make an image of the directory, for this start alone."""
        root = self._tools.root
        tree = HostTree(path=self._rootfs_path, idmapped=True, recursive=False)
        try:
            (opened,) = await self._tools.trees.open([tree])
        except FaultError as error:
            raise self._about(error, kind="StartError") from None
        if not opened.directory:
            os.close(opened.fd)
            message = f"{self._doing}: root file system {self._rootfs_path} is not a directory"
            raise FaultError("StartError", message, path=self._rootfs_path)
        path = root.place(opened.fd, "trees")
        self._tree.callback(os.rmdir, path)
        self._tree.callback(mount.umount, path)
        image = ready_image(root, "", [path], (), ())
        self._tree.callback(close_all, image.layer_fds)
        return image


def _as_start(request: CreateBundle) -> StartRequest:
    """Everything that a bundle leaves to the run."""
    return StartRequest(
        image="",
        name=request.name,
        hostname="",
        names=(),
        network=None,
        user="",
        groups=(),
        args=(),
        init=False,
        log_limit_bytes=request.log_limit_bytes,
        scratch="tmpfs",
        scratch_size_bytes=None,
        ports=(),
        host_ports=(),
        attach=request.attach,
        syscall_filter=request.syscall_filter,
    )
