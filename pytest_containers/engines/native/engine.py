"""The native engine: images, networks and volumes of one run, and its containers."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_containers.engines.native.container import Container
from pytest_containers.engines.native.inside import RunInside
from pytest_containers.errors import ContainersError, RunLostError, SpecError, hide_frames
from pytest_containers.images.facade import Images
from pytest_containers.images.image import Image
from pytest_containers.images.store import default_home
from pytest_containers.runtime.client import Client, error_of
from pytest_containers.spec import ContainerSpec

if TYPE_CHECKING:
    from pytest_containers.build.options import BuildOptions
    from pytest_containers.build.progress import Display as BuildDisplay
    from pytest_containers.images.progress import Display
    from pytest_containers.images.pull import Policy
    from pytest_containers.images.registry.settings import RegistrySettings

__tracebackhide__ = hide_frames

_FIELDS = frozenset(field.name for field in dataclasses.fields(ContainerSpec))


class Network:
    """A private network: its containers see each other and, one way, those of its parents."""

    def __init__(self, engine: Engine, number: str) -> None:
        self._engine = engine
        self.id = number

    def remove(self, *, wait: bool = True) -> None:
        """Take it away; idempotent. Its containers must be gone, or be removed at least.

        Args:
            wait: Until it is away.
        """
        self._engine.forget(self.id)
        self._engine.tell("network_remove", wait=wait, network=self.id)

    def __repr__(self) -> str:
        return f"<Network {self.id}>"


class Volume:
    """A file system that outlives containers; mount it with `VolumeMount`."""

    def __init__(self, engine: Engine, number: str) -> None:
        self._engine = engine
        self.id = number

    def remove(self) -> None:
        """Drop it and what is in it; idempotent."""
        self._engine.tell("volume_remove", volume=self.id)

    def __repr__(self) -> str:
        return f"<Volume {self.id}>"


class Engine:
    """Makes containers with the project's own runtime; closing it ends all of them.

    The run (launcher, supervisor, network helper) is started when it is first needed. Thread-safe.
    A process that was forked from this one cannot use it and says so.

    Args:
        home: The image store; None is the default one (`images.store.default_home`).
        broker: Address of another process's run to share (an xdist worker's controller); None
            starts a run.
        identity: ``auto``, or ``root``, ``range``, ``single`` for less than is possible.
        runner: ``auto``, ``stub`` or ``python``: what walks the plans of system calls.
        project: The checkout that ``host:?project=1`` shows; None finds it.
        pull: ``missing``, ``always`` or ``never``: when registries are asked for an image.
        registries: How registries are reached; None is the defaults.
        display: Shows images on their way; None shows nothing.
    """

    def __init__(
        self,
        *,
        home: str | os.PathLike[str] | None = None,
        broker: str | None = None,
        identity: str = "auto",
        runner: str = "auto",
        project: str | os.PathLike[str] | None = None,
        pull: Policy = "missing",
        registries: RegistrySettings | None = None,
        display: Display | None = None,
        **debug: Any,
    ) -> None:
        self._home = None if home is None else Path(home)
        self._broker = broker
        self._wanted = {"identity": identity, "runner": runner, **debug}
        self._project = None if project is None else Path(project)
        self._moving: dict[str, Any] = {"pull": pull, "registries": registries, "display": display}
        self._lock = threading.RLock()
        self._client: Client | None = None
        self._images: Images | None = None
        self._ready_images: set[str] = set()
        self._network: Network | None = None
        self._names = itertools.count(1)
        self._containers: weakref.WeakSet[Container] = weakref.WeakSet()
        self._closed = False
        self._on_host: Engine | None = None
        self._pid = os.getpid()

    # ---------------------------------------------------------------- the run

    def start(self) -> None:
        """Start the run now, without waiting for it: it gets ready while others work."""
        with self._lock:
            if self._closed:
                raise ContainersError("this engine is closed; make another")
            if self._client is not None and self._client.lost and self._client.ours:
                raise RunLostError(
                    "the run of containers is gone and all its containers with it; "
                    "make another Engine"
                )
            if self._client is None:
                if self._broker is None:
                    from pytest_containers.runtime.run import start_run

                    home = os.path.abspath(self._home or default_home())
                    self._client = start_run(home=home, **self._wanted)
                else:
                    from pytest_containers.engines.native.broker import connect

                    self._client = connect(self._broker)
                atexit.register(_close_at_exit, weakref.ref(self))

    @property
    def client(self) -> Client:
        """The connection to the run, which is started if it is not there."""
        client = self._client
        if client is None:
            self.start()
            client = self._client
        assert client is not None
        return client

    @property
    def started(self) -> bool:
        """Whether the run was started."""
        return self._client is not None

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the run is like: identity, runner, whether addresses are reachable, features."""
        return self.client.facts

    def tell(self, op: str, *, wait: bool = True, **body: Any) -> None:
        """Call an operation that takes something away; a run that is gone has done it already.

        Args:
            wait: Until it is away.
        """
        client = self._client
        if client is None or not client.ours or client.lost:
            return
        if not wait:
            client.tell(op, **body)
            return
        with contextlib.suppress(RunLostError):
            client.call(op, **body)

    # ----------------------------------------------------------------- images

    @property
    def images(self) -> Images:
        """The image store."""
        with self._lock:
            if self._images is None:
                self._images = Images(
                    self._home,
                    self._inside,
                    project=self._project,
                    **self._moving,
                )
            return self._images

    def _inside(self) -> RunInside:
        identity = "" if self._broker is not None else self._wanted["identity"]
        return RunInside(lambda: self.client, identity)

    def image(self, reference: str | Image) -> Image:
        """The image of that name, ready to be started from.

        Raises:
            ImageNotFoundError, ImageError: See `Images.get`.
        """
        if isinstance(reference, Image):
            return reference
        if not isinstance(reference, str):
            raise SpecError(f"image {reference!r} is not a reference; write 'host:' or 'name:tag'")
        return self.images.get(reference)

    def make_ready(self, image: Image) -> str:
        """Have the run attach the image's trees; returns the image's key there."""
        key = image.id
        if key not in self._ready_images:
            # The run keeps the hold for as long as it lives: it uses the layers until then.
            with self.images.hold(image) as hold:
                self.client.call(
                    "image",
                    fds=[hold.fd],
                    image={
                        "key": key,
                        "layers": [[os.fspath(layer.path), layer.owner] for layer in image.layers],
                        "mounts": [[os.fspath(one.source), one.target] for one in image.mounts],
                    },
                )
            self._ready_images.add(key)
        return key

    def build(
        self,
        context: str | os.PathLike[str] = ".",
        *,
        dockerfile: str | os.PathLike[str] | None = None,
        tags: Sequence[str] = (),
        options: BuildOptions | None = None,
        display: BuildDisplay | None = None,
    ) -> Image:
        """Build an image from a Dockerfile, as ``docker build``; what was built before is reused.

        Args:
            context: The directory whose files it may copy.
            dockerfile: Relative to `context`; None is its ``Dockerfile``.
            tags: Names that it gets in the store.
            options: Stage, arguments, secrets and more.
            display: Shows how it goes.

        Raises:
            BuildError: It cannot be built; `DockerfileError` tells the line.
            ImageError: A base image cannot be had.
        """
        from pytest_containers.build.builder import build
        from pytest_containers.build.options import BuildOptions, epoch_of
        from pytest_containers.engines.native.building import BuildRuntime

        folder = Path(context)
        path = None if dockerfile is None else folder / dockerfile
        chosen = options or BuildOptions(epoch=epoch_of())
        return build(
            self.images, BuildRuntime(self), folder, path, chosen, tags=tuple(tags),
            display=display,
        )  # fmt: skip

    # ------------------------------------------------------ networks, volumes

    def create_network(self, parents: Sequence[Network] = ()) -> Network:
        """A private network; its containers also reach those of `parents`, by name too."""
        frame = self.client.call("network_create", parents=[parent.id for parent in parents])
        return Network(self, frame.body["ok"])

    def forget(self, network_id: str) -> None:
        """A network was removed."""
        if self._network is not None and self._network.id == network_id:
            self._network = None

    def default_network(self) -> Network:
        """The engine's own network, for containers that name none."""
        with self._lock:
            if self._network is None:
                self._network = self.create_network()
            return self._network

    def create_volume(
        self,
        size_bytes: int | None = None,
        files: Sequence[tuple[bytes, int, int, int]] = (),
    ) -> Volume:
        """A volume, in memory.

        Args:
            size_bytes: Its limit; None is half the machine's memory.
            files: ``(contents, mode, uid, gid)`` of files that it begins with; they are called by
                their numbers, from 0.
        """
        frame = self.client.call(
            "volume_create", blob=b"".join(data for data, *_ in files), size_bytes=size_bytes,
            files=[[len(data), *rest] for data, *rest in files],
        )  # fmt: skip
        return Volume(self, frame.body["ok"])

    # ------------------------------------------------------------- containers

    def run(
        self,
        image: str | Image | ContainerSpec,
        command: Sequence[str] | str | None = None,
        *,
        name: str | None = None,
        network: Network | Literal[False] | None = None,
        wait_ready: bool = True,
        **options: Any,
    ) -> Container:
        """Start a container.

        Args:
            image: A reference, an image, or a whole `ContainerSpec`.
            command: Replaces the image's command.
            name: Its host name and how others find it; None numbers it.
            network: None is the engine's own; False is none at all, as `ContainerSpec.network`.
            wait_ready: Return once it is ready (`ContainerSpec.ready`), else once it is started.
            **options: Fields of `ContainerSpec`; they replace those of a given spec.

        Raises:
            SpecError: It was described in a way that can never start.
            ImageError: There is no such image, or it cannot be used.
            StartError: It could not be started; nothing of it is left.
            ExitedError: It ended before it was ready.
            NotReadyError: It was not ready in time.
        """
        if network is False:
            network, options = None, {**options, "network": False}
        container = self.begin(spec_of(image, command, options), name=name, network=network)
        container.started()
        if wait_ready:
            try:
                container.wait_ready()
            except BaseException:
                container.remove()
                raise
        return container

    def begin(
        self,
        spec: ContainerSpec,
        *,
        name: str | None = None,
        network: Network | None = None,
        poke: Mapping[str, Any] | None = None,
        attach: Literal["", "output", "all"] = "",
    ) -> Container:
        """Begin to start a container, as `run` does; `Container.started` tells how that went.

        Args:
            poke: ``text``, ``port``, ``data`` (base64): when the text is in its output, the run
                says that on the port, as a program in the container would.
            attach: ``"output"``: what it writes goes to `Container.streams` and into no log;
                ``"all"``: it has a standard input there, too.

        Raises:
            SpecError, ImageError: See `run`.
        """
        self.start()  # gets ready while we look at the image
        found = self.image(spec.image)
        chosen = name or f"container-{next(self._names)}"
        container = Container.start(
            self, spec, found, chosen, network, numbered=name is None, poke=poke, attach=attach
        )
        self._containers.add(container)
        return container

    def shared(
        self, key: str, spec: ContainerSpec, make: Callable[[], Container], *, name: str
    ) -> Container:
        """A container that all processes of the run share, and that ends with the run.

        One of them makes it, the others wait; a process that ends leaves it running.

        Args:
            key: What they call it.
            spec: What it is made from.
            make: Starts it, in a network of its own; called in one process.
            name: Of the container.

        Raises:
            ContainersError: What kept the one that made it from making it.
        """
        published = self.client.call("share_claim", key=key).body["ok"]
        if published is None:
            return self._published(key, make)
        if "error" in published:
            raise error_of(published["error"])
        facts = published["ok"]
        network = Network(self, facts["network"])
        container = Container.described(self, spec, self.image(spec.image), name, network)
        container.join(facts["container"])
        return container

    def _published(self, key: str, make: Callable[[], Container]) -> Container:
        try:
            container = make()
        except Exception as error:
            known = getattr(error, "data", {}).items()
            data = {name: one for name, one in known if isinstance(one, str | int)}
            fault = [type(error).__name__, str(error), data]
            self.client.call("share_publish", key=key, error=fault)
            raise
        network = container.network
        assert network is not None
        self.client.call(
            "share_publish", key=key, container=container.id, network=network.id,
            result={"container": container.shared_facts, "network": network.id},
        )  # fmt: skip
        return container

    def on_host_network(self) -> Engine:
        """An engine like this one whose containers are in the host's network namespace.

        It has a run of its own, which is started when it is first needed and ends with this
        engine's.
        """
        with self._lock:
            if self._on_host is None:
                self._on_host = Engine(
                    home=self._home, project=self._project, **self._wanted, network="host",
                    **self._moving,
                )  # fmt: skip
            return self._on_host

    def close(self) -> None:
        """End the run and with it every container; idempotent."""
        with self._lock:
            client, self._client = self._client, None
            self._closed = True
            if self._on_host is not None:
                self._on_host.close()
        if client is not None:
            client.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _close_at_exit(engine: weakref.ref[Engine]) -> None:
    found = engine()
    if found is not None and found._pid == os.getpid():
        found.close()


def spec_of(
    image: str | Image | ContainerSpec,
    command: Sequence[str] | str | None,
    options: Mapping[str, Any],
) -> ContainerSpec:
    for name in options:
        if name not in _FIELDS:
            raise SpecError(
                f"{name!r} is not an option of a container; there are {', '.join(sorted(_FIELDS))}"
            )
    if isinstance(image, ContainerSpec):
        changes = dict(options)
        if command is not None:
            changes["command"] = command
        return dataclasses.replace(image, **changes) if changes else image
    return ContainerSpec(image, command, **options)
