"""The process engine: files confined, processes visible."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from pytest_containers.engines.forwarding import ThreadLead
from pytest_containers.engines.process import LABEL
from pytest_containers.engines.process.container import ProcessContainer, run_container
from pytest_containers.engines.process.core import ProcessCore, ProcessNetwork, ProcessVolume
from pytest_containers.linux import landlock
from pytest_containers.model import capabilities
from pytest_containers.model import engine as contract
from pytest_containers.model.arguments import check
from pytest_containers.model.errors import RunLostError, SpecError, hide_frames
from pytest_containers.model.spec import ContainerSpec, spec_of

if TYPE_CHECKING:
    from pytest_containers.engines.process.states import ProcessStates
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


class ProcessEngine:
    """Confined processes of this machine, where namespaces are denied, until it is closed.

    It guards against the mistakes of tests, not against hostile code: files are confined by
    Landlock and each container has its own address, but all processes see each other. Thread-safe.

    Args:
        home, project, pull, registries, display: As for the native engine.
        sharing: Warned of: what the native engine shares with other machines is not shared here.
        **options: Options of the native engine, which have no meaning here, and are ignored:
            ``identity`` and ``runner`` among them.
    """

    name: str = "process"
    capabilities: frozenset[Capability] = capabilities.capabilities_of("process")

    def __init__(
        self,
        *,
        home: str | os.PathLike[str] | None = None,
        project: str | os.PathLike[str] | None = None,
        pull: PullPolicy = "missing",
        registries: RegistrySettings | None = None,
        display: TransferDisplay | None = None,
        broker: str | None = None,
        identity: str = "auto",
        runner: str = "auto",
        max_containers: int | None = None,
        max_memory_bytes: int | None = None,
        debug: str | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        check("Engine", home=home, project=project, pull=pull)
        if sharing is not None:
            sharing.warn("engine 'process' shares no states and steps of builds; 'native' does")
        self._core = ProcessCore(
            None if home is None else Path(home),
            {
                "project": None if project is None else Path(project),
                "pull": pull,
                "registries": registries,
                "display": display,
            },
        )

    def require(self, capability: Capability) -> None:
        """Raise unless this engine has a capability."""
        capabilities.require(capability, self.name, self.capabilities)

    # ------------------------------------------------------------------------ the run

    def start(self) -> None:
        """Start the run."""
        _ = self._core.run

    @property
    def lost(self) -> RunLostError | None:
        """Why the run is gone, with all its containers; None if it is not."""
        run = self._core.started_run
        if run is None or not run.lost:
            return None
        return RunLostError("a watcher of the process engine was killed; its containers are gone")

    @property
    def facts(self) -> Mapping[str, Any]:
        """The facts of the run."""
        run = self._core.run
        return {
            "label": LABEL,
            "identity": "root" if self._core.is_root else "single",
            "runner": "process",
            "features": {"landlock": landlock.version()},
            "places": run.places.folders,
            "pids": run.pids,
        }

    def adopt(self, sock: int, pidfd: int, label: str = "") -> int:
        """Is refused: the engine lacks ``shares``."""
        self._refuse("shares")

    # ------------------------------------------------------------------------- images

    @property
    def images(self) -> StoredImages:
        """The image store."""
        from pytest_containers.images.stored import StoredImages

        return StoredImages(self._core.images)

    def image(self, reference: str | contract.Image, *, pull: PullPolicy | None = None) -> Image:
        """Return the image of that name, fetched if necessary."""
        check("image()", pull=pull)
        return self._core.image(reference, pull)

    @property
    def states(self) -> ProcessStates:
        """The states on this machine."""
        from pytest_containers.engines.process.states import ProcessStates

        return ProcessStates(self._core)

    def build(
        self,
        context: str | os.PathLike[str] = ".",
        *,
        dockerfile: str | os.PathLike[str] | None = None,
        tags: Sequence[str] = (),
        options: BuildOptions | None = None,
        display: BuildDisplay | None = None,
    ) -> Image:
        """Is refused: the engine lacks ``builds``."""
        self._refuse("builds")

    # -------------------------------------------------------------- networks, volumes

    def create_network(self, parents: Sequence[contract.Network] = ()) -> ProcessNetwork:
        """Make a private network; its containers also reach those of `parents`."""
        check("create_network()", parents=parents)
        return self._core.create_network(parents)

    def networks(self) -> list[ProcessNetwork]:
        """Return the networks that were not removed."""
        return list(self._core.networks.values())

    def create_volume(self, size_bytes: int | None = None) -> ProcessVolume:
        """Make an empty volume, a directory; without a limit of its size."""
        check("create_volume()", size_bytes=size_bytes)
        if size_bytes is not None:
            from pytest_containers.engines.process.refusals import refuse

            raise refuse("create_volume(size_bytes)", "it has no mounts")
        volume = ProcessVolume(self._core, f"volume-{self._core.next_id()}")
        self._core.volumes[volume.id] = volume
        return volume

    def volumes(self) -> list[ProcessVolume]:
        """Return the volumes that were not removed."""
        return list(self._core.volumes.values())

    # --------------------------------------------------------------------- containers

    def run(
        self,
        image: Any,
        command: Sequence[str] | str | None = None,
        *,
        name: str | None = None,
        network: contract.Network | Literal[False] | None = None,
        wait_ready: bool = True,
        **options: Any,
    ) -> ProcessContainer:
        """Start a container; `options` are the fields of `ContainerSpec`."""
        if network is False:
            network, options = None, {**options, "network": False}
        spec = spec_of(image, command, options)
        own = self._own(network)
        return run_container(self._core, spec, name, own, wait_ready=wait_ready)

    def launch(
        self,
        spec: ContainerSpec,
        *,
        name: str | None = None,
        network: contract.Network | None = None,
        warmup: Warmup | None = None,
        attach: Literal["", "output", "all"] = "",
    ) -> ProcessContainer:
        """Start a container; `Container.started` raises what has failed."""
        check("launch()", spec=spec, name=name, network=network, attach=attach)
        if warmup is not None:
            self.require("warmup")
        image = self._core.image(spec.image)
        return ProcessContainer(self._core, spec, image, name, self._own(network), attach)

    def _own(self, network: contract.Network | None) -> ProcessNetwork | None:
        if network is None or isinstance(network, ProcessNetwork):
            return network
        raise SpecError(f"network {network!r} is of another engine")

    def run_oci(
        self,
        config: Mapping[str, Any] | str | os.PathLike[str],
        rootfs: str | os.PathLike[str] | None = None,
        *,
        container_id: str | None = None,
        start: bool = True,
        attach: Literal["", "output", "all"] = "",
    ) -> NoReturn:
        """Is refused: the engine lacks ``oci``."""
        self._refuse("oci")

    def begin_shared(
        self,
        key: str,
        spec: ContainerSpec,
        launch: Callable[[], Any],
        await_ready: Callable[[Any], None],
        *,
        name: str,
    ) -> NoReturn:
        """Is refused: the engine lacks ``shares``."""
        self._refuse("shares")

    def keep(
        self, container: contract.Container, *, test: str, limits: KeepLimits, stay: bool = True
    ) -> None:
        """Is refused: the engine lacks ``keep``."""
        self._refuse("keep")

    def lead(self, sock: int | None, label: str, *, port: int = 0) -> ThreadLead:
        """Forward connections of a socket, or of a port of 127.0.0.1, by threads."""
        return ThreadLead(sock, label, port)

    def containers(self) -> list[ProcessContainer]:
        """Return the containers that were not removed, in the order of their starts."""
        return cast("list[ProcessContainer]", list(self._core.containers))

    def container(self, id_or_name: str) -> ProcessContainer:
        """Return one of `containers` by its id, or by a name that no other container has."""
        check("container()", id_or_name=id_or_name)
        from pytest_containers.engines.lookup import by_id_or_name

        return by_id_or_name(self.containers(), id_or_name)

    def events(self, timeout_s: float | None = None) -> Iterator[Event]:
        """Iterate over the events of all containers from this call on."""
        check("events()", timeout_s=timeout_s)
        return self._core.events.listen(timeout_s)

    def give_back(self, folder: str | os.PathLike[str]) -> None:
        """Do nothing: all files are the caller's, or the caller is root."""

    def finish_sharing(self, timeout_s: float = 60.0) -> None:
        """Do nothing: this engine shares nothing with other machines."""

    def close(self) -> None:
        """End all containers; idempotent."""
        self._core.close()

    def _refuse(self, capability: Capability) -> NoReturn:
        self.require(capability)
        raise AssertionError(f"{capability} is a capability")

    def __enter__(self) -> ProcessEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
