"""The values of fixtures, made from their recipes: states, ready containers, endpoints."""

from __future__ import annotations

import dataclasses
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_containers.model import settings
from pytest_containers.model.engine import Container
from pytest_containers.model.errors import ContainersError, NotRunningError, SpecError, hide_frames
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.model.wait import may_end
from pytest_containers.plugin.journal import current_test, describe_start
from pytest_containers.plugin.marks import marks_of
from pytest_containers.plugin.workspace import LiveScope, Workspace
from pytest_containers.services.base import BaseService
from pytest_containers.services.endpoints import Endpoint, exported, named
from pytest_containers.services.recipe import (
    NO_ENDPOINT,
    Recipe,
    published,
    security_opt_of,
    with_security_opt,
)
from pytest_containers.state.facts import Inputs
from pytest_containers.state.warm import Outcome, Stage, WarmStates

if TYPE_CHECKING:
    from pytest_containers.services.sql import SqlService
    from pytest_containers.state.seeds import Seed

__tracebackhide__ = hide_frames


class ResolvedRecipe(NamedTuple):
    """A recipe with the settings of the run applied, and its state made.

    Attributes:
        spec: The container to start; its image includes the state.
        description: The spec or service, with the image that the settings choose.
    """

    spec: ContainerSpec
    description: ContainerSpec | BaseService


