"""Early starts: the containers of the next test start while the current test runs.

Only containers whose early start is indistinguishable from a normal start are started early
(`Recipe.may_be_ahead`). The look-ahead sends requests and does not wait for replies; it leaves no
thread in the test process, which may fork.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_containers.model import settings
from pytest_containers.model.engine import Container, Network
from pytest_containers.model.errors import ContainersError, hide_frames
from pytest_containers.model.reports import Warmup
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.plugin.marks import marks_of
from pytest_containers.plugin.workspace import LiveScope, Workspace
from pytest_containers.services.names import RECIPE

if TYPE_CHECKING:
    from pytest_containers.plugin.provider import Provider
    from pytest_containers.services.recipe import Recipe

__tracebackhide__ = hide_frames

_FREE_BYTES = 1 << 30
_FREE_PART = 10
_CHECK_AGAIN_S = 0.5

Key = tuple[Any, ...]


@dataclass(slots=True)
class _Prepared:
    spec: ContainerSpec
    container: Container | None
    failure: BaseException | None = None


class Lookahead:
    """The containers and the network that were made early for the next test."""

    def __init__(self, workspace: Workspace, provider: Callable[[], Provider]) -> None:
        self._workspace = workspace
        self._provider = provider
        self._prepared: dict[Key, _Prepared] = {}
        self._network: Network | None = None
        self._parents: list[str] = []
        self._limit = self._limit_of(workspace.settings.get(settings.LOOKAHEAD))
        self._memory_check: tuple[float, bool] = (-1.0, True)

    def _limit_of(self, option: str) -> int:
        if option.isdecimal():
            return int(option)
        if option == "off":
            return 0
        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        return max(1, len(os.sched_getaffinity(0)) // workers)

    # --------------------------------------------------------------- ahead

    def prepare(self, item: pytest.Item | None) -> None:
        """Remove unused containers, and start those that the test `item` will request."""
        self.discard()
        if item is None or not self._limit or item.get_closest_marker("skip") is not None:
            return
        before = False
        for name, recipe, scope in _recipes(item):
            if len(self._prepared) >= self._limit:
                return
            if recipe is None or scope != "function":
                before = True
                continue
            self._try(recipe, name, item, before)
            before = True

    def _try(self, recipe: Recipe, name: str, item: pytest.Item, before: bool) -> None:
        workspace = self._workspace
        try:
            marks = marks_of(item, name)
            resolved = self._provider().resolve(recipe, name, marks, build=False)
            # A hook that may change the spec must be called only once for each container.
            if resolved is None or workspace.has_spec_hooks or not self._has_memory():
                return
            if not recipe.may_be_ahead(resolved.spec, before):
                return
            spec = workspace.adjusted(name, resolved.spec)
            key = (id(recipe), name, tuple(id(value) for value, _ in marks))
            try:
                network = self._take_network() if spec.network else None
                warmup = self._warmup_of(recipe)
                container = workspace.engine.launch(spec, name=name, network=network, warmup=warmup)
                self._prepared[key] = _Prepared(spec, container)
            except (ContainersError, OSError) as error:
                self._prepared[key] = _Prepared(spec, None, error)
        except (ContainersError, OSError, pytest.UsageError):
            return  # the test that needs the container will raise the error

    def _warmup_of(self, recipe: Recipe) -> Warmup | None:
        """Return the request that warms a service up; None where the engine cannot send one."""
        service = recipe.service
        if service is None or "warmup" not in self._workspace.engine.capabilities:
            return None
        return service.warmup()

    def _take_network(self) -> Network:
        if self._network is None:
            parents = self._workspace.wider_networks("function")
            self._network = self._workspace.engine.create_network(parents)
            self._parents = [network.id for network in parents]
        return self._network

    def _has_memory(self) -> bool:
        """Return True if enough memory is free for early starts."""
        now = time.monotonic()
        if now - self._memory_check[0] > _CHECK_AGAIN_S:
            self._memory_check = (now, _memory_is_free())
        return self._memory_check[1]

    # ------------------------------------------------------------- when needed

    def network_for(self, containers: LiveScope) -> Network | None:
        """Hand over the network that was made early, if its parents are still the same."""
        if self._network is None or containers.scope != "function":
            return None
        network, self._network = self._network, None
        if [network.id for network in self._workspace.wider_networks("function")] != self._parents:
            network.remove(wait=False)
            self._drop_containers()
            return None
        return network

    def take(self, key: Key, spec: ContainerSpec, containers: LiveScope) -> Container | None:
        """Hand over the container that was started early for a key, if its spec is the same.

        Raises:
            ContainersError: The start has failed.
        """
        if containers.scope != "function" or key not in self._prepared:
            return None
        network = containers.network if spec.network else None
        prepared = self._prepared.pop(key, None)
        if prepared is None:  # it was removed with its network
            return None
        if prepared.failure is not None:
            raise prepared.failure
        container = prepared.container
        assert container is not None
        if prepared.spec != spec or container.network is not network:
            container.remove(wait=False)
            return None
        container.started()
        return container

    def discard(self) -> None:
        """Remove the containers and the network that no test has taken."""
        self._drop_containers()
        if self._network is not None:
            self._network.remove(wait=False)
            self._network = None

    def _drop_containers(self) -> None:
        prepared, self._prepared = self._prepared, {}
        for start in prepared.values():
            if start.container is not None:
                start.container.remove(wait=False)


def _recipes(item: pytest.Item) -> Iterator[tuple[str, Recipe | None, str]]:
    """Iterate over the container fixtures of a test: name, recipe if constant, scope."""
    info = getattr(item, "_fixtureinfo", None)
    if info is None:
        return
    for name in info.names_closure:
        definitions = info.name2fixturedefs.get(name)
        if definitions:
            recipe = getattr(definitions[-1].func, RECIPE, None)
            if recipe is not None:
                yield name, _chosen(recipe, item, name), definitions[-1].scope


def _chosen(recipe: Any, item: pytest.Item, name: str) -> Recipe | None:
    """Return the recipe for the parameter of a test; None if it is not the same for every test."""
    if recipe is True:
        return None
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    chosen: Recipe = recipe.variant(parameters[name]) if name in parameters else recipe
    return chosen


def _memory_is_free() -> bool:
    with open("/proc/meminfo") as file:
        facts = dict(line.split(":", 1) for line in file)
    free, total = (int(facts[name].split()[0]) << 10 for name in ("MemAvailable", "MemTotal"))
    return free > min(_FREE_BYTES, total // _FREE_PART) and _cgroup_has_memory()


def _cgroup_has_memory() -> bool:
    """Return True if the cgroup of a CI job has enough free memory, or no limit."""
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            limit = file.read().strip()
        if limit == "max":
            return True
        with open("/sys/fs/cgroup/memory.current") as file:
            used = int(file.read())
    except OSError:
        return True  # no cgroup of version 2
    return used < int(limit) - min(_FREE_BYTES, int(limit) // _FREE_PART)
