"""A request to run: everything is fetched and made before the child is."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_containers.runtime.channel import Frame
from pytest_containers.runtime.messages import Fault, FaultError, from_os_error
from pytest_containers.runtime.network.networks import Port
from pytest_containers.runtime.oci import command
from pytest_containers.runtime.supervisor.container import Container, Wanted
from pytest_containers.runtime.supervisor.images import Tree
from pytest_containers.runtime.supervisor.poke import Poke
from pytest_containers.runtime.supervisor.rootfs import Rootfs, disk_scratch, new_scratch

if TYPE_CHECKING:
    from pytest_containers.runtime.supervisor.client import Client


class Start:
    """One ``run`` request, or a restart, on its way.

    Fields of the request: ``image`` (key), ``name``, ``hostname``, ``names``, ``network`` (id or
    null), ``user``, ``groups``, ``init``, ``log_limit_bytes``, ``scratch`` (``tmpfs`` or ``disk``),
    ``scratch_size_bytes``, ``ports`` [[number, protocol, host port or null]], ``host_ports``
    [number], ``egress`` (a program), ``resolv``, ``hosts`` and ``attach`` (of `Wanted`; they may
    all be missing), ``poke`` (see `Poke`; may be missing), ``args``: the command line, when it has
    more words than the config's one (plans are kept by the config's text, so that other arguments
    are no other plan). The blob is the OCI config, in which a mount of type ``bind`` names a path
    of the host (whose files have ids of containers already with the option ``mapped``), one of
    type ``volume`` a volume (or a file of it, ``name=…``), and one of type ``image`` an image (or
    what is at ``path=…`` in it; without ``ro`` what is written to it is dropped).

    The answer: ``id``, ``pid``, ``ip``, ``ip6``, and ``forwards`` [[number, protocol, port of
    127.0.0.1]]. With ``attach``, descriptors: of stdin (for ``all``), stdout and stderr, or of the
    terminal, if it has one.
    """

    def __init__(
        self,
        client: Client,
        number: int,
        body: dict[str, Any],
        blob: bytes,
        again: Container | None = None,
    ) -> None:
        self._client = client
        self._server = client.server
        self._number = number
        self._body = body
        self._again = again
        self._container: Container | None = None
        self._given_up = False
        self._config = self._server.plans.config(blob)
        self._blob = blob
        self._args = command(self._config.process, body.get("args"))
        self._doing = f"start of container {body['name']!r}"
        self._image = self._server.trees.image(body["image"])
        self._network = None
        if body["network"] is not None:
            self._network = self._server.networks_by_id.get(body["network"])
            if self._network is None:
                raise FaultError("StartError", f"{self._doing}: its network was removed")
        self._port: Port | None = None
        self._mount_fds = [-1] * len(self._config.mounts)
        self._directories = [True] * len(self._config.mounts)
        self._forwards: list[list[Any]] = []
        self._scratch: tuple[int, str] | None = None
        self._disk_path = ""
        client.later(number, self._give_up)
        self._open_mounts()

    # ----------------------------------------------------------------- steps

    def _open_mounts(self) -> None:
        self._binds = [
            at
            for at, entry in enumerate(self._config.mounts)
            if entry.get("type", "bind") == "bind"
        ]
        trees: list[Tree] = []
        for at in self._binds:
            entry = self._config.mounts[at]
            source, options = entry["source"], entry.get("options") or ()
            if _wants_view_of_parent(source, options):
                source = os.path.dirname(source)
            trees.append((source, "mapped" not in options, "ro" not in options))
        self._server.trees.open(trees, self._with_mounts)

    def _with_mounts(self, opened: list[tuple[int, bool]] | Fault) -> None:
        if isinstance(opened, Fault):
            self._fail(Fault("StartError", f"{self._doing}: {opened.message}", opened.data))
            return
        for at, (fd, directory) in zip(self._binds, opened, strict=True):
            self._mount_fds[at], self._directories[at] = fd, directory
        try:
            for at, entry in enumerate(self._config.mounts):
                self._prepare_mount(at, entry)
        except FaultError as error:
            self._fail(error.fault)
            return
        except OSError as error:
            self._fail(from_os_error("StartError", self._doing, error))
            return
        on_disk = self._body["scratch"] == "disk" or not self._server.root.features.tmpfs_xattrs
        if on_disk and self._again is None:
            self._server.launcher.request({"op": "scratch"}, self._with_scratch)
        else:
            self._take_port()

    def _with_scratch(self, frame: Frame | Fault) -> None:
        if isinstance(frame, Fault):
            self._fail(frame._replace(message=f"{self._doing}: {frame.message}"))
            return
        self._disk_path = frame.body["ok"]
        try:
            root = self._server.root
            tree = frame.fds[0] if frame.fds else root.open_host_tree(self._disk_path)
            self._scratch = disk_scratch(root, tree)
        except OSError as error:
            self._fail(from_os_error("StartError", self._doing, error))
            return
        self._take_port()

    def _take_port(self) -> None:
        if self._network is None or self._again is not None:
            self._make()
        else:
            self._server.networks.take_port(self._network.network, self._with_port)

    def _prepare_mount(self, at: int, entry: dict[str, Any]) -> None:
        kind, options = entry.get("type", "bind"), entry.get("options") or ()
        read_only = "ro" in options
        if kind == "bind" and read_only:
            source = entry["source"]
            name = os.path.basename(source) if _wants_view_of_parent(source, options) else ""
            fd, self._mount_fds[at] = self._mount_fds[at], -1
            view = self._server.trees.read_only(fd, name)
            self._mount_fds[at] = view
            self._directories[at] = stat.S_ISDIR(os.fstat(view).st_mode)
        elif kind == "volume":
            volume = self._client.volume(entry["source"])
            name = _option(options, "name")
            self._mount_fds[at] = volume.clone(name, read_only=read_only)
            self._directories[at] = not name
        elif kind == "image":
            fd = self._server.trees.part(
                entry["source"], _option(options, "path"), writable=not read_only
            )
            self._mount_fds[at] = fd
            self._directories[at] = stat.S_ISDIR(os.fstat(fd).st_mode)

    def _with_port(self, port: Port | Fault) -> None:
        if isinstance(port, Fault):
            self._fail(port)
            return
        self._port = port
        self._make()

    def _make(self) -> None:
        if self._given_up:
            self._fail(Fault("StartError", f"{self._doing}: given up", {}))
            return
        try:
            container = self._again or self._new_container()
        except FaultError as error:
            self._fail(error.fault)
            return
        except OSError as error:
            self._fail(from_os_error("StartError", self._doing, error))
            return
        if self._again is not None:
            try:
                container.prepare_restart(self._mount_fds)
            except OSError as error:
                self._fail(from_os_error("StartError", self._doing, error))
                return
        self._mount_fds = []
        self._container = container
        container.start(self._started)

    def _new_container(self) -> Container:
        server, body = self._server, self._body
        size_bytes = body["scratch_size_bytes"]
        if self._scratch is None and size_bytes is None:
            rootfs = server.stock.take(self._image)
        else:
            scratch = self._scratch or new_scratch(server.root, size_bytes)
            rootfs = Rootfs(server.root, self._image, *scratch)
        wanted = Wanted(
            self._config, self._blob, self._args, body["user"], tuple(body["groups"]),
            self._config.raw.get("hostname") or body.get("hostname") or body["name"],
            tuple(body["names"]),
            body["init"], body["log_limit_bytes"], tuple(self._directories),
            body.get("egress", ""), body.get("resolv", "").encode(),
            body.get("hosts", "").encode(), body.get("attach", ""),
        )  # fmt: skip
        container = Container(
            server, server.new_id(), body["name"], self._image, wanted, rootfs,
            self._network, self._port, self._mount_fds,
        )  # fmt: skip
        self._port = None
        container.disk_path, self._disk_path = self._disk_path, ""
        if container.disk_path and body["scratch_size_bytes"] is not None:
            container.watch_disk(body["scratch_size_bytes"])
        server.containers[container.id] = container
        self._client.containers[container.id] = container
        if self._network is not None:
            server.joined(container, self._network)
            self._expose(container)
        return container

    def _expose(self, container: Container) -> None:
        ports = tuple(self._body["host_ports"])
        if ports and self._server.host_ports is not None and self._network is not None:
            for port in ports:
                self._server.host_ports.expose(port, self._network.network)
            container.host_ports = ports

    # ------------------------------------------------------------------- end

    def _started(self, failed: Fault | None) -> None:
        container = self._container
        assert container is not None
        if failed is not None or self._given_up:
            self._discard(failed or Fault("StartError", f"{self._doing}: given up", {}))
            return
        self._forward(container)

    def _forward(self, container: Container) -> None:
        """Ports of the host for the container's, where its address is not reachable or a port
        was asked for."""
        facts = self._server.facts
        reachable = facts is not None and facts.connected
        todo = [
            (number, protocol, host)
            for number, protocol, host in self._body["ports"]
            if container.port is not None and (host is not None or not reachable)
        ]
        if self._again is not None:
            todo = []
        self._forward_next(container, todo)

    def _forward_next(self, container: Container, todo: list[tuple[int, str, int | None]]) -> None:
        if not todo:
            self._answer(container)
            return
        (number, protocol, host), rest = todo[0], todo[1:]
        key = f"{container.id}/{number}/{protocol}"

        def done(frame: Frame | Fault) -> None:
            if isinstance(frame, Fault):
                self._discard(Fault(frame.kind, f"{self._doing}: {frame.message}", frame.data))
                return
            self._forwards.append([number, protocol, frame.body["ok"]])
            self._forward_next(container, rest)

        assert container.port is not None
        container.forwards.append(key)
        self._server.launcher.request(
            {
                "op": "forward", "key": key, "protocol": protocol, "ip": container.port.ip,
                "port": number, "host_port": host,
            },
            done,
        )  # fmt: skip

    def _answer(self, container: Container) -> None:
        assert container.main is not None
        if self._body.get("poke") is not None:
            Poke(self._server, container, self._body["poke"])
        port = container.port
        answer = {
            "id": container.id,
            "pid": container.main.pid,
            "ip": port.ip if port else "",
            "ip6": port.ip6 if port else "",
            "forwards": self._forwards,
        }
        container.hand_over(lambda fds: self._client.finish(self._number, answer, fds))

    def _give_up(self) -> None:
        self._given_up = True

    def _discard(self, why: Fault) -> None:
        """The container could not be started: nothing of it stays, then the client is told."""
        container = self._container
        assert container is not None
        self._client.remove_container(container, lambda: self._client.fail(self._number, why))

    def _fail(self, why: Fault) -> None:
        for fd in self._mount_fds:
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._mount_fds = []
        if self._port is not None:
            self._server.networks.release_port(self._port)
        if self._disk_path:
            self._server.remove_disk(self._disk_path)
        self._client.fail(self._number, why)


def _option(options: Sequence[str], name: str) -> str:
    """The value of ``name=value``, or nothing."""
    found = (one.partition("=")[2] for one in options if one.startswith(f"{name}="))
    return next(found, "")


def _wants_view_of_parent(source: str, options: Any) -> bool:
    """Whether a read-only mount is of a file: an overlay needs a directory.

    The engine says so with the option "file", since only it can look at the host.
    """
    return "ro" in options and "file" in options
