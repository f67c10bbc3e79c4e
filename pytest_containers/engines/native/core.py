"""The run of an engine, with its images, networks and volumes, on which containers stand."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_containers.engines.events import Events
from pytest_containers.engines.native.inside import RunInside
from pytest_containers.images.image import Image
from pytest_containers.images.images import Images
from pytest_containers.model.errors import ContainersError, RunLostError, SpecError, hide_frames
from pytest_containers.model.home import default_home
from pytest_containers.model.spec import Bind
from pytest_containers.runtime.wire.operations.session import (
    AttachImage,
    CreateNetwork,
    CreateVolume,
    ImageDevice,
    LayerDirectory,
    RemoveNetwork,
    RemoveVolume,
    ShownDirectory,
    VolumeFile,
)

if TYPE_CHECKING:
    from pytest_containers.model import engine as contract
    from pytest_containers.runtime.wire.client import Client
    from pytest_containers.runtime.wire.message import Operation
    from pytest_containers.runtime.wire.operations.run import RunFacts

__tracebackhide__ = hide_frames


class Network:
    """A private network whose containers reach each other and those of its parent networks."""

    def __init__(self, core: Core, network_id: str) -> None:
        self._core = core
        self.id: str = network_id

    def remove(self, *, wait: bool = True) -> None:
        """Remove the network; idempotent. Its containers must be removed first.

        Args:
            wait: Return only when the network is gone.
        """
        self._core.forget_network(self)
        self._core.tell(RemoveNetwork(network=self.id), wait=wait)

    def __repr__(self) -> str:
        return f"<Network {self.id}>"


class Volume:
    """A file system that outlives containers; a `VolumeMount` mounts it."""

    def __init__(self, core: Core, volume_id: str) -> None:
        self._core = core
        self.id: str = volume_id

    def remove(self) -> None:
        """Remove the volume and its files; idempotent."""
        self._core.volumes.pop(self.id, None)
        self._core.tell(RemoveVolume(volume=self.id))

    def __repr__(self) -> str:
        return f"<Volume {self.id}>"


class Core:
    """The run of an engine, which starts on first use. Thread-safe.

    Args:
        home, broker, project: As for `Engine`.
        run_options: Identity, runner and other options of a new run.
        image_options: Pull policy, registries and display of the image store.

    Attributes:
        containers: Containers that were not removed, in the order of their starts.
        networks, volumes: Networks and volumes that were not removed, by id.
        bound: Directories of the host that containers could write to.
        oci_containers: Containers of bundles that were not deleted, by id.
        keeps: True once the run may outlive this process.
    """

    def __init__(
        self,
        home: Path | None,
        broker: str | None,
        project: Path | None,
        run_options: dict[str, Any],
        image_options: dict[str, Any],
        debug: str | None = None,
    ) -> None:
        self._home = home
        self._broker = broker
        self._project = project
        self._run_options = run_options
        self._debug = debug
        self._image_options = image_options
        self._lock = threading.RLock()
        self._client: Client | None = None
        self._images: Images | None = None
        self._ready_images: set[str] = set()
        self._default_network: Network | None = None
        self._on_host: Core | None = None
        self._closed = False
        self._pid = os.getpid()
        self._numbers = itertools.count(1)
        self.containers: dict[contract.Container, None] = {}
        self.networks: dict[str, Network] = {}
        self.volumes: dict[str, Volume] = {}
        self.bound: dict[str, None] = {}
        self.oci_containers: dict[str, contract.OciContainer] = {}
        self.keeps: bool = False
        self.events: Events = Events(lambda: list(self.containers))

    # ---------------------------------------------------------------- the run

    def start(self) -> None:
        """Start the run in the background and return at once."""
        with self._lock:
            if self._closed:
                raise ContainersError("this engine is closed; make another")
            if self._client is not None and self._client.lost and self._client.ours:
                lost = self._client.run_lost()
                raise RunLostError.from_data(f"{lost.message}; make another Engine", lost.data)
            if self._client is None:
                if self._broker is None:
                    from pytest_containers.runtime.run import start_run

                    options = {"home": self._home_path(), **self._run_options}
                    self._client = start_run(self._debug, **options)
                else:
                    from pytest_containers.engines.native.broker import connect

                    self._client = connect(self._broker, self._debug)
                atexit.register(_close_at_exit, weakref.ref(self))

    @property
    def client(self) -> Client:
        """The connection to the run, which is started if necessary."""
        client = self._client
        if client is None:
            self.start()
            client = self._client
        assert client is not None
        return client

    @property
    def started_client(self) -> Client | None:
        """The connection to the run; None if it was not started."""
        return self._client

    @property
    def started(self) -> bool:
        """True if the run was started."""
        return self._client is not None

    def tell(self, operation: Operation[Any], *, wait: bool = True) -> None:
        """Call an operation that removes something; do nothing if the run is gone.

        Args:
            operation: The operation.
            wait: Return only when the operation is done.
        """
        client = self._client
        if client is None or not client.ours or client.lost:
            return
        if not wait:
            client.tell(operation)
            return
        with contextlib.suppress(RunLostError):
            client.call(operation)

    @property
    def home(self) -> Path | None:
        """The directory of the image store; None is the default."""
        return self._home

    def on_host_network(self) -> Core:
        """Return a run with the same options in the network namespace of the host.

        It starts on first use and ends with this one.
        """
        with self._lock:
            if self._on_host is None:
                options = {**self._run_options, "network": "host"}
                self._on_host = Core(
                    self._home, None, self._project, options, self._image_options, self._debug
                )
            return self._on_host

    def finish_sharing(self, timeout_s: float = 60.0) -> None:
        """Wait until what other machines may use is pushed; see `Engine.finish_sharing`."""
        images = self._images
        if images is not None and images.shared is not None:
            images.shared.pushes.finish(timeout_s)

    def close(self) -> None:
        """End the run and all containers; idempotent."""
        if not self._closed and self._pid == os.getpid():
            self.finish_sharing()
        with self._lock:
            client, self._client = self._client, None
            self._closed = True
            if self._on_host is not None:
                self._on_host.close()
        self.containers.clear()
        self.networks.clear()
        self.volumes.clear()
        self.oci_containers.clear()
        self.events.close()
        if client is not None:
            client.close()

    # ----------------------------------------------------------------- images

    @property
    def images(self) -> Images:
        """The image store."""
        with self._lock:
            if self._images is None:
                self._images = Images(
                    self._home, self._inside, project=self._project, **self._image_options
                )
            return self._images

    def _inside(self) -> RunInside:
        identity = "" if self._broker is not None else self._run_options["identity"]
        return RunInside(lambda: self.client, self._known_facts, identity, self._home_path())

    def _known_facts(self) -> RunFacts | None:
        return None if self._client is None else self._client.known_facts

    def _home_path(self) -> str:
        return os.path.abspath(self._home or default_home())

    def image(self, reference: Any, pull: Any = None) -> Image:
        """Return the image of that name, fetched if necessary; see `Engine.image`."""
        if isinstance(reference, Image):
            return reference
        if not isinstance(reference, str):
            shown = getattr(reference, "name", reference)
            raise SpecError(
                f"image {shown!r} is not one of engine 'native'; write 'host:' or 'name:tag', or "
                "pass what this engine has returned"
            )
        if pull is None or pull == self.images.policy:
            return self.images.get(reference)
        from pytest_containers.images.reference import Reference, parse

        if not isinstance(parse(reference), Reference):  # not in any registry
            return self.images.get(reference)
        return self.images.pull(reference, policy=pull)

    def make_ready(self, image: Image) -> str:
        """Attach the layers of an image to the run, and return its key there."""
        key = image.id
        if key not in self._ready_images:
            # The run keeps the hold until its end, since it uses the layers until then.
            with self.images.hold(image) as hold:
                self.client.call(
                    AttachImage(
                        key=key,
                        layers=[
                            LayerDirectory(path=os.fspath(layer.path), owner=layer.owner)
                            for layer in image.layers
                        ],
                        mounts=[
                            ShownDirectory(
                                source=os.fspath(mount.source),
                                target=mount.target,
                                public=mount.public,
                            )
                            for mount in image.mounts
                        ],
                        devices=[
                            ImageDevice(path=device.path, name=device.name)
                            for device in image.devices
                        ],
                        hold=hold.fd,
                    )
                )
            self._ready_images.add(key)
        return key

    # ------------------------------------------------------------------ binds

    def give_back(self, folder: Path) -> None:
        """Make the caller the owner of what containers left below `folder`; see `Engine`."""
        client = self._client
        if client is None or client.lost or not client.ours or not self.bound:
            return
        used = {
            os.path.realpath(mount.source)
            for container in self.containers
            for mount in container.spec.parsed_mounts
            if isinstance(mount, Bind)
        }
        prefix = f"{os.path.realpath(folder)}/"
        paths = [path for path in self.bound if f"{path}/".startswith(prefix)]
        self.bound = {path: None for path in self.bound if path not in paths or path in used}
        if client.facts.identity != "range" or os.geteuid() == 0:
            return  # no file is another user's, or every file may be removed
        from pytest_containers.engines.native.jobs import call_job
        from pytest_containers.runtime.jobs import GIVE_TO_CALLER, Nothing

        for path in paths:
            if path in used:
                continue  # by a container that goes on, with its users
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                continue  # a file, or gone
            try:
                call_job(client, GIVE_TO_CALLER, Nothing(), [fd])
            finally:
                os.close(fd)

    # ------------------------------------------------------ networks, volumes

    def next_name(self) -> str:
        """Return a name for a container without one."""
        return f"container-{next(self._numbers)}"

    def create_network(self, parents: Sequence[contract.Network] = ()) -> Network:
        """Make a private network; its containers also reach those of `parents`, by name too."""
        created = self.client.call(CreateNetwork(parents=[parent.id for parent in parents]))
        network = self.networks[created.id] = Network(self, created.id)
        return network

    def forget_network(self, network: Network) -> None:
        """Drop the record of a network that is removed."""
        self.networks.pop(network.id, None)
        if self._default_network is network:
            self._default_network = None

    def default_network(self) -> Network:
        """Return the default network, for containers that name none."""
        with self._lock:
            if self._default_network is None:
                self._default_network = self.create_network()
            return self._default_network

    def create_volume(
        self,
        size_bytes: int | None = None,
        files: Sequence[tuple[bytes, int, int, int]] = (),
    ) -> Volume:
        """Make a volume in memory; see `Engine.create_volume`."""
        created = self.client.call(
            CreateVolume(
                size_bytes=size_bytes,
                files=[
                    VolumeFile(size_bytes=len(data), mode=mode, uid=uid, gid=gid)
                    for data, mode, uid, gid in files
                ],
                contents=b"".join(data for data, *_ in files),
            )
        )
        volume = self.volumes[created.id] = Volume(self, created.id)
        return volume


def _close_at_exit(core: weakref.ref[Core]) -> None:
    alive = core()
    if alive is not None and alive._pid == os.getpid():  # not in a forked child
        alive.close()
