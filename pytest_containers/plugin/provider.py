"""From a fixture's recipe to what it gives: states, containers that are ready, endpoints."""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_containers import settings
from pytest_containers.errors import ContainersError, NotRunningError, SpecError, hide_frames
from pytest_containers.plugin.endpoints import exported, named
from pytest_containers.plugin.marks import marks_of
from pytest_containers.services.sql import SqlService
from pytest_containers.spec import ContainerSpec
from pytest_containers.state.facts import Inputs
from pytest_containers.state.warm import Outcome, Stage, Warm

if TYPE_CHECKING:
    from pytest_containers.engines.native import Container, Network
    from pytest_containers.plugin.manager import Containers, Manager
    from pytest_containers.plugin.recipe import Recipe
    from pytest_containers.services.base import Service
    from pytest_containers.state.seeds import Seed

__tracebackhide__ = hide_frames


NO_ENDPOINT = (
    "isolation='database' cannot have an endpoint: its address, database included, is read before "
    "any test has a database of its own, and would lead all of them to the common one; take "
    "isolation='server', or give the code under test the fixture's url()"
)


class Wanted(NamedTuple):
    """What is to be started.

    Attributes:
        spec: With the state as its image.
        what: The spec or service as the settings want it.
    """

    spec: ContainerSpec
    what: ContainerSpec | Service


