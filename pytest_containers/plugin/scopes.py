"""`Containers`: the containers, network and volumes of one scope."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from pytest_containers.model.arguments import check
from pytest_containers.model.engine import Container, Engine, Image, Network, Volume
from pytest_containers.model.errors import ContainersError, hide_frames
from pytest_containers.model.spec import ContainerSpec, spec_of
from pytest_containers.plugin.journal import ContainerLife, describe_start
from pytest_containers.plugin.lookahead import Lookahead
from pytest_containers.plugin.workspace import Workspace

if TYPE_CHECKING:
    from pytest_containers.plugin.provider import Provider
    from pytest_containers.services.recipe import Recipe
    from pytest_containers.services.service import Service

__tracebackhide__ = hide_frames


class Containers:
    """The containers of one scope, which are removed at its end.

    This is the type of the fixtures ``containers``, ``module_containers`` and so on.

    Attributes:
        scope: ``"function"``, ``"class"``, ``"module"``, ``"package"`` or ``"session"``.
        fixtures: The requests of the fixtures whose containers it has.
        egress: True lets containers that start from now on reach other machines, False does not,
            where they do not say themselves; None is the setting.
    """

    def __init__(
        self,
        workspace: Workspace,
        scope: str,
        lookahead: Callable[[], Lookahead],
        provider: Callable[[], Provider],
    ) -> None:
        self._workspace = workspace
        self.scope: str = scope
        self.egress: bool | None = None
        # Both are imported and made on demand.
        self._lookahead = lookahead
        self._provider = provider
        self._network: Network | None = None
        self._running: dict[Container, ContainerLife] = {}
        self._volumes: list[Volume] = []
        self._count = 0
        self.failed: list[Container] = []
        self.fixtures: dict[pytest.FixtureRequest, None] = {}

    @property
    def engine(self) -> Engine:
        """The engine of its containers."""
        return self._workspace.engine

    @property
    def running(self) -> Sequence[Container]:
        """The containers that were started and not removed."""
        return tuple(self._running)

    @property
    def network(self) -> Network:
        """The private network of this scope, from which wider scopes are reachable."""
        if self._network is None:
            self._network = self._lookahead().network_for(self)
            if self._network is None:
                wider = self._workspace.wider_networks(self.scope)
                self._network = self.engine.create_network(wider)
        return self._network

    @property
    def network_if_made(self) -> Network | None:
        """The network; None if it was not made yet."""
        return self._network

    def run(
        self,
        image: Any,
        command: Sequence[str] | str | None = None,
        *,
        name: str | None = None,
        wait_ready: bool = True,
        **options: Any,
    ) -> Container:
        """Start a container and wait until it is ready; it is removed at the end of the scope.

        Args:
            image: A reference, an image, or a whole `ContainerSpec`.
            command: Replaces the command of the image.
            name: Its host name for other containers.
            wait_ready: False returns as soon as the program runs.
            **options: Fields of `ContainerSpec`.

        Raises:
            ContainersError: See `Engine.run`.
        """
        check("run()", name=name, wait_ready=wait_ready)
        self._count += 1
        name = name or f"container-{self._count}"
        spec = spec_of(image, command, options)
        if spec.has_relative_sources:
            from pytest_containers.services.recipe import folder_of_caller

            spec = spec.anchored(folder_of_caller(2))
        override = self._workspace.settings.image_for(name)
        if override is not None:
            spec = dataclasses.replace(spec, image=override)
        return self.start(spec, name, wait_ready=wait_ready)

    def start(
        self, spec: ContainerSpec, name: str, *, wait_ready: bool = True, ahead: Any = None
    ) -> Container:
        """Start a container from a spec, or take the one that was started early.

        Args:
            ahead: The key of the container in the look-ahead.
        """
        if spec.egress is None and spec.network:
            spec = dataclasses.replace(spec, egress=self.egress)
        spec = self._workspace.adjusted(name, spec)
        life = self._workspace.journal.begin(name, _image_name(spec), self.scope)
        with self._workspace.watch(lambda: describe_start(life, spec)):
            try:
                container = self._started(spec, name, ahead, life)
            except BaseException as error:
                life.fail(error)
                raise
            self._running[container] = life
            if wait_ready:
                self._await_ready(container, life)
        self._workspace.config.hook.pytest_containers_started(
            config=self._workspace.config, container=container
        )
        return container

    def _await_ready(self, container: Container, life: ContainerLife) -> None:
        try:
            container.wait_ready()
        except BaseException as error:
            life.fail(error)
            if not self._workspace.keeper.holds_failed_starts:
                container.keep_logs()
                self.failed.append(container)
                self.remove(container)
            raise
        life.ready_at = time.time()

    def _started(
        self, spec: ContainerSpec, name: str, ahead: Any, life: ContainerLife
    ) -> Container:
        """Return a container whose program runs."""
        container = None
        if ahead is not None:
            container = self._lookahead().take(ahead, spec, self)
        if container is not None:
            life.ahead = True
            self._workspace.journal.started(life, container)
            return container
        if self._workspace.journal.detailed:
            self.engine.image(spec.image)
            life.image_at = time.time()
        network = self.network if spec.network else None
        container = self.engine.run(spec, name=name, network=network, wait_ready=False)
        self._workspace.journal.started(life, container)
        return container

    def service(
        self,
        kind: str | type[Service],
        *,
        seed: Any = None,
        inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
        seed_timeout_s: float | None = None,
        name: str | None = None,
        **options: Any,
    ) -> Any:
        """Start a service; it is removed at the end of the scope.

        Args:
            kind: A class of `services`, or its name: ``"redis"``; plugins can add names
                (`pytest_containers_services`).
            seed, inputs, seed_timeout_s: As in `Service.fixture`.
            name: Its host name; None is the name of the class.
            **options: The options of the service.
        """
        from pytest_containers.services.checks import check_names
        from pytest_containers.services.recipe import Recipe, folder_of_caller

        service_class = self._workspace.service_class(kind)
        check("service()", name=name)
        check_names(service_class, options, ("seed", "inputs", "seed_timeout_s", "name"))
        service = service_class(**options)
        recipe = Recipe(service, seed, inputs, seed_timeout_s, folder=folder_of_caller(2))
        name = name or service_class.__name__.lower()
        resolved = self._provider().resolve(recipe, name, ())
        assert resolved is not None
        return service.bound(self.start(resolved.spec, name))

    def provide(self, recipe: Recipe, request: pytest.FixtureRequest, stack: ExitStack) -> Any:
        """Start the container of a recipe and return the value of its fixture."""
        self.engine.start()  # starts in the background while the recipe is resolved
        self.fixtures[request] = None
        return self._provider().provide(recipe, request, self, stack)

    def volume(self, size_bytes: int | None = None) -> Volume:
        """Make an empty volume, which is removed at the end of the scope."""
        volume = self.engine.create_volume(size_bytes)
        self._volumes.append(volume)
        return volume

    def image(self, reference: str) -> Image:
        """Return the image of that name, fetched if necessary."""
        return self.engine.image(reference)

    def remove(self, container: Container, *, wait: bool = True) -> None:
        """Remove a container before the end of the scope; idempotent.

        Args:
            wait: Return only when the container is gone.
        """
        check("remove()", container=container, wait=wait)
        life = self._running.pop(container, None)
        if life is None or not self._workspace.journal.detailed:
            container.remove(wait=wait)
            return
        if self._workspace.journal.observer is not None:
            self._workspace.journal.observer.ending(life, container)
        with contextlib.suppress(ContainersError):  # the run is gone
            life.exit_code = container.exit_code
        life.removed_at = time.time()
        container.remove()
        life.gone_at = time.time()

    def release(self, container: Container, *, wait: bool = False) -> None:
        """Keep a container if the settings say so, else remove it."""
        life = self._running.get(container)
        if life is not None and self._workspace.keeper.keep(container, life):
            del self._running[container]
        else:
            self.remove(container, wait=wait)

    def close(self) -> None:
        """Release all containers, the newest first, then the volumes and the network."""
        # Only volumes need the end of the containers; else they end while the next test runs.
        for container in reversed(self.running):
            self.release(container, wait=bool(self._volumes))
        for volume in self._volumes:
            volume.remove()
        self._volumes.clear()
        self.failed.clear()
        if self._network is not None:
            self._network.remove(wait=False)
            self._network = None


def _image_name(spec: ContainerSpec) -> str:
    image = spec.image
    return image if isinstance(image, str) else str(getattr(image, "name", image))
