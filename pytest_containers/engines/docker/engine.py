"""The docker engine: images, networks, volumes and containers of a daemon, for one run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from pytest_containers.engines.docker.container import DockerContainer, launch, run_container
from pytest_containers.engines.docker.core import DockerCore
from pytest_containers.engines.docker.endpoint import DockerEndpoint, find_endpoint
from pytest_containers.model import capabilities
from pytest_containers.model.arguments import check
from pytest_containers.model.errors import (
    ContainersError,
    RunLostError,
    UnsupportedError,
    hide_frames,
)
from pytest_containers.model.spec import ContainerSpec, spec_of

if TYPE_CHECKING:
    from pytest_containers.engines.docker.core import DockerNetwork, DockerVolume
    from pytest_containers.engines.docker.images import DockerImage
    from pytest_containers.engines.docker.states import DockerStates
    from pytest_containers.engines.docker.stored import DockerImages
    from pytest_containers.model import engine as contract
    from pytest_containers.model.build import BuildDisplay, BuildOptions
    from pytest_containers.model.capabilities import Capability
    from pytest_containers.model.engine_options import PullPolicy, RegistrySettings
    from pytest_containers.model.kept import KeepLimits
    from pytest_containers.model.reports import Event, Warmup
    from pytest_containers.model.sharing import Sharing

__tracebackhide__ = hide_frames


class DockerEngine:
    """The docker engine: containers of a daemon, until it is closed.

    The daemon is connected to on first use. Thread-safe.

    Args:
        endpoint: The daemon: an address as in ``DOCKER_HOST``; None is what the environment names.
        home: The directory for locks; None is the default.
        broker: The address of a run to join (that of the controller of xdist); None starts a run.
        max_containers: The largest number of containers at a time; None is any.
        max_memory_bytes: Refused: a daemon has no limit of several containers together.
        pull: When to ask registries for an image: ``missing``, ``always`` or ``never``.
        registries: Of these, the prefix of names of Docker Hub; the daemon has its own settings.
        sharing: Warned of: what the native engine shares with other machines is not shared here.
        direct: Connect to the addresses of containers where this process can; False publishes all
            ports at the host.
        **options: Arguments of the native engine, which mean nothing here.
    """

    name: str = "docker"
    capabilities: frozenset[Capability] = capabilities.capabilities_of("docker")

    def __init__(
        self,
        *,
        endpoint: DockerEndpoint | str | None = None,
        home: str | os.PathLike[str] | None = None,
        broker: str | None = None,
        max_containers: int | None = None,
        max_memory_bytes: int | None = None,
        pull: PullPolicy = "missing",
        registries: RegistrySettings | None = None,
        sharing: Sharing | None = None,
        direct: bool = True,
        **options: Any,
    ) -> None:
        check("Engine", home=home, broker=broker, pull=pull, max_containers=max_containers)
        if max_memory_bytes is not None:
            raise UnsupportedError(
                "engine 'docker' has no memory limit of all containers together "
                "(containers_max_memory); use mem_limit of each, or engine 'native'",
                engine="docker",
                engines=["native"],
            )
        if sharing is not None:
            sharing.warn("engine 'docker' shares no states and steps of builds; 'native' does")
        if isinstance(endpoint, str):
            endpoint = find_endpoint({**os.environ, "DOCKER_HOST": endpoint})
        self._core = DockerCore(
            endpoint or find_endpoint(),
            home=None if home is None else Path(home),
            run=(broker or "").removeprefix("docker:"),
            pull=pull,
            hub_prefix=registries.hub_prefix if registries is not None else "",
            max_containers=max_containers,
            direct=direct,
        )

    def require(self, capability: Capability) -> None:
        """Raise unless this engine has a capability.

        Raises:
            UnsupportedError: The engine lacks it; the message names an engine that has it.
        """
        capabilities.require(capability, self.name, self.capabilities)

    def _refuse(self, capability: Capability) -> NoReturn:
        self.require(capability)
        raise AssertionError(f"the docker engine has no {capability}")

    # ---------------------------------------------------------------- the run

    def start(self) -> None:
        """Connect to the daemon, and start the watcher of the run."""
        self._core.start()

    @property
    def started(self) -> bool:
        """True if the run was started."""
        return self._core.started

    @property
    def lost(self) -> RunLostError | None:
        """Why the run is gone, with all its containers; None if it is not."""
        return self._core.lost

    @property
    def facts(self) -> Mapping[str, Any]:
        """The facts of the run: endpoint, version of the daemon."""
        return self._core.facts

    def adopt(self, sock: int, pidfd: int, label: str = "") -> int:
        """Refuse: processes of a run find each other by its labels; see `engines.choose`."""
        raise ContainersError("processes do not join a run of engine 'docker' by a socket")

    # ----------------------------------------------------------------- images

    @property
    def images(self) -> DockerImages:
        """The images of the daemon."""
        from pytest_containers.engines.docker.stored import DockerImages

        return DockerImages(self._core.api, self._core.finder)

    def image(self, reference: Any, *, pull: PullPolicy | None = None) -> DockerImage:
        """Return the image of that name, fetched by the daemon if necessary.

        Args:
            reference: A name; an image is returned as it is.
            pull: When to ask the registry; None is the setting of the engine.

        Raises:
            ImageNotFoundError, ImageError: There is no such image, or it cannot be fetched.
        """
        check("image()", pull=pull)
        return self._core.finder.get(reference, pull)

    @property
    def states(self) -> DockerStates:
        """The states in the daemon."""
        from pytest_containers.engines.docker.states import DockerStates

        return DockerStates(self._core)

    def build(
        self,
        context: str | os.PathLike[str] = ".",
        *,
        dockerfile: str | os.PathLike[str] | None = None,
        tags: Sequence[str] = (),
        options: BuildOptions | None = None,
        display: BuildDisplay | None = None,
    ) -> DockerImage:
        """Build an image from a Dockerfile with the builder of the daemon.

        Args:
            context: The build context, a directory.
            dockerfile: The path of the Dockerfile relative to `context`; None is ``Dockerfile``.
            tags: Names of the image in the daemon.
            options: Stage, arguments and more; not those that its builder does not have.
            display: A display of the steps.

        Raises:
            BuildError: The build failed.
            UnsupportedError: The builder does not have an option.
        """
        from pytest_containers.engines.docker.building import build
        from pytest_containers.model.build import BuildOptions

        check("build()", context=context, dockerfile=dockerfile, tags=tags, options=options)
        return build(
            self._core, Path(context), dockerfile, tags, options or BuildOptions(), display
        )

    # ------------------------------------------------------ networks, volumes

    def create_network(self, parents: Sequence[contract.Network] = ()) -> DockerNetwork:
        """Make a network; its containers also reach those of `parents`, by name too."""
        check("create_network()", parents=parents)
        return self._core.create_network(parents)

    def networks(self) -> list[DockerNetwork]:
        """Return the networks that were not removed."""
        return list(self._core.networks.values())

    def create_volume(self, size_bytes: int | None = None) -> DockerVolume:
        """Make an empty volume.

        Raises:
            UnsupportedError: A size is given: volumes of a daemon have none.
        """
        check("create_volume()", size_bytes=size_bytes)
        if size_bytes is not None:
            raise UnsupportedError(
                "engine 'docker' has no size limit of volumes; leave size_bytes out, or use "
                "engine 'native'",
                engine="docker",
                engines=["native"],
            )
        return self._core.create_volume()

    def volumes(self) -> list[DockerVolume]:
        """Return the volumes that were not removed."""
        return list(self._core.volumes.values())

    # ------------------------------------------------------------- containers

    def run(
        self,
        image: Any,
        command: Sequence[str] | str | None = None,
        *,
        name: str | None = None,
        network: contract.Network | Literal[False] | None = None,
        wait_ready: bool = True,
        **options: Any,
    ) -> DockerContainer:
        """Start a container; see `model.engine.Engine.run`.

        Args:
            image: A reference, an image, or a whole `ContainerSpec`.
            command: Replaces the command of the image.
            name: Its host name; None numbers it.
            network: Its network; None is the default network of the engine, False is none.
            wait_ready: Wait until it is ready (`ContainerSpec.ready`), else until it is started.
            **options: Fields of `ContainerSpec`; they replace those of a spec.
        """
        check("run()", name=name, wait_ready=wait_ready)
        if network is False:
            network, options = None, {**options, "network": False}
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
    ) -> DockerContainer:
        """Begin to start a container and return at once; `DockerContainer.started` waits for it.

        Args:
            spec: The container.
            name: Its host name; None numbers it.
            network: Its network; None is the default network of the engine.
            warmup: Needs the capability ``warmup``, which this engine does not have.
            attach: ``"output"`` or ``"all"``: the streams that `DockerContainer.streams` has.
        """
        check("launch()", spec=spec, name=name, attach=attach, warmup=warmup)
        if warmup is not None:
            self._refuse("warmup")
        return launch(self._core, spec, name, network, attach)

    def run_oci(
        self,
        config: Mapping[str, Any] | str | os.PathLike[str],
        rootfs: str | os.PathLike[str] | None = None,
        *,
        container_id: str | None = None,
        start: bool = True,
        attach: Literal["", "output", "all"] = "",
    ) -> contract.OciContainer:
        """Refuse: it needs the capability ``oci``, which this engine does not have."""
        self._refuse("oci")

    def containers(self) -> list[DockerContainer]:
        """Return the containers that were not removed, in the order of their starts."""
        return cast("list[DockerContainer]", list(self._core.containers))

    def container(self, id_or_name: str) -> DockerContainer:
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
        self.start()
        return self._core.events.listen(timeout_s)

    def begin_shared(
        self,
        key: str,
        spec: ContainerSpec,
        launch: Callable[[], Any],
        await_ready: Callable[[Any], None],
        *,
        name: str,
    ) -> Callable[[], contract.Container]:
        """Begin to start a container that all processes of the run share; see the contract."""
        from pytest_containers.engines.docker.shares import begin

        self.start()
        return cast(
            "Callable[[], contract.Container]",
            begin(self._core, key, spec, launch, await_ready, name),
        )

    def keep(
        self, container: contract.Container, *, test: str, limits: KeepLimits, stay: bool = True
    ) -> None:
        """Refuse: it needs the capability ``keep``, which this engine does not have."""
        self._refuse("keep")

    def lead(self, sock: int | None, label: str, *, port: int = 0) -> contract.Lead:
        """Forward connections of a bound socket, or of a port of 127.0.0.1, to containers.

        Args:
            sock: The descriptor of the socket; the caller keeps ownership. None binds one.
            label: The name of the socket in messages.
            port: The port to bind without a socket, when the first container is led to.
        """
        from pytest_containers.engines.forwarding import ThreadLead

        return ThreadLead(sock, label, port)

    def give_back(self, folder: str | os.PathLike[str]) -> None:
        """Do nothing: files that containers of a daemon leave in bind mounts keep their owners."""

    def finish_sharing(self, timeout_s: float = 60.0) -> None:
        """Do nothing: this engine shares nothing with other machines."""

    def close(self) -> None:
        """End the run and all containers; idempotent."""
        self._core.close()

    def __enter__(self) -> DockerEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