class Provider:
    """Starts what recipes say. One per process."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._warm: Warm | None = None
        self._known: dict[tuple[Any, ...], Wanted] = {}
        self._shared: dict[tuple[Any, ...], Any] = {}
        self.outcomes: dict[tuple[str, str], Outcome] = {}
        self.shared_networks: list[Network] = []
        self.shared_containers: list[Container] = []

    @property
    def warm(self) -> Warm:
        """The states of the test run."""
        if self._warm is None:
            manager = self._manager
            worker = getattr(manager.config, "workerinput", {})
            fresh = manager.settings.get(settings.FRESH)
            self._warm = Warm(
                manager.engine, manager.config.rootpath,
                fresh_since=manager.began_at if fresh else None,
                run=worker.get("testrunuid"), tell=self._note, ignored=exported,
            )  # fmt: skip
        return self._warm

    def _note(self, outcome: Outcome) -> None:
        """Seeds may have one name and be two, as partials of one function are."""
        title, number = outcome.title, 1
        while (found := self.outcomes.get((outcome.label, title))) is not None:
            if found.made_at == outcome.made_at:
                return
            number += 1
            title = f"{outcome.title} #{number}"
        self.outcomes[outcome.label, title] = dataclasses.replace(outcome, title=title)

    # ----------------------------------------------------------------- what

    def wanted(
        self, recipe: Recipe, name: str, marks: Sequence[tuple[Any, Path]], *, build: bool = True
    ) -> Wanted | None:
        """What a recipe means here and now; None if a state would have to be made or looked for.

        Args:
            build: Make what is missing.
        """
        key = (id(recipe), name, tuple(id(value) for value, _ in marks))
        if recipe.constant and key in self._known:
            return self._known[key]
        what = self._overridden(recipe.what, name)
        wanted = self._resolved(recipe, what, name, recipe.seeds(marks), build)
        if recipe.constant and wanted is not None:
            self._known[key] = wanted
        return wanted

    def _overridden(self, what: ContainerSpec | Service, name: str) -> ContainerSpec | Service:
        image = self._manager.settings.image_for(name)
        if image is None:
            return what
        if isinstance(what, ContainerSpec):
            return dataclasses.replace(what, image=image)
        return what.of_image(image)

    def _resolved(
        self, recipe: Recipe, what: ContainerSpec | Service, name: str, seeds: Sequence[Seed],
        build: bool,
    ) -> Wanted | None:  # fmt: skip
        if isinstance(what, ContainerSpec) and not seeds:
            Inputs(recipe.inputs, recipe.folder)  # says what is not there, seed or not
            return Wanted(what, what)
        engine = self._manager.engine
        base = engine.image(what.image if isinstance(what, ContainerSpec) else what.source())
        spec = what if isinstance(what, ContainerSpec) else what.serve(base)
        stages = [self._led(recipe, name, one) for one in recipe.stages(what, base, seeds)]
        image = self.warm.known(base, stages)
        if image is None and not build:
            return None
        if image is None:
            image = self.warm.image(self._label(recipe, name), base, stages, name=name)
        return Wanted(dataclasses.replace(spec, image=image), what)

    def _led(self, recipe: Recipe, name: str, stage: Stage) -> Stage:
        """The same while the endpoint leads there: seeds may use the settings of the code."""
        endpoint = recipe.endpoint or named(name)
        if endpoint is None or not stage.traced:
            return stage
        act = stage.act

        def led(container: Container) -> None:
            endpoints = self._manager.endpoints
            endpoints.lead(endpoint, container)
            try:
                act(container)
            finally:
                endpoints.lead(endpoint, None)

        return dataclasses.replace(stage, act=led)

    def _label(self, recipe: Recipe, name: str) -> str:
        root = self._manager.config.rootpath
        return f"{os.path.relpath(recipe.folder, root)}::{name}".removeprefix(".::")

    # ---------------------------------------------------------------- where

    def provide(
        self, recipe: Recipe, request: pytest.FixtureRequest, containers: Containers,
        stack: ExitStack,
    ) -> Any:  # fmt: skip
        """What the fixture gives; it goes with `stack`."""
        name = request.fixturename or "container"
        if recipe.isolation == "database" and (recipe.endpoint or named(name)) is not None:
            raise SpecError(f"fixture {name!r}: {NO_ENDPOINT}")
        marks = marks_of(request.node, name)
        if recipe.isolation == "server":
            given = self._own(recipe, name, marks, containers, stack)
        else:
            given = self._common(recipe, name, marks)
            if recipe.isolation == "database":
                given = _own_database(given, stack)
        endpoint = recipe.endpoint or named(name)
        if endpoint is not None:
            endpoint.name = name  # made before its fixture had one
            container = given if recipe.service is None else given.container
            self._manager.endpoints.lead(endpoint, container)
            stack.callback(self._manager.endpoints.lead, endpoint, None)
        return given

    def _own(
        self, recipe: Recipe, name: str, marks: Sequence[tuple[Any, Path]], containers: Containers,
        stack: ExitStack,
    ) -> Any:  # fmt: skip
        wanted = self.wanted(recipe, name, marks)
        assert wanted is not None
        key = (id(recipe), name, tuple(id(value) for value, _ in marks))
        container = containers.start(wanted.spec, name, ahead=key)
        stack.callback(containers.remove, container, wait=False)
        return recipe.bound(wanted.what, container)

    def _common(self, recipe: Recipe, name: str, marks: Sequence[tuple[Any, Path]]) -> Any:
        """What all tests of the run share, in whichever process they are."""
        seeds = recipe.seeds(marks)
        key = (id(recipe), name, tuple(seed.identity for seed in seeds))
        if key in self._shared:
            found = self._shared[key]
            if isinstance(found, ContainersError):
                raise found
            _raise_if_ended(found, recipe)
            return found
        try:
            given = self._shared[key] = self._shared_start(recipe, name, marks)
        except ContainersError as error:
            self._shared[key] = error
            raise
        return given

    def _shared_start(self, recipe: Recipe, name: str, marks: Sequence[tuple[Any, Path]]) -> Any:
        engine = self._manager.engine
        wanted = self.wanted(recipe, name, marks)
        assert wanted is not None
        spec = self._manager.adjusted(name, wanted.spec)

        def make() -> Container:
            network = engine.create_network()
            return engine.run(spec, name=name, network=network)

        image = engine.image(spec.image)
        key = f"{self._label(recipe, name)}:{image.id}:{hash_of(spec)}"
        container = engine.shared(key, spec, make, name=name)
        self.shared_containers.append(container)
        if container.network is not None:
            self.shared_networks.append(container.network)
        given = recipe.bound(wanted.what, container)
        _raise_if_ended(given, recipe)
        return given


def _own_database(server: SqlService, stack: ExitStack) -> SqlService:
    """A database of a test's own on a shared server, cloned from the seeded one."""
    name = f"test_{secrets.token_hex(6)}"
    server.clone_database(name, server.database)
    stack.callback(server.drop_database, name)
    return server.of_database(name)


def _raise_if_ended(given: Any, recipe: Recipe) -> None:
    """Tell whoever comes next what somebody has done to what is everybody's."""
    container: Container = given if recipe.service is None else given.container
    spec, status = container.spec, container.status
    if not spec.ports and spec.ready is None:
        return  # a job may be over when it has done it
    if status in ("running", "paused", "created"):
        return
    code = container.exit_code
    ended = f"has ended with exit code {code}" if code is not None else f"was {status}"
    raise NotRunningError(
        f"container {container.name!r} is shared by all tests of the run "
        f"(isolation={recipe.isolation!r}) and {ended}; a test that ends it needs one of its own "
        "(isolation='server')",
        exit_code=code,
    )


def hash_of(spec: ContainerSpec) -> str:
    """Equal for specs that start the same; without their image."""
    import hashlib

    text = repr(dataclasses.replace(spec, image=None, ready=None))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
