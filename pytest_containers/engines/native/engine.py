"""The native engine: images, networks and volumes of one run, and its containers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pytest_containers.engines import shared_proc
from pytest_containers.engines.native import shares
from pytest_containers.engines.native.container import Container, run_container
from pytest_containers.engines.native.core import Core, Network, Volume
from pytest_containers.model import capabilities
from pytest_containers.model import engine as contract
from pytest_containers.model.arguments import PATH, check, require
from pytest_containers.model.errors import RunLostError, hide_frames
from pytest_containers.model.spec import ContainerSpec, spec_of
from pytest_containers.runtime.wire.operations.session import Adopt
from pytest_containers.runtime.wire.operations.starts import WarmupRequest

if TYPE_CHECKING:
    from pytest_containers.engines.native.lead import NativeLead
    from pytest_containers.engines.native.oci import OciContainer
    from pytest_containers.engines.native.states import NativeStates
    from pytest_containers.images.image import Image
    from pytest_containers.images.stored import StoredImages
    from pytest_containers.model.build import BuildDisplay, BuildOptions
    from pytest_containers.model.capabilities import Capability
    from pytest_containers.model.engine_options import PullPolicy, RegistrySettings
    from pytest_containers.model.kept import KeepLimits
    from pytest_containers.model.reports import Event, Warmup
    from pytest_containers.model.sharing import Sharing
    from pytest_containers.model.transfer import TransferDisplay

__tracebackhide__ = hide_frames


class Engine:
    """The native engine: containers on the runtime of this project, until it is closed.

    The run (launcher, supervisor, network helper) starts on first use. Thread-safe. In a forked
    child, every method raises an error.

    Args:
        home: The directory of the image store; None is the default.
        broker: The address of a run to join (that of the controller of xdist); None starts a run.
        identity: The user mapping: ``auto``, ``root``, ``range`` or ``single``.
        runner: How containers are started: ``auto``, ``stub`` or ``python``.
        max_containers: The largest number of containers at a time; None is any.
        max_memory_bytes: The memory limit of all containers together; None is any.
        project: The checkout that ``host:?project=1`` shows; None finds it.
        pull: When to ask registries for an image: ``missing``, ``always`` or ``never``.
        registries: How registries are reached; None is the default.
        display: A display of image transfers; None shows nothing.
        sharing: What is shared with other machines through registries; None is nothing.
        debug: A file for a trace of the run; None writes none.
        **options: Fields of `StartRun` for tests: restrictions and defects.
    """

    name: str = "native"
    capabilities: frozenset[Capability] = capabilities.capabilities_of("native")

    def __init__(
        self,
        *,
        home: str | os.PathLike[str] | None = None,
        broker: str | None = None,
        identity: str = "auto",
        runner: str = "auto",
        max_containers: int | None = None,
        max_memory_bytes: int | None = None,
        project: str | os.PathLike[str] | None = None,
        pull: PullPolicy = "missing",
        registries: RegistrySettings | None = None,
        display: TransferDisplay | None = None,
        sharing: Sharing | None = None,
        debug: str | None = None,
        **options: Any,
    ) -> None:
        check(
            "Engine", home=home, broker=broker, identity=identity, runner=runner, project=project,
            pull=pull, debug=debug, max_containers=max_containers,
            max_memory_bytes=max_memory_bytes,
        )  # fmt: skip
        self._core = Core(
            None if home is None else Path(home),
            broker,
            None if project is None else Path(project),
            {
                "identity": identity,
                "runner": runner,
                "max_containers": max_containers,
                "max_memory_bytes": max_memory_bytes,
                **options,
            },
            {"pull": pull, "registries": registries, "display": display, "sharing": sharing},
            debug,
        )

    def require(self, capability: Capability) -> None:
        """Raise unless this engine has a capability.

        Raises:
            UnsupportedError: The engine lacks it; the message names an engine that has it.
        """
        capabilities.require(capability, self.name, self.capabilities)

    # ---------------------------------------------------------------- the run

    def start(self) -> None:
        """Start the run in the background and return at once."""
        self._core.start()

    @property
    def started(self) -> bool:
        """True if the run was started."""
        return self._core.started

    @property
    def lost(self) -> RunLostError | None:
        """Why the run is gone, with all its containers; None if it is not."""
        client = self._core.started_client
        return client.run_lost() if client is not None and client.is_lost() else None

    @property
    def facts(self) -> Mapping[str, Any]:
        """The facts of the run: identity, runner, reachability of addresses, features, label."""
        facts = vars(self._core.client.facts)
        return {"label": "" if facts["features"]["own_proc"] else shared_proc.WORDS, **facts}

    def adopt(self, sock: int, pidfd: int, label: str = "") -> int:
        """Let another process of this user join the run.

        Args:
            sock: A socket; the process gets the other end.
            pidfd: The pidfd of the process; its containers end with it.
            label: The name of the process in messages.

        Returns:
            The descriptor of the file with the last error messages of the run's processes. The
            engine keeps ownership.
        """
        client = self._core.client
        client.call(Adopt(socket=sock, pidfd=pidfd, label=label))
        return client.errors_fd

    # ----------------------------------------------------------------- images

    @property
    def images(self) -> StoredImages:
        """The image store."""
        from pytest_containers.images.stored import StoredImages

        return StoredImages(self._core.images)

    def image(self, reference: str | contract.Image, *, pull: PullPolicy | None = None) -> Image:
        """Return the image of that name, fetched if necessary.

        Args:
            reference: A name; an image is returned as it is.
            pull: When to ask the registry; None is the setting of the engine.

        Raises:
            ImageNotFoundError, ImageError: See `Images.get`.
        """
        check("image()", pull=pull)
        return self._core.image(reference, pull)

    @property
    def states(self) -> NativeStates:
        """The states on this machine."""
        from pytest_containers.engines.native.states import NativeStates

        return NativeStates(self._core.images)

    def build(
        self,
        context: str | os.PathLike[str] = ".",
        *,
        dockerfile: str | os.PathLike[str] | None = None,
        tags: Sequence[str] = (),
        options: BuildOptions | None = None,
        display: BuildDisplay | None = None,
    ) -> Image:
        """Build an image from a Dockerfile, like ``docker build``, with cached steps.

        Args:
            context: The build context, a directory.
            dockerfile: The path of the Dockerfile relative to `context`; None is ``Dockerfile``.
            tags: Names of the image in the store.
            options: Stage, arguments, secrets and more.
            display: A display of the steps.

        Raises:
            BuildError: The build failed; a `DockerfileError` has the line.
            ImageError: A base image is not available.
        """
        from pytest_containers.builder.builder import build
        from pytest_containers.engines.native.building import BuildRuntime
        from pytest_containers.model.build import BuildOptions, epoch_of

        check("build()", context=context, dockerfile=dockerfile, tags=tags, options=options)
        folder = Path(context)
        path = None if dockerfile is None else folder / dockerfile
        chosen = options or BuildOptions(epoch=epoch_of())
        return build(
            self._core.images,
            BuildRuntime(self._core),
            folder,
            path,
            chosen,
            tags=tuple(tags),
            display=display,
        )

    # ------------------------------------------------------ networks, volumes

    def create_network(self, parents: Sequence[contract.Network] = ()) -> Network:
        """Make a private network; its containers also reach those of `parents`, by name too."""
        check("create_network()", parents=parents)
        return self._core.create_network(parents)

    def networks(self) -> list[Network]:
        """Return the networks that were not removed."""
        return list(self._core.networks.values())

    def create_volume(
        self,
        size_bytes: int | None = None,
        files: Sequence[tuple[bytes, int, int, int]] = (),
    ) -> Volume:
        """Make a volume in memory.

        Args:
            size_bytes: The size limit; None is half of the memory.
            files: Initial files as ``(contents, mode, uid, gid)``; their names are numbers from 0.
        """
        check("create_volume()", size_bytes=size_bytes, files=files)
        return self._core.create_volume(size_bytes, files)

    def volumes(self) -> list[Volume]:
        """Return the volumes that were not removed."""
        return list(self._core.volumes.values())

    # ------------------------------------------------------------- containers

    def run(
        self,
        image: str | contract.Image | ContainerSpec,
        command: Sequence[str] | str | None = None,
        *,
        name: str | None = None,
        network: contract.Network | Literal[False] | None = None,
        wait_ready: bool = True,
        **options: Any,
    ) -> Container:
        """Start a container.

        Args:
            image: A reference, an image, or a whole `ContainerSpec`.
            command: Replaces the command of the image.
            name: Its host name; None numbers it.
            network: Its network; None is the default network of the engine, False is none.
            wait_ready: Wait until it is ready (`ContainerSpec.ready`), else until it is started.
            **options: Fields of `ContainerSpec`; they replace those of a spec.

        Raises:
            SpecError: The description is not valid.
            ImageError: The image does not exist or cannot be used.
            StartError: The container could not be started; nothing of it is left.
            ExitedError: The container ended before it was ready.
            NotReadyError: The container was not ready in time.
        """
        if network is False:
            network, options = None, {**options, "network": False}
        self.start()  # starts in the background while the image is resolved
        spec = spec_of(image, command, options)
        return run_container(self._core, spec, name, network, wait_ready=wait_ready)

    def launch(
        self,
        spec: ContainerSpec,
        *,
        name: str | None = None,
        network: contract.Network | None = None,
        warmup: Warmup | None = None,
        attach: Literal["", "output", "all"] = "",
    ) -> Container:
        """Begin to start a container and return at once; `Container.started` waits for it.

        Args:
            spec: The container.
            name: Its host name; None numbers it.
            network: Its network; None is the default network of the engine.
            warmup: A request that the run sends as soon as the log shows a given text.
            attach: ``"output"`` sends its output to `Container.streams` instead of the log;
                ``"all"`` attaches standard input too.

        Raises:
            SpecError, ImageError: See `run`.
        """
        check("launch()", spec=spec, name=name, network=network, attach=attach, warmup=warmup)
        self.start()  # starts in the background while the image is resolved
        request = (
            None
            if warmup is None
            else WarmupRequest(text=warmup.text, port=warmup.port, data=warmup.data)
        )
        return Container._start(
            self._core,
            spec,
            self._core.image(spec.image),
            name,
            network,
            attach=attach,
            warmup=request,
        )

    def run_oci(
        self,
        config: Mapping[str, Any] | str | os.PathLike[str],
        rootfs: str | os.PathLike[str] | None = None,
        *,
        container_id: str | None = None,
        start: bool = True,
        attach: Literal["", "output", "all"] = "",
    ) -> OciContainer:
        """Create a container of an OCI bundle, and start its program.

        Every property of the runtime specification (1.2, Linux) is applied or refused by its
        name; ``docs/reference/oci-config.md`` has the table. No image, network, port or file of
        the engine is added: the container has what the config says.

        Args:
            config: A config, or the path of one or of the bundle's directory. Relative paths in a
                config that was given as such are those of the working directory.
            rootfs: A directory in the place of ``root.path``. What the container writes to it is
                thrown away.
            container_id: Its id; None numbers it.
            start: False leaves it created: `OciContainer.start` starts its program.
            attach: ``"output"``: its output goes to `OciContainer.streams` and into no log;
                ``"all"``: its standard input is there, too.

        Raises:
            SpecError: The config is malformed or cannot be applied as it is; ``field`` names the
                property.
            UnsupportedError: It names a user, and this run has only root.
            StartError: It could not be created or started; nothing of it is left.
        """
        from pytest_containers.engines.native.oci import create_container

        check(
            "run_oci()", config=config, rootfs=rootfs, container_id=container_id, start=start,
            attach=attach,
        )  # fmt: skip
        self.start()  # starts in the background while the config is read
        container = create_container(self._core, config, rootfs, container_id, attach)
        if start:
            try:
                container.start()
            except BaseException:
                container.delete(force=True)
                raise
        return container

    def containers(self) -> list[Container]:
        """Return the containers that were not removed, in the order of their starts."""
        return cast("list[Container]", list(self._core.containers))

    def container(self, id_or_name: str) -> Container:
        """Return one of `containers` by its id, or by a name that no other container has.

        Raises:
            NotRunningError: No container has the id or name.
            SpecError: Several containers have the name.
        """
        check("container()", id_or_name=id_or_name)
        from pytest_containers.engines.lookup import by_id_or_name

        return by_id_or_name(self.containers(), id_or_name)

    def events(self, timeout_s: float | None = None) -> Iterator[Event]:
        """Iterate over the events of all containers from this call on.

        Args:
            timeout_s: The length of the iteration; None iterates until `close`.
        """
        check("events()", timeout_s=timeout_s)
        return self._core.events.listen(timeout_s)

    def begin_shared(
        self,
        key: str,
        spec: ContainerSpec,
        launch: Callable[[], Container],
        await_ready: Callable[[Container], None],
        *,
        name: str,
    ) -> Callable[[], Container]:
        """Begin to start a container that all processes of the run share, until the run ends.

        One process starts it and the others wait. It outlives the process that started it.

        Args:
            key: The name under which the processes share it.
            spec: The container.
            launch: Launches it in a new network; called in one process only.
            await_ready: Waits until what was launched is ready, or removes it and raises.
            name: Its host name.

        Returns:
            A function that waits until it is ready and returns it.

        Raises:
            ContainersError: The error of the process that could not start it.
        """
        return shares.begin(self._core, key, spec, launch, await_ready, name)

    def keep(
        self, container: contract.Container, *, test: str, limits: KeepLimits, stay: bool = True
    ) -> None:
        """Keep a container when this process ends; see the contract.

        Args:
            container: One of this engine; the engine owns it no longer.
            test: The node id of its test.
            limits: How many containers are kept, and how long; the first call decides.
            stay: False only shows the container to other processes.
        """
        from pytest_containers.engines.native.kept import keep

        own = cast("Container", container)
        keep(self._core, self._core.home, own, test, limits, stay=stay)
        if stay:
            own._hand_over()

    def lead(self, sock: int | None, label: str, *, port: int = 0) -> NativeLead:
        """Forward connections of a bound socket, or of a port of 127.0.0.1, to containers.

        Args:
            sock: The descriptor of the socket; the caller keeps ownership. None binds one.
            label: The name of the socket in messages.
            port: The port to bind without a socket, when the first container is led to.
        """
        from pytest_containers.engines.native.lead import NativeLead

        return NativeLead(self._core, sock, label, port)

    def give_back(self, folder: str | os.PathLike[str]) -> None:
        """Make the caller the owner of what users of containers have left below a directory.

        Only what is in directories that containers of this engine could write to, and that none
        uses now. Does nothing where every such file is the caller's already, or he is root.

        Args:
            folder: A directory of the host.
        """
        require("give_back()", "folder", folder, PATH)
        self._core.give_back(Path(folder))

    def finish_sharing(self, timeout_s: float = 60.0) -> None:
        """Wait until what other machines may use is pushed; see the contract of engines."""
        check("finish_sharing()", timeout_s=timeout_s)
        self._core.finish_sharing(timeout_s)

    def close(self) -> None:
        """End the run and all containers; idempotent."""
        self._core.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
