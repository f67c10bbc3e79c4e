"""The start of a container: everything is fetched and made before the child is."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from pytest_containers.linux.descriptors import OwnedDescriptors
from pytest_containers.runtime.network.bridge import BridgePort
from pytest_containers.runtime.plan.masks import ChosenMask
from pytest_containers.runtime.plan.mounts import bind_attributes
from pytest_containers.runtime.plan.oci import Config, command
from pytest_containers.runtime.plan.start import StartFacts
from pytest_containers.runtime.supervisor import attributes
from pytest_containers.runtime.supervisor.cgroup import Cgroup
from pytest_containers.runtime.supervisor.container import RunContainer
from pytest_containers.runtime.supervisor.disk import watch_disk
from pytest_containers.runtime.supervisor.masks import find_masks
from pytest_containers.runtime.supervisor.network import RunNetwork
from pytest_containers.runtime.supervisor.resolved_spec import ResolvedSpec
from pytest_containers.runtime.supervisor.rootfs import (
    ReadyImage,
    Rootfs,
    disk_scratch,
    new_scratch,
)
from pytest_containers.runtime.supervisor.server import Belongings, Server
from pytest_containers.runtime.supervisor.trees import TreeOfHost
from pytest_containers.runtime.supervisor.volumes import RunVolume
from pytest_containers.runtime.supervisor.warmup import warm_up
from pytest_containers.runtime.wire.dispatch import Call
from pytest_containers.runtime.wire.faults import FaultError, from_os_error
from pytest_containers.runtime.wire.message import close_all
from pytest_containers.runtime.wire.operations.host import (
    Forward,
    HostTree,
    MakeScratch,
    ScratchDirectory,
)
from pytest_containers.runtime.wire.operations.starts import ForwardedPort, StartRequest
from pytest_containers.runtime.wire.tasks import owned, run_task

_NO_LAYERS_THERE = (errno.EINVAL, errno.EROFS)
"""Of a writable layer in a store on a file system that cannot have one, as overlayfs, or that is
read-only."""


class Start:
    """A `Run` or `Restart` of a container.

    States: resources are gathered, and owned by the ``with`` of `run` or `restart`; then the
    container owns them, and is started; then it runs, and its ports are forwarded. A failure or
    cancellation, which may come at any ``await``, closes the resources in the first state and
    removes the container in the others: nothing of it is left when the caller is told.

    Attributes:
        notes: What its mounts lack.

    Args:
        server: The run.
        owner: The belongings of the caller, which the container joins.
        call: The request.
        request: The request's own part of the container.
        config: Its OCI config.

    Raises:
        FaultError: The request cannot be meant.
    """

    _bundle = False

    def __init__(
        self,
        server: Server,
        owner: Belongings,
        call: Call[Any],
        request: StartRequest,
        config: bytes,
    ) -> None:
        self._server = server
        self._tools = server.tools
        self._owner = owner
        self._call = call
        self._request = request
        self._config: Config = self._tools.plans.config(config)
        self._args = command(self._config.process, request.args)
        self._doing = f"start of container {request.name!r}"
        self.notes: list[str] = []

    # ----------------------------------------------------------------- both

    async def run(self) -> tuple[RunContainer, Sequence[ForwardedPort]]:
        """Start a new container; returns it and the ports that lead to it.

        Raises:
            FaultError: It does not run, and nothing of it is left.
        """
        server = self._server
        with server.place_for(self._doing):
            container = await self._make_container()
            server.add_container(container, self._owner)
        self._call.step("file system and streams made")
        try:
            self._expose_host_ports(container)
            self._watch_disk(container)
            await self._start(container)
            return container, await self._forward(container)
        except BaseException:
            await server.remove_container(container, self._owner)
            raise

    async def _make_container(self) -> RunContainer:
        """Gather its resources, and make it their owner."""
        network = self._network()
        try:
            with OwnedDescriptors() as mounts, ExitStack() as undo:
                image = await self._image(undo)
                directories = await self._open_mounts(mounts)
                rootfs, disk_path = await self._make_rootfs(image, undo)
                port = await self._take_port(network, undo)
                cgroup = await self._take_cgroup(undo)
                self._check_name(network)
                masks = find_masks(self._config, mounts.fds, rootfs.fd)
                spec = self._resolve(directories, masks, network=port is not None)
                container = RunContainer(
                    self._tools, self._server.new_id(), image, spec, rootfs,
                    network, port, mounts.hand_over(), disk_path, cgroup,
                )  # fmt: skip
                undo.pop_all()
        except OSError as error:
            raise FaultError.of(from_os_error("StartError", self._doing, error)) from None
        return container

    async def restart(self, container: RunContainer) -> None:
        """Start the program of an ended container again, on the same files and addresses.

        Raises:
            FaultError: Its mounts cannot be had, or it has not ended; else it does not run, and
                was removed.
        """
        with OwnedDescriptors() as mounts:
            await self._open_mounts(mounts)
            try:
                await container.prepare_restart()
            except OSError as error:
                raise FaultError.of(from_os_error("StartError", self._doing, error)) from None
            container.replace_mounts(mounts.hand_over())
        try:
            await self._start(container)
        except BaseException:
            await self._server.remove_container(container, self._owner)
            raise

    async def _start(self, container: RunContainer) -> None:
        try:
            await container.start()
        finally:
            if self._call.traced and container.plan is not None:
                self._call.step(f"plan: {container.plan.text()}")
        if self._request.warmup is not None:
            run_task(warm_up(container, self._tools.net_ns, self._tools.loop, self._request.warmup))

    # --------------------------------------------------------------- before

    async def _image(self, undo: ExitStack) -> ReadyImage:
        return self._tools.trees.image(self._request.image)

    def _network(self) -> RunNetwork | None:
        if self._request.network is None:
            return None
        network = self._server.networks.get(self._request.network)
        if network is None:
            raise FaultError("StartError", f"{self._doing}: its network was removed")
        return network

    def _check_name(self, network: RunNetwork | None) -> None:
        """Refuse a second container of one name: the name would be ambiguous."""
        name = self._request.name
        if network is not None and any(member.name == name for member in network.containers):
            raise FaultError(
                "StartError",
                f"{self._doing}: its network has another one of that name; remove that first, or "
                "give one of them a name of its own",
            )

    async def _open_mounts(self, mounts: OwnedDescriptors) -> tuple[bool, ...]:
        """Open the sources of the container's mounts into `mounts`; -1 where there is none.

        Returns:
            For each mount of the config, True if it is a directory.
        """
        config, entries = self._config, self._config.mounts
        mounts.fds = [-1] * len(entries)
        directories = [True] * len(entries)
        for index, tree in zip(config.binds, await self._open_binds(config.binds), strict=True):
            mounts.fds[index], directories[index] = tree.fd, tree.directory
            self.notes += [f"mount of {entries[index]['source']}: {note}" for note in tree.notes]
        self._call.step("mounts opened")
        for index in config.owned:
            mounts.fds[index] = self._open_own(entries[index])
            directories[index] = stat.S_ISDIR(os.fstat(mounts.fds[index]).st_mode)
        opened = sorted((*config.binds, *config.owned))
        for index in opened:
            attributes.apply(mounts.fds[index], entries[index], self._doing)
        # The process object of an exec in a bundle may have more capabilities than its container.
        if opened and (self._bundle or _may_change_mounts(config, self._request)):
            for index in opened:
                mounts.fds[index] = self._tools.trees.lock(mounts.take(index))
        return tuple(directories)

    async def _open_binds(self, binds: Sequence[int]) -> Sequence[TreeOfHost]:
        trees: list[HostTree] = []
        for index in binds:
            entry = self._config.mounts[index]
            options = entry.get("options") or ()
            trees.append(
                HostTree(
                    path=entry["source"],
                    idmapped="mapped" not in options,
                    recursive="bind" not in options,
                    attributes=bind_attributes(options),
                )
            )  # fmt: skip
        try:
            return await self._tools.trees.open(trees)
        except FaultError as error:
            raise self._about(error, kind="StartError") from None

    def _open_own(self, entry: dict[str, Any]) -> int:
        """Make a detached mount of a volume or an image."""
        options = entry.get("options") or ()
        read_only = "ro" in options
        if entry["type"] == "volume":
            return self._volume(entry["source"]).clone(
                _option(options, "name"), read_only=read_only
            )
        return self._tools.trees.part(
            entry["source"], _option(options, "path"), writable=not read_only
        )

    def _volume(self, number: str) -> RunVolume:
        try:
            return self._owner.volumes[number]
        except KeyError:
            raise FaultError("StartError", f"volume {number} was removed") from None

    async def _make_rootfs(self, image: ReadyImage, undo: ExitStack) -> tuple[Rootfs, str]:
        """Make its root file system; returns it, and its directory if it is on disk."""
        tools, size_bytes = self._tools, self._request.scratch_size_bytes
        if self._is_on_disk():
            try:
                return await self._make_disk_rootfs(image, undo)
            except (OSError, FaultError) as error:
                code = error.errno if isinstance(error, OSError) else error.fault.data.get("errno")
                if code not in _NO_LAYERS_THERE or self._request.scratch == "disk":
                    raise
                tools.root.layers_on_disk = False
        if size_bytes is None and image.key:
            rootfs = tools.stock.take(image)
        else:
            rootfs = Rootfs(tools.root, image, *new_scratch(tools.root, size_bytes))
        undo.callback(rootfs.close)
        return rootfs, ""

    async def _make_disk_rootfs(self, image: ReadyImage, undo: ExitStack) -> tuple[Rootfs, str]:
        tools = self._tools
        with ExitStack() as on_failure:
            directory = await self._make_scratch()
            on_failure.callback(tools.remove_disk, directory.path)
            mounted = directory.mount
            tree = mounted[0] if mounted else tools.root.open_host_tree(directory.path)
            rootfs = Rootfs(tools.root, image, *disk_scratch(tools.root, tree))
            on_failure.callback(rootfs.close)
            undo.push(on_failure.pop_all())
        return rootfs, directory.path

    def _is_on_disk(self) -> bool:
        """True if its writable layer has to be, or better is, on disk."""
        request, root = self._request, self._tools.root
        if request.scratch == "disk":
            return True
        if not root.layers_on_disk:
            return False
        if not root.features.tmpfs_xattrs:
            return True
        if request.scratch != "auto" or request.scratch_size_bytes is None:
            return False
        memory_limit = (self._config.resources.get("memory") or {}).get("limit")
        most_bytes = min(root.half_of_memory, memory_limit // 2 if memory_limit else sys.maxsize)
        return request.scratch_size_bytes > most_bytes

    async def _make_scratch(self) -> ScratchDirectory:
        def release(directory: ScratchDirectory) -> None:
            close_all(directory.mount)
            self._tools.remove_disk(directory.path)

        try:
            directory = await owned(self._tools.launcher.request(MakeScratch()), release)
        except FaultError as error:
            raise self._about(error) from None
        self._call.step("scratch made")
        return directory

    async def _take_port(self, network: RunNetwork | None, undo: ExitStack) -> BridgePort | None:
        if network is None:
            return None
        port = await self._tools.networks.take_port(network.network)
        undo.callback(self._tools.networks.release_port, port)
        self._call.step("port taken")
        return port

    async def _take_cgroup(self, undo: ExitStack) -> Cgroup | None:
        """Take cgroups for it, if it has limits or could harm the caller's."""
        resources, tools = self._limits(), self._tools
        if not resources and not tools.cgroups:
            return None
        try:
            cgroup = await tools.cgroup_stock.take(resources)
        except FaultError as error:
            raise self._about(error) from None
        undo.callback(tools.cgroup_stock.give_back, cgroup)
        self._call.step("cgroup taken")
        return cgroup

    def _limits(self) -> dict[str, dict[str, Any]]:
        """Return its limits: with ``memory.defaultSwap``, Docker's; a bundle has runc's, none."""
        resources = self._config.resources
        memory = resources.get("memory")
        if memory is None or self._bundle:
            return resources
        if "swap" in self._config.linux["resources"]["memory"]:  # also -1, unlimited, is there
            return resources
        return {**resources, "memory": {**memory, "defaultSwap": 2 * memory["limit"]}}

    def _resolve(
        self, directories: tuple[bool, ...], masks: tuple[ChosenMask, ...], *, network: bool
    ) -> ResolvedSpec:
        hostname = self._config.raw.get("hostname") or self._request.hostname
        facts = StartFacts(directories, masks, network, bundle=self._bundle)
        return ResolvedSpec(self._request, self._config, self._args, facts, hostname)

    # ---------------------------------------------------------------- after

    def _expose_host_ports(self, container: RunContainer) -> None:
        """Let it reach ports of the host."""
        host_ports, network = self._server.host_ports, container.network
        if host_ports is None or network is None:
            return
        for port in self._request.host_ports:
            host_ports.expose(port, network.network)
            container.host_ports += (port,)

    def _watch_disk(self, container: RunContainer) -> None:
        size_bytes = self._request.scratch_size_bytes
        if container.disk_path and size_bytes is not None:
            run_task(watch_disk(self._tools.loop, container, size_bytes))

    async def _forward(self, container: RunContainer) -> Sequence[ForwardedPort]:
        """Forward ports of the host to it, where its address is not reachable or one is named."""
        facts = self._server.facts
        reachable = facts is not None and facts.connected
        ports = [port for port in self._request.ports if port.host is not None or not reachable]
        if not ports or container.port is None:
            return ()
        container.forwarded = True
        label = f"container {container.name!r}"
        if self._owner.label:
            label += f" in {self._owner.label}"
        request = Forward(key=container.id, ip=container.port.ip, ports=ports, label=label)
        try:
            answer = await self._tools.launcher.request(request)
        except FaultError as error:
            raise self._about(error) from None
        self._call.step("ports forwarded")
        return answer.ports

    def _about(self, error: FaultError, kind: str = "") -> FaultError:
        """Put the operation before the error of another process."""
        fault = error.fault
        message = f"{self._doing}: {fault.message}"
        return FaultError.of(fault._replace(kind=kind or fault.kind, message=message))


def _option(options: Sequence[str], name: str) -> str:
    """Return the value of ``name=value``, or nothing."""
    prefix = f"{name}="
    values = (option[len(prefix) :] for option in options if option.startswith(prefix))
    return next(values, "")


def _may_change_mounts(config: Config, request: StartRequest) -> bool:
    """True if the container may change the attributes of its mounts, and they need a lock.

    Its processes may with CAP_SYS_ADMIN, and so may the reaper, which has all capabilities and
    can be made to do anything with CAP_SYS_PTRACE.
    """
    bounding = (config.process.get("capabilities") or {}).get("bounding") or ()
    names = {name.removeprefix("CAP_") for name in bounding}
    return "SYS_ADMIN" in names or (request.init and "SYS_PTRACE" in names)
