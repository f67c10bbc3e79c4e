"""The containers of one pytest process: an engine, and who lives in which scope."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_containers import settings
from pytest_containers.errors import SpecError, hide_frames
from pytest_containers.settings import Settings
from pytest_containers.spec import ContainerSpec

if TYPE_CHECKING:
    from pytest_containers.engines.native import Container, Engine, Network, Volume
    from pytest_containers.images.image import Image
    from pytest_containers.images.pull import Policy
    from pytest_containers.plugin.endpoints import Endpoints
    from pytest_containers.plugin.lookahead import Lookahead
    from pytest_containers.plugin.provider import Provider
    from pytest_containers.services.base import Service
    from pytest_containers.state.warm import Outcome

__tracebackhide__ = hide_frames

SCOPES = ("session", "package", "module", "class", "function")
"""Widest first."""


def settings_of(config: pytest.Config) -> Settings:
    """The settings of a test run.

    Raises:
        SettingsError: One is not usable.
    """
    return Settings(
        {one.name: config.getoption(f"containers_{one.name}") for one in settings.ALL},
        {one.name: config.getini(one.ini) for one in settings.ALL},
    )


class Manager:
    """The engine of one process, and the containers of its scopes."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.settings: Settings = settings_of(config)
        self._pid = os.getpid()
        self._engine: Engine | None = None
        self.active: list[Containers] = []
        self._provider: Provider | None = None
        self._lookahead: Lookahead | None = None
        self._endpoints: Endpoints | None = None
        worker = getattr(config, "workerinput", {})
        self.began_at: float = worker.get("containers_began", time.time())

    @property
    def ours(self) -> bool:
        """Whether this process made it, rather than a parent before a fork."""
        return self._pid == os.getpid()

    @property
    def engine(self) -> Engine:
        """The engine; in an xdist worker it shares the controller's run."""
        if self._engine is None:
            from pytest_containers.engines.native import Engine

            self._engine = Engine(
                home=self.settings.get(settings.HOME),
                broker=getattr(self.config, "workerinput", {}).get("containers_broker"),
                identity=self.settings.get(settings.IDENTITY),
                runner=self.settings.get(settings.RUNNER),
                project=self.config.rootpath,
                pull=self.settings.get(settings.PULL),
                registries=self._registries(),
                display=self._display(),
            )
        return self._engine

    @property
    def provider(self) -> Provider:
        """Starts what fixtures describe."""
        if self._provider is None:
            from pytest_containers.plugin.provider import Provider

            self._provider = Provider(self)
        return self._provider

    @property
    def lookahead(self) -> Lookahead:
        """Starts what the next test will ask for."""
        if self._lookahead is None:
            from pytest_containers.plugin.lookahead import Lookahead

            self._lookahead = Lookahead(self)
        return self._lookahead

    @property
    def endpoints(self) -> Endpoints:
        """Leads fixed addresses to containers."""
        if self._endpoints is None:
            from pytest_containers.plugin.endpoints import Endpoints

            self._endpoints = Endpoints(self.engine)
        return self._endpoints

    @property
    def outcomes(self) -> list[Outcome]:
        """What became of states, in order."""
        return [] if self._provider is None else list(self._provider.outcomes.values())

    @property
    def shared(self) -> list[Container]:
        """Containers that this process has in common with others."""
        return [] if self._provider is None else self._provider.shared_containers

    @property
    def has_spec_hooks(self) -> bool:
        """Whether anybody changes specs."""
        return bool(self.config.hook.pytest_containers_spec.get_hookimpls())

    def adjusted(self, name: str, spec: ContainerSpec) -> ContainerSpec:
        """What the settings and the hook make of a spec."""
        timeout_s = self.settings.get(settings.READY_TIMEOUT, spec.ready_timeout_s)
        if timeout_s != spec.ready_timeout_s:
            spec = dataclasses.replace(spec, ready_timeout_s=timeout_s)
        changed = self.config.hook.pytest_containers_spec(config=self.config, name=name, spec=spec)
        return spec if changed is None else changed

    def image(self, reference: str, pull: Policy | None = None) -> Image:
        """An image, fetched as the argument and the settings say."""
        from pytest_containers.images.reference import Reference, parse

        policy: Policy = self.settings.get(settings.PULL, pull)
        images = self.engine.images
        if policy == images.policy or not isinstance(parse(reference), Reference):
            return images.get(reference)
        return images.pull(reference, policy=policy)

    def build(
        self,
        context: Path,
        dockerfile: str | os.PathLike[str] | None,
        tags: Sequence[str],
        options: Mapping[str, Any],
    ) -> Image:
        """An image from a Dockerfile; its steps are shown where pytest writes."""
        from pytest_containers.build.options import BuildOptions, epoch_of
        from pytest_containers.plugin.progress import Steps

        known = {one.name for one in dataclasses.fields(BuildOptions)}
        for name in options:
            if name not in known:
                raise SpecError(
                    f"{name!r} is not an option of a build; there are {', '.join(sorted(known))}"
                )
        chosen = BuildOptions(**{"epoch": epoch_of(), **options})
        return self.engine.build(
            context, dockerfile=dockerfile, tags=tags, options=chosen, display=Steps(self.config)
        )

    def _registries(self) -> Any:
        from pytest_containers.images.registry.settings import settings_of

        return settings_of(
            self.settings.get(settings.INSECURE_REGISTRY),
            self.settings.get(settings.REGISTRY_MIRROR),
            self.settings.get(settings.HUB_PREFIX),
        )

    def _display(self) -> Any:
        from pytest_containers.plugin.progress import display_of

        return display_of(self.config)

    def service_class(self, kind: str | type[Service]) -> type[Service]:
        """The class of a service, by name if need be.

        Raises:
            SpecError: There is none of that name.
        """
        if not isinstance(kind, str):
            return kind
        from pytest_containers import services

        known: dict[str, type[Service]] = {
            name.lower(): getattr(services, name) for name in services.__all__
        }
        for more in self.config.hook.pytest_containers_services(config=self.config):
            known |= {name.lower(): one for name, one in more.items()}
        if kind.lower() not in known:
            raise SpecError(f"there is no service {kind!r}; there are {', '.join(sorted(known))}")
        return known[kind.lower()]

    @contextmanager
    def containers(self, scope: str) -> Iterator[Containers]:
        """The containers of one scope, for as long as it lasts."""
        found = Containers(self, scope)
        self.active.append(found)
        try:
            yield found
        finally:
            self.active.remove(found)
            found.close()

    def wider_networks(self, scope: str) -> list[Network]:
        """Networks of wider scopes that live now."""
        wider = SCOPES[: SCOPES.index(scope)]
        shared = [] if self._provider is None else self._provider.shared_networks
        return shared + [
            one.network_if_made
            for one in self.active
            if one.scope in wider and one.network_if_made is not None
        ]

    def close(self) -> None:
        """End the run."""
        if self._endpoints is not None:
            self._endpoints.close()
        engine, self._engine = self._engine, None
        if engine is not None and self.ours:
            engine.close()