class Provider:
    """The maker of the values of fixtures; one for each process."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._warm: WarmStates | None = None
        self._resolved: dict[tuple[Any, ...], ResolvedRecipe] = {}
        self._shared: dict[tuple[Any, ...], Any] = {}
        self.outcomes: dict[tuple[str, str], Outcome] = {}

    @property
    def warm(self) -> WarmStates:
        """The states of the test run."""
        if self._warm is None:
            workspace = self._workspace
            fresh = workspace.settings.get(settings.FRESH)
            self._warm = WarmStates(
                workspace.engine,
                workspace.config.rootpath,
                fresh_since=workspace.began_at if fresh else None,
                run=workspace.facts.get("testrunuid"),
                tell=self._note,
                test=current_test,
                failed=self._keep_failed,
                watch=lambda doing: self._workspace.watch(lambda: doing),
                ignored=exported,
            )
        return self._warm

    def _keep_failed(self, container: Container) -> None:
        """Keep the container of a seed that has failed, if the settings say so."""
        workspace = self._workspace
        life = workspace.journal.begin(container.name, container.image.name, "seed")
        life.error = "SeedError"
        if not workspace.keeper.keep_failed(container, life):
            workspace.journal.lives.remove(life)

    def forget_run(self) -> None:
        """Forget what belonged to a run that is lost: images and shared containers."""
        self._warm = None
        self._resolved.clear()
        self._shared.clear()

    def _note(self, outcome: Outcome) -> None:
        """Record an outcome; different seeds with the same name get numbers."""
        title, number = outcome.title, 1
        while (earlier := self.outcomes.get((outcome.label, title))) is not None:
            if earlier.made_at == outcome.made_at:
                return
            number += 1
            title = f"{outcome.title} #{number}"
        outcome = outcome._replace(title=title)
        self.outcomes[outcome.label, title] = outcome
        self._workspace.journal.note_use(**outcome._asdict())

    # -------------------------------------------------------------- recipes

    def resolve(
        self, recipe: Recipe, name: str, marks: Sequence[tuple[Any, Path]], *, build: bool = True
    ) -> ResolvedRecipe | None:
        """Apply the settings to a recipe, and make its state.

        Args:
            build: False returns None if the state is not in the cache of this process.
        """
        key = (id(recipe), name, tuple(id(value) for value, _ in marks))
        if recipe.constant and key in self._resolved:
            return self._resolved[key]
        description = self._overridden(recipe, name)
        resolved = self._resolve(recipe, description, name, recipe.seeds(marks), build)
        if recipe.constant and resolved is not None:
            self._resolved[key] = resolved
        return resolved

    def _overridden(self, recipe: Recipe, name: str) -> ContainerSpec | BaseService:
        """Return the description of a recipe with the settings and a fixed port applied."""
        description = recipe.description
        endpoint = recipe.endpoint or named(name)
        if endpoint is not None and _is_published(recipe, endpoint):
            description = published(description, endpoint.number, endpoint.port)
        security_opt = self._workspace.security_opt(security_opt_of(description))
        description = with_security_opt(description, security_opt)
        if isinstance(description, BaseService):
            description = description.named(name)
        image = self._workspace.settings.image_for(name)
        if image is None:
            return description
        if isinstance(description, ContainerSpec):
            return dataclasses.replace(description, image=image)
        return description.of_image(image)

    def _resolve(
        self,
        recipe: Recipe,
        description: ContainerSpec | BaseService,
        name: str,
        seeds: Sequence[Seed],
        build: bool,
    ) -> ResolvedRecipe | None:
        if isinstance(description, ContainerSpec) and not seeds:
            Inputs(recipe.inputs, recipe.folder)  # raises for missing inputs even without a seed
            return ResolvedRecipe(description, description)
        engine = self._workspace.engine
        if isinstance(description, ContainerSpec):
            base = engine.image(description.image)
            spec = description
        else:
            base = engine.image(description.source())
            spec = description.serve(base)
        stages = [
            self._with_endpoint(recipe, name, stage)
            for stage in recipe.stages(description, base, seeds)
        ]
        image = self.warm.cached(base, stages)
        if image is None and not build:
            return None
        if image is None:
            image = self.warm.image(self._label(recipe, name), base, stages, name=name)
        return ResolvedRecipe(dataclasses.replace(spec, image=image), description)

    def _with_endpoint(self, recipe: Recipe, name: str, stage: Stage) -> Stage:
        """Return a stage whose seed can use the endpoint of the fixture."""
        endpoint = recipe.endpoint or named(name)
        if endpoint is None or not stage.traced or _is_published(recipe, endpoint):
            return stage
        act = stage.act

        def act_with_endpoint(container: Container) -> None:
            endpoints = self._workspace.endpoints
            endpoints.lead(endpoint, container)
            try:
                act(container)
            finally:
                endpoints.lead(endpoint, None)

        return dataclasses.replace(stage, act=act_with_endpoint)

    def _label(self, recipe: Recipe, name: str) -> str:
        root = self._workspace.config.rootpath
        return f"{os.path.relpath(recipe.folder, root)}::{name}".removeprefix(".::")

    # --------------------------------------------------------------- values

    def provide(
        self,
        recipe: Recipe,
        request: pytest.FixtureRequest,
        containers: LiveScope,
        stack: ExitStack,
    ) -> Any:
        """Return the value of a fixture; its container ends with `stack`."""
        name = request.fixturename or "container"
        if recipe.isolation == "database" and (recipe.endpoint or named(name)) is not None:
            raise SpecError(f"fixture {name!r}: {NO_ENDPOINT}")
        marks = marks_of(request.node, name)
        if recipe.isolation == "server":
            value = self._start(recipe, name, marks, containers, stack)
        else:
            value = self._share(recipe, name, marks)
            if recipe.isolation == "database":
                value = _clone_database(value, stack)
        endpoint = recipe.endpoint or named(name)
        if endpoint is not None:
            endpoint.name = name  # the endpoint was made before its fixture had a name
            if not _is_published(recipe, endpoint):
                self._workspace.endpoints.lead(endpoint, _container_of(recipe, value))
                stack.callback(self._workspace.endpoints.lead, endpoint, None)
        return value

    def begin(self, recipe: Recipe, name: str) -> Callable[[], Any]:
        """Begin to start the server of a session service, or to join it.

        Returns:
            A function that waits until it is ready and returns the value of the fixture. The
            endpoint of the service then leads to it whenever no test has a server of its own.
        """
        finish = self._begin_share(recipe, name, ())

        def kept_up() -> Any:
            value = finish()
            endpoint = recipe.endpoint or named(name)
            if endpoint is not None and not _is_published(recipe, endpoint):
                self._workspace.endpoints.rest(endpoint, _container_of(recipe, value))
            return value

        return kept_up

    def _start(
        self,
        recipe: Recipe,
        name: str,
        marks: Sequence[tuple[Any, Path]],
        containers: LiveScope,
        stack: ExitStack,
    ) -> Any:
        resolved = self.resolve(recipe, name, marks)
        assert resolved is not None
        key = (id(recipe), name, tuple(id(value) for value, _ in marks))
        container = containers.start(resolved.spec, name, ahead=key)
        stack.callback(containers.release, container)
        return recipe.bound(resolved.description, container)

    def _share(self, recipe: Recipe, name: str, marks: Sequence[tuple[Any, Path]]) -> Any:
        """Return the value that all tests of the run share, in all processes."""
        return self._begin_share(recipe, name, marks)()

    def _begin_share(
        self, recipe: Recipe, name: str, marks: Sequence[tuple[Any, Path]]
    ) -> Callable[[], Any]:
        """Begin to start a shared server, or to join it; return how to finish."""
        seeds = recipe.seeds(marks)
        key = (id(recipe), name, tuple(seed.identity for seed in seeds))
        if key in self._shared:
            shared = self._shared[key]
            if isinstance(shared, ContainersError):
                raise shared
            _raise_if_ended(shared, recipe)
            return lambda: shared

        with self._remembering(key):
            resolved = self.resolve(recipe, name, marks)
            assert resolved is not None
            begun = self._begin_shared(recipe, name, resolved)

        def finished(resolved: ResolvedRecipe = resolved) -> Any:
            with self._remembering(key):
                value = self._shared[key] = self._finished(recipe, name, resolved, begun())
            return value

        return finished

    @contextmanager
    def _remembering(self, key: tuple[Any, ...]) -> Iterator[None]:
        """Remember a failure, so that a shared server is not tried again."""
        try:
            yield
        except ContainersError as error:
            self._shared[key] = error
            raise

    def _begin_shared(
        self, recipe: Recipe, name: str, resolved: ResolvedRecipe
    ) -> Callable[[], Container]:
        engine = self._workspace.engine
        engine.require("shares")
        spec = self._workspace.adjusted(name, resolved.spec)

        def launch() -> Container:
            return self._launch_shared(spec, name)

        image = engine.image(spec.image)
        key = f"{self._label(recipe, name)}:{image.id}:{hash_of(spec)}"
        if recipe.per_worker:
            key += f":{self._workspace.worker}"
        return engine.begin_shared(key, spec, launch, self._await_shared, name=name)

    def _finished(
        self, recipe: Recipe, name: str, resolved: ResolvedRecipe, container: Container
    ) -> Any:
        self._workspace.shared_containers.append(container)
        if container.network is not None:
            self._workspace.shared_networks.append(container.network)
        value = recipe.bound(resolved.description, container)
        _raise_if_ended(value, recipe)
        endpoint = recipe.endpoint or named(name)
        if endpoint is not None and _is_published(recipe, endpoint):
            endpoint.listening = True
        return value

    def _launch_shared(self, spec: ContainerSpec, name: str) -> Container:
        """Launch a container in a network of its own."""
        engine = self._workspace.engine
        life = self._workspace.journal.begin(name, engine.image(spec.image).name, "run")
        try:
            container = engine.launch(spec, name=name, network=engine.create_network())
        except BaseException as error:
            life.fail(error)
            raise
        self._workspace.shared_lives[container] = life
        return container

    def _await_shared(self, container: Container) -> None:
        """Wait until a launched container is ready; remove or keep it if it does not get there."""
        workspace = self._workspace
        life = workspace.shared_lives[container]
        try:
            container.started()
            workspace.journal.started(life, container)
            with workspace.watch(lambda: describe_start(life, container.spec)):
                container.wait_ready()
        except BaseException as error:
            life.fail(error)
            del workspace.shared_lives[container]
            if workspace.journal.observer is not None:
                workspace.journal.observer.ending(life, container)
            if not workspace.keeper.keep_failed(container, life):
                container.remove()
            raise
        life.ready_at = time.time()


def _container_of(recipe: Recipe, value: Any) -> Container:
    return value if recipe.service is None else value.container  # type: ignore[no-any-return]  # values vary


def _is_published(recipe: Recipe, endpoint: Endpoint) -> bool:
    """Return True if the container itself has the fixed port: one that all processes share."""
    return endpoint.fixed and recipe.isolation == "none" and not recipe.per_worker


def _clone_database(server: SqlService, stack: ExitStack) -> SqlService:
    """Clone the seeded database of a shared server for one test."""

    name = f"test_{secrets.token_hex(6)}"
    server.clone_database(name, server.database)
    stack.callback(server.drop_database, name)
    return server.of_database(name)


def _raise_if_ended(value: Any, recipe: Recipe) -> None:
    """Raise for a shared container that a test has ended.

    Raises:
        NotRunningError: The container has ended or was removed.
    """
    container = _container_of(recipe, value)
    spec, status = container.spec, container.status
    if (not spec.ports and spec.ready is None) or may_end(spec.ready):
        return  # a job may be finished
    if status in ("running", "paused", "created"):
        return
    code = container.exit_code
    ended = f"has ended with exit code {code}" if code is not None else f"was {status}"
    raise NotRunningError(
        f"container {container.name!r} is shared by all tests of the run "
        f"(isolation={recipe.isolation!r}) and {ended}; a test that ends its container needs "
        "isolation='server'",
        exit_code=code,
    )


def hash_of(spec: ContainerSpec) -> str:
    """Return a digest of a spec without its image and its readiness condition."""
    import hashlib

    fields = repr(dataclasses.replace(spec, image=None, ready=None))
    return hashlib.sha256(fields.encode()).hexdigest()[:16]
