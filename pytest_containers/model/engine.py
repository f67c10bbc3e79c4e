"""The contract of engines; that of their containers is in `model.container`.

Doors, services and states use engines through these protocols only. The docstring of a method says
which capability it needs (`model.capabilities`); an engine without it raises `UnsupportedError`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from pytest_containers.model.container import Container as Container
from pytest_containers.model.container import Network as Network
from pytest_containers.model.container import OciContainer as OciContainer
from pytest_containers.model.container import Volume as Volume
from pytest_containers.model.image import Image as Image

if TYPE_CHECKING:
    from pytest_containers.model.build import BuildDisplay, BuildOptions
    from pytest_containers.model.capabilities import Capability
    from pytest_containers.model.engine_options import PullPolicy
    from pytest_containers.model.errors import RunLostError
    from pytest_containers.model.images import ImageStore
    from pytest_containers.model.kept import KeepLimits
    from pytest_containers.model.reports import Event, Warmup
    from pytest_containers.model.spec import ContainerSpec
    from pytest_containers.model.states import StateStore


class Lead(Protocol):
    """A listening socket of this process that forwards to a container. Needs ``endpoints``."""

    def to(self, container: Container, port: int) -> int:
        """Forward new connections to a port of `container`; reset earlier ones.

        Returns:
            The number of connections that were refused since `nowhere`.
        """

    def nowhere(self) -> None:
        """Reset connections and refuse new ones."""

    def refused(self) -> int:
        """Return the number of connections that were refused since `nowhere`."""


@runtime_checkable
class Engine(Protocol):
    """A maker of containers, networks and volumes, all of which end when it is closed."""

    @property
    def name(self) -> str:
        """The name of the engine: ``"native"``."""

    @property
    def capabilities(self) -> Collection[Capability]:
        """The capabilities of the engine."""

    def require(self, capability: Capability) -> None:
        """Raise unless the engine has a capability.

        Raises:
            UnsupportedError: The engine lacks it; the message names an engine that has it.
        """

    @property
    def facts(self) -> Mapping[str, Any]:
        """The facts of the run: identity, runner, features."""

    def start(self) -> None:
        """Start the run in the background and return at once."""

    @property
    def lost(self) -> RunLostError | None:
        """Why the run is gone, with all its containers; None if it is not."""

    def run(
        self,
        image: Any,
        command: Sequence[str] | str | None = None,
        *,
        name: str | None = None,
        network: Network | Literal[False] | None = None,
        wait_ready: bool = True,
        **options: Any,
    ) -> Container:
        """Start a container; `options` are the fields of `ContainerSpec`.

        `image` may be a whole `ContainerSpec`. Without `network`, the default network of the engine
        is used. With `wait_ready`, the call returns when the container is ready.
        """

    def launch(
        self,
        spec: ContainerSpec,
        *,
        name: str | None = None,
        network: Network | None = None,
        warmup: Warmup | None = None,
        attach: Literal["", "output", "all"] = "",
    ) -> Container:
        """Begin to start a container and return at once; `Container.started` waits for it.

        Args:
            spec: The container.
            name: Its host name; None numbers it.
            network: Its network; None is the default network of the engine.
            warmup: A request that the run sends to it early. Needs ``warmup``.
            attach: ``"output"`` sends its output to `Container.streams` instead of the log;
                ``"all"`` attaches standard input too. Needs ``attach``.
        """

    def run_oci(
        self,
        config: Mapping[str, Any] | str | os.PathLike[str],
        rootfs: str | os.PathLike[str] | None = None,
        *,
        container_id: str | None = None,
        start: bool = True,
        attach: Literal["", "output", "all"] = "",
    ) -> OciContainer:
        """Create a container of an OCI bundle, and start its program. Needs ``oci``.

        Raises:
            SpecError: The config is malformed or cannot be applied as it is.
            StartError: The container could not be created or started; nothing of it is left.
        """

    def begin_shared(
        self,
        key: str,
        spec: ContainerSpec,
        launch: Callable[[], Any],
        await_ready: Callable[[Any], None],
        *,
        name: str,
    ) -> Callable[[], Container]:
        """Begin to start a container that all processes of the run share. Needs ``shares``.

        Args:
            key: The name under which the processes share it.
            spec: The container.
            launch: Launches it in a new network; called in one process only.
            await_ready: Waits until what was launched is ready, or removes it and raises.
            name: Its host name.

        Returns:
            A function that waits until it is ready and returns it.
        """

    def keep(
        self, container: Container, *, test: str, limits: KeepLimits, stay: bool = True
    ) -> None:
        """Keep a container and its networks when this process ends. Needs ``keep``.

        It is removed for this process. Other processes of the user see it with
        ``pytest-containers ps``.

        Args:
            container: The container, also one that has ended.
            test: The node id of its test.
            limits: How many containers are kept, and how long; the first call decides.
            stay: False only shows the container to other processes, until it is removed.
        """

    def adopt(self, sock: int, pidfd: int, label: str = "") -> int:
        """Let another process of this user join the run. Needs ``shares``.

        Args:
            sock: A socket; the process gets the other end.
            pidfd: The pidfd of the process; its containers end with it.
            label: The name of the process in messages.

        Returns:
            The descriptor of the file with the last errors of the run; the engine owns it.
        """

    def lead(self, sock: int | None, label: str, *, port: int = 0) -> Lead:
        """Forward connections of a socket, or of a port of 127.0.0.1. Needs ``endpoints``.

        Args:
            sock: The descriptor of a bound socket; None binds one.
            label: The name of the socket in messages.
            port: The port to bind without a socket, when the first container is led to.
        """

    def containers(self) -> Sequence[Container]:
        """Return the containers that were not removed, in the order of their starts."""

    def container(self, id_or_name: str) -> Container:
        """Return one of `containers` by its id, or by a name that no other container has.

        Raises:
            NotRunningError: No container has the id or name.
            SpecError: Several containers have the name.
        """

    def networks(self) -> Sequence[Network]:
        """Return the networks that were not removed."""

    def volumes(self) -> Sequence[Volume]:
        """Return the volumes that were not removed."""

    def events(self, timeout_s: float | None = None) -> Iterator[Event]:
        """Iterate over the events of all containers from now on.

        Args:
            timeout_s: The length of the iteration; None iterates until `close`.
        """

    def create_network(self, parents: Sequence[Network] = ()) -> Network:
        """Make a private network; its containers also reach those of `parents`."""

    def create_volume(self, size_bytes: int | None = None) -> Volume:
        """Make an empty volume."""

    def image(self, reference: Any, *, pull: PullPolicy | None = None) -> Image:
        """Return the image of that name, fetched if necessary.

        Args:
            reference: A name; an image is returned as it is.
            pull: ``missing``, ``always`` or ``never``; None is the setting of the engine.
        """

    def build(
        self,
        context: str | os.PathLike[str] = ".",
        *,
        dockerfile: str | os.PathLike[str] | None = None,
        tags: Sequence[str] = (),
        options: BuildOptions | None = None,
        display: BuildDisplay | None = None,
    ) -> Image:
        """Build an image from a Dockerfile. Needs ``builds``."""

    @property
    def states(self) -> StateStore:
        """The states on this machine. Needs ``snapshots``."""

    @property
    def images(self) -> ImageStore:
        """The image store."""

    def give_back(self, folder: str | os.PathLike[str]) -> None:
        """Make the caller the owner of files that users of containers have left below a directory.

        This applies only to directories that containers of this engine could write to, and that no
        container uses now.
        """

    def finish_sharing(self, timeout_s: float = 60.0) -> None:
        """Wait until what other machines may use is pushed; after a time, warn and give it up."""

    def close(self) -> None:
        """End all containers; idempotent."""

    def __enter__(self) -> Engine: ...
    def __exit__(self, *exc: object) -> None: ...
