"""Containers of the next test, started while this one runs.

Only what cannot be told from a start at its time is started early (`Recipe.may_be_ahead`), and
only requests are sent: nobody waits for an answer before the test that needs it, and no thread is
left behind in the test process, which may fork.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_containers import settings
from pytest_containers.errors import ContainersError, hide_frames
from pytest_containers.plugin.marks import RECIPE, marks_of

if TYPE_CHECKING:
    from pytest_containers.engines.native import Container, Network
    from pytest_containers.plugin.manager import Containers, Manager
    from pytest_containers.plugin.recipe import Recipe
    from pytest_containers.spec import ContainerSpec

__tracebackhide__ = hide_frames

_ROOM_BYTES = 1 << 30
_ROOM_PART = 10
_LOOK_AGAIN_S = 0.5

Key = tuple[Any, ...]


@dataclass(slots=True)
class _Prepared:
    spec: ContainerSpec
    container: Container | None
    failure: BaseException | None = None


class Lookahead:
    """What was started for the next test of this process."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._prepared: dict[Key, _Prepared] = {}
        self._network: Network | None = None
        self._parents: list[str] = []
        self._limit = self._limit_of(manager.settings.get(settings.LOOKAHEAD))
        self._room: tuple[float, bool] = (-1.0, True)

    def _limit_of(self, wanted: str) -> int:
        if wanted.isdecimal():
            return int(wanted)
        if wanted == "off":
            return 0
        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        return max(1, len(os.sched_getaffinity(0)) // workers)

    # --------------------------------------------------------------- ahead

    def prepare(self, item: pytest.Item | None) -> None:
        """Throw away what was not used, and start what `item` will ask for."""
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
        manager = self._manager
        try:
            marks = marks_of(item, name)
            wanted = manager.provider.wanted(recipe, name, marks, build=False)
            # A hook that may change the spec is not called twice: it may count, or tell somebody.
            if wanted is None or manager.has_spec_hooks or not self._has_room():
                return
            if not recipe.may_be_ahead(wanted.spec, before):
                return
            spec = manager.adjusted(name, wanted.spec)
            key = (id(recipe), name, tuple(id(value) for value, _ in marks))
            try:
                network = self._take_network() if spec.network else None
                service = recipe.service
                poke = None if service is None else service.first_word()
                container = manager.engine.begin(spec, name=name, network=network, poke=poke)
                self._prepared[key] = _Prepared(spec, container)
            except (ContainersError, OSError) as error:
                self._prepared[key] = _Prepared(spec, None, error)
        except (ContainersError, OSError, pytest.UsageError):
            return  # the test that needs it will meet it

    def _take_network(self) -> Network:
        if self._network is None:
            parents = self._manager.wider_networks("function")
            self._network = self._manager.engine.create_network(parents)
            self._parents = [one.id for one in parents]
        return self._network

    def _has_room(self) -> bool:
        """Whether memory is left for what nobody has asked for yet."""
        now = time.monotonic()
        if now - self._room[0] > _LOOK_AGAIN_S:
            self._room = (now, _memory_is_free())
        return self._room[1]

    # ---------------------------------------------------------------- in time

    def network_for(self, containers: Containers) -> Network | None:
        """The network that was made for a test, if it still fits; it is the caller's then."""
        if self._network is None or containers.scope != "function":
            return None
        network, self._network = self._network, None
        if [one.id for one in self._manager.wider_networks("function")] != self._parents:
            network.remove(wait=False)
            self._drop_containers()
            return None
        return network

    def take(self, key: Key, spec: ContainerSpec, containers: Containers) -> Container | None:
        """The container that was started for this, if it is the same; started for sure.

        Raises:
            ContainersError: What happened to it.
        """
        if containers.scope != "function" or key not in self._prepared:
            return None
        network = containers.network if spec.network else None
        prepared = self._prepared.pop(key, None)
        if prepared is None:  # it went with a network that did not fit
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
        """Throw away what is left."""
        self._drop_containers()
        if self._network is not None:
            self._network.remove(wait=False)
            self._network = None

    def _drop_containers(self) -> None:
        prepared, self._prepared = self._prepared, {}
        for one in prepared.values():
            if one.container is not None:
                one.container.remove(wait=False)


def _recipes(item: pytest.Item) -> Iterator[tuple[str, Recipe | None, str]]:
    """Fixtures of a test that start containers, in order: name, recipe if constant, scope."""
    info = getattr(item, "_fixtureinfo", None)
    if info is None:
        return
    for name in info.names_closure:
        definitions = info.name2fixturedefs.get(name)
        if definitions:
            recipe = getattr(definitions[-1].func, RECIPE, None)
            if recipe is not None:
                yield name, recipe if recipe is not True else None, definitions[-1].scope


def _memory_is_free() -> bool:
    with open("/proc/meminfo") as file:
        facts = dict(line.split(":", 1) for line in file)
    free, total = (int(facts[name].split()[0]) << 10 for name in ("MemAvailable", "MemTotal"))
    return free > min(_ROOM_BYTES, total // _ROOM_PART) and _group_is_free()


def _group_is_free() -> bool:
    """The same of the control group that the machine shows us, as in most CI."""
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            limit = file.read().strip()
        if limit == "max":
            return True
        with open("/sys/fs/cgroup/memory.current") as file:
            used = int(file.read())
    except OSError:
        return True  # none, or of version 1, whose root has no limit
    return used < int(limit) - min(_ROOM_BYTES, int(limit) // _ROOM_PART)
