"""What the containers of an engine share: its run, images, networks, copies and events."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import shutil
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pytest_containers.engines.events import Events
from pytest_containers.engines.process import opening
from pytest_containers.engines.process.inside import LocalInside
from pytest_containers.engines.process.names import HOST_NAME
from pytest_containers.engines.process.refusals import refuse
from pytest_containers.engines.process.run import Run
from pytest_containers.engines.process.trees import Spares, copy_tree, merge_layer, remove_beside
from pytest_containers.engines.process.view import ETC, PRIVATE, FileView
from pytest_containers.images.image import Image
from pytest_containers.images.images import Images
from pytest_containers.linux import landlock
from pytest_containers.model import engine as contract
from pytest_containers.model.errors import (
    ContainersError,
    SpecError,
    UnsupportedError,
    hide_frames,
)
from pytest_containers.model.threads import starting_threads

__tracebackhide__ = hide_frames

STATES, TREES = "process-states", "process-trees"
"""Directories of the image store with whole trees: states, and unpacked images."""


class KnownContainer(contract.Container, Protocol):
    """What `ProcessCore` needs of a container."""

    @property
    def names(self) -> Sequence[str]:
        """Its host names."""

    @property
    def view(self) -> FileView:
        """Its files."""


class ProcessNetwork:
    """A network: containers whose connections are let through to each other.

    Attributes:
        id: Its id.
        parents: The networks whose containers are reached too.
    """

    def __init__(
        self, core: ProcessCore, network_id: str, parents: Sequence[ProcessNetwork]
    ) -> None:
        self._core = core
        self.id: str = network_id
        self.parents: tuple[ProcessNetwork, ...] = tuple(parents)

    def remove(self, *, wait: bool = True) -> None:
        """Remove the network; idempotent. Its containers must be removed first."""
        self._core.networks.pop(self.id, None)
        if self._core.default is self:
            self._core.default = None

    def reachable(self) -> set[ProcessNetwork]:
        """Return the network with its parents, and theirs."""
        found, left = set(), [self]
        while left:
            network = left.pop()
            if network not in found:
                found.add(network)
                left += network.parents
        return found

    def __repr__(self) -> str:
        return f"<ProcessNetwork {self.id}>"


class ProcessVolume:
    """A directory that outlives containers; a `VolumeMount` shows it.

    Attributes:
        id: Its id.
        folder: The directory.
    """

    def __init__(self, core: ProcessCore, volume_id: str) -> None:
        self._core = core
        self.id: str = volume_id
        self.folder: Path = core.run.places.files / volume_id
        self.folder.mkdir()
        self.folder.chmod(0o777 if os.geteuid() == 0 else 0o755)

    def remove(self) -> None:
        """Remove the volume and its files; idempotent."""
        if self._core.volumes.pop(self.id, None) is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __repr__(self) -> str:
        return f"<ProcessVolume {self.id}>"


class ProcessCore:
    """The shared state of an engine. Thread-safe.

    Args:
        home: The directory of the image store; None is the default.
        image_options: More arguments of `Images`.

    Attributes:
        containers: Those that were not removed, in the order of their starts.
        networks, volumes: Those that were not removed, by id.
        default: The default network.
    """

    def __init__(self, home: Path | None, image_options: dict[str, Any]) -> None:
        self.images: Images = Images(home, LocalInside, **image_options)
        self.is_root: bool = os.geteuid() == 0
        self.containers: dict[KnownContainer, None] = {}
        self.networks: dict[str, ProcessNetwork] = {}
        self.volumes: dict[str, ProcessVolume] = {}
        self.default: ProcessNetwork | None = None
        self.events: Events = Events(lambda: list(self.containers))
        self._names = itertools.count(1)
        self._ids = itertools.count(1)
        self._lock = threading.RLock()
        self._run: Run | None = None
        self._spares: Spares | None = None
        self._pid = os.getpid()
        self._removers: list[threading.Thread] = []
        self._is_closed = False

    # ---------------------------------------------------------------------- the run

    @property
    def started_run(self) -> Run | None:
        """The run, if it was started."""
        return self._run

    @property
    def run(self) -> Run:
        """The run, which is started if necessary.

        Raises:
            UnsupportedError: This machine lacks what it needs.
        """
        with self._lock:
            if self._is_closed:
                raise ContainersError("this engine is closed; make another")
            if self._run is None:
                if not landlock.version():
                    raise UnsupportedError(
                        "the process engine needs Landlock, which confines files: Linux 5.13 with "
                        "landlock in /sys/kernel/security/lsm; use engine 'native'",
                        engine="process",
                        engines=["native"],
                    )
                self._run = Run()
                self._spares = Spares(self._run.places.files, owners=self.is_root)
                atexit.register(_close_at_exit, weakref.ref(self))
            return self._run

    def next_id(self) -> str:
        """Return an id for a container, a network, a volume or a snapshot."""
        return f"{next(self._ids)}"

    def next_name(self) -> str:
        """Return a name for a container without one."""
        return f"container-{next(self._names)}"

    def close(self) -> None:
        """End all containers; idempotent."""
        with self._lock:
            run, self._run = self._run, None
            self._is_closed = True
        if run is None or self._pid != os.getpid():
            return
        if self._spares is not None:
            self._spares.close()
        run.close()
        for thread in self._removers:
            thread.join()
        self.containers.clear()
        self.networks.clear()
        self.volumes.clear()
        self.events.close()

    # ------------------------------------------------------------------------ images

    def image(self, reference: Any, pull: Any = None) -> Image:
        """Return an image; see `Engine.image`.

        Raises:
            UnsupportedError: An ordinary user asks for an image with files of its own.
        """
        if isinstance(reference, Image):
            return reference
        if not isinstance(reference, str):
            raise SpecError(f"image {reference!r} is not a reference; write 'host:' or 'name:tag'")
        from pytest_containers.images.reference import HostSource, Reference, parse

        source = parse(reference)
        if not self.is_root and not isinstance(source, HostSource):
            raise refuse(
                f"image {reference!r} for an ordinary user",
                "chroot takes root; 'host:' runs the programs of this machine",
            )
        if pull in (None, self.images.policy) or not isinstance(source, Reference):
            return self.images.get(reference)
        return self.images.pull(reference, policy=pull)

    def fill(self, image: Image, folder: Path) -> None:
        """Make a directory with the files of an image."""
        assert self._spares is not None
        source = self._source(image)
        self._spares.take(os.fspath(source), os.fspath(folder))

    def copy_ahead(self, image: Image) -> None:
        """Make the next copy of a state now, which is used by test after test."""
        if image.base_id and self._spares is not None and self._run is not None:
            self._spares.prepare(os.fspath(self._source(image)))

    def _source(self, image: Image) -> Path:
        if image.base_id:
            return image.layers[-1].path  # a whole tree: a snapshot or state
        if image.mounts and len(image.layers) == 1:
            return self._skeleton(image.layers[0].path)
        folder = self.images.library.store.home / TREES / image.id.replace(":", "-")
        with self.images.library.store.lock(f"tree-{image.id[-32:]}"):
            if not folder.is_dir():
                partial = folder.with_name(f"{folder.name}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                for layer in image.layers:
                    merge_layer(os.fspath(layer.path), os.fspath(partial))
                partial.rename(folder)
        return folder

    def _skeleton(self, layer: Path) -> Path:
        """Return the private directories of ``host:``, with what it names of /etc (``etc=``)."""
        with self._lock:
            folder = self.run.places.files / "skeletons" / layer.parent.name
            if not folder.is_dir():
                partial = folder.with_name(f"{folder.name}.partial")
                partial.mkdir(parents=True)
                for entry in os.scandir(layer):
                    if entry.is_dir(follow_symlinks=False) and f"/{entry.name}" in PRIVATE:
                        copy_tree(entry.path, f"{partial}/{entry.name}", owners=self.is_root)
                        shutil.copymode(entry.path, f"{partial}/{entry.name}")
                (partial / "etc").mkdir()
                for entry in os.scandir(layer / "etc"):
                    if entry.name in ("passwd", "group"):
                        shutil.copy(entry.path, partial / "etc" / entry.name)
                    elif entry.name not in ETC and entry.is_dir():
                        copy_tree(entry.path, f"{partial}/etc/{entry.name}", owners=self.is_root)
                partial.rename(folder)
            return folder

    def near(self, tree: Path, name: str) -> Path:
        """Return a copy of a stored tree in memory, which is copied faster; itself without room."""
        with self._lock:
            near = self.run.places.files / "states" / name
            if near.is_dir():
                return near
            near.parent.mkdir(exist_ok=True)
            near.parent.chmod(0o700)
            partial = near.with_suffix(".partial")
            try:
                self.copy(os.fspath(tree), partial)
                partial.rename(near)
            except OSError:
                shutil.rmtree(partial, ignore_errors=True)
                return tree
            return near

    def remove_later(self, folder: str) -> None:
        """Delete a directory on a thread; `close` waits for it."""
        self._removers = [thread for thread in self._removers if thread.is_alive()]
        thread = threading.Thread(
            target=remove_beside, args=(folder,), name="remove files", daemon=True
        )
        with starting_threads():
            thread.start()
        self._removers.append(thread)

    def copy(self, source: str, target: Path) -> None:
        """Copy the files of a container."""
        copy_tree(source, os.fspath(target), owners=self.is_root)

    # --------------------------------------------------------------------- networks

    def create_network(self, parents: Sequence[contract.Network]) -> ProcessNetwork:
        """Make a network; see `Engine.create_network`."""
        own = [self.networks[parent.id] for parent in parents]
        network = ProcessNetwork(self, f"network-{self.next_id()}", own)
        self.run.set_network(network.id, [parent.id for parent in own])
        self.networks[network.id] = network
        return network

    def default_network(self) -> ProcessNetwork:
        """Return the network of containers that name none."""
        with self._lock:
            if self.default is None:
                self.default = self.create_network(())
            return self.default

    def write_hosts(self) -> None:
        """Write the names of all containers that each one reaches to its ``/etc/hosts``."""
        for container in list(self.containers):
            if not container.view.is_tree:
                continue
            network = container.network
            reachable = network.reachable() if isinstance(network, ProcessNetwork) else set()
            lines = ["127.0.0.1 localhost"]
            if container.spec.host_ports:
                lines.append(f"{gateway_of(container.ip)} {HOST_NAME}")
            for other in list(self.containers):
                if other.ip and other.network in reachable:
                    lines.append(f"{other.ip} {' '.join(other.names)}")
            with contextlib.suppress(OSError):  # it is being removed
                _write_hosts(container.view, "\n".join([*lines, ""]))


def _write_hosts(view: FileView, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with (
        view.folder_of(view.resolved("/etc/hosts", write=True)) as (folder, leaf),
        open(opening.open_file(folder, leaf, flags, 0o644), "w") as file,
    ):
        file.write(text)


def gateway_of(address: str) -> str:
    """Return the address at which a container reaches ports of this machine."""
    return f"{address.rpartition('.')[0]}.1"


def _close_at_exit(core: weakref.ref[ProcessCore]) -> None:
    alive = core()
    if alive is not None:
        alive.close()