class Containers:
    """Starts containers and keeps them for one scope. The fixtures ``containers``,
    ``module_containers`` and so on are such objects.

    Attributes:
        scope: ``"function"``, ``"class"``, ``"module"``, ``"package"`` or ``"session"``.
    """

    def __init__(self, manager: Manager, scope: str) -> None:
        self._manager = manager
        self.scope = scope
        self._network: Network | None = None
        self._running: list[Container] = []
        self._volumes: list[Volume] = []
        self._count = 0
        self.failed: list[Container] = []

    @property
    def engine(self) -> Engine:
        """The engine behind it."""
        return self._manager.engine

    @property
    def running(self) -> Sequence[Container]:
        """Containers that were started and not removed."""
        return tuple(self._running)

    @property
    def network(self) -> Network:
        """The private network of this scope; containers of wider scopes are reachable from it."""
        if self._network is None:
            manager = self._manager
            self._network = manager.lookahead.network_for(self)
            if self._network is None:
                self._network = self.engine.create_network(manager.wider_networks(self.scope))
        return self._network

    @property
    def network_if_made(self) -> Network | None:
        """The network, or None if nothing has needed it."""
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
            command: Replaces the image's command.
            name: Its host name: how other containers find it.
            wait_ready: False returns as soon as its program runs.
            **options: Fields of `ContainerSpec`.

        Raises:
            ContainersError: See `Engine.run`.
        """
        from pytest_containers.engines.native.engine import spec_of

        self._count += 1
        name = name or f"container-{self._count}"
        spec = spec_of(image, command, options)
        chosen = self._manager.settings.image_for(name)
        if chosen is not None:
            spec = dataclasses.replace(spec, image=chosen)
        return self.start(spec, name, wait_ready=wait_ready)

    def start(
        self, spec: ContainerSpec, name: str, *, wait_ready: bool = True, ahead: Any = None
    ) -> Container:
        """As `run`, for a whole spec; or take the one that was started ahead for it.

        Args:
            ahead: What it is known as to the look-ahead.
        """
        spec = self._manager.adjusted(name, spec)
        container = None
        if ahead is not None:
            container = self._manager.lookahead.take(ahead, spec, self)
        if container is None:
            network = self.network if spec.network else None
            container = self.engine.run(spec, name=name, network=network, wait_ready=False)
        self._running.append(container)
        if wait_ready:
            try:
                container.wait_ready()
            except BaseException:
                container.keep_logs()
                self.failed.append(container)
                self.remove(container)
                raise
        self._manager.config.hook.pytest_containers_started(
            config=self._manager.config, container=container
        )
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
            kind: A class of `services`, or its name: ``"redis"``; plugins may add names
                (`pytest_containers_services`).
            seed, inputs, seed_timeout_s: As in `Service.fixture`.
            name: Its host name; None is the class's.
            **options: What the service takes.
        """
        from pytest_containers.plugin.recipe import Recipe, folder_of_caller
        from pytest_containers.services.options import check_names

        service = self._manager.service_class(kind)
        check_names(service, options, ("seed", "inputs", "seed_timeout_s", "name"))
        made = service(**options)
        recipe = Recipe(made, seed, inputs, seed_timeout_s, folder=folder_of_caller(2))
        name = name or type(made).__name__.lower()
        wanted = self._manager.provider.wanted(recipe, name, ())
        assert wanted is not None
        return made.bound(self.start(wanted.spec, name))

    def volume(self, size_bytes: int | None = None) -> Volume:
        """An empty volume that lives as long as the scope."""
        volume = self.engine.create_volume(size_bytes)
        self._volumes.append(volume)
        return volume

    def image(self, reference: str) -> Any:
        """The image of that name."""
        return self.engine.image(reference)

    def remove(self, container: Container, *, wait: bool = True) -> None:
        """Remove a container before the end of the scope; idempotent.

        Args:
            wait: Return when it is gone.
        """
        if container in self._running:
            self._running.remove(container)
        container.remove(wait=wait)

    def close(self) -> None:
        """Remove everything, the newest first."""
        # Nobody has to wait for the end of what is out of reach: it comes by itself.
        for container in reversed(self._running.copy()):
            self.remove(container, wait=bool(self._volumes))
        for volume in self._volumes:
            volume.remove()
        self._volumes.clear()
        self.failed.clear()
        if self._network is not None:
            self._network.remove(wait=False)
            self._network = None
