"""The run of a docker engine: its daemon, networks, volumes, and what ends it."""

from __future__ import annotations

import atexit
import itertools
import os
import re
import secrets
import shutil
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pytest_containers.engines.docker import labels
from pytest_containers.engines.docker.api import DaemonRefusal, DockerApi, product_of
from pytest_containers.engines.docker.events import DockerEvents
from pytest_containers.engines.docker.images import ImageFinder
from pytest_containers.engines.docker.place import DockerPlace, find_place, is_own_address
from pytest_containers.engines.docker.reaper import Reaper
from pytest_containers.model.errors import (
    ContainersError,
    RunLostError,
    SpecError,
    StartError,
    hide_frames,
)
from pytest_containers.model.home import default_home

if TYPE_CHECKING:
    from pytest_containers.engines.docker.endpoint import DockerEndpoint
    from pytest_containers.model.engine_options import PullPolicy
    from pytest_containers.model.reports import EventKind

__tracebackhide__ = hide_frames

_T = TypeVar("_T")
_THREADS = 8
_SUBNET_TRIES = 20
_NO_ADDRESSES = re.compile(r"address pool|overlaps|networks have overlapping", re.IGNORECASE)


class DockerNetwork:
    """A bridge network; its containers are also on the networks of its parents.

    Attributes:
        id: Its id.
        name: Its name in the daemon.
        parents: The networks whose containers its containers reach as well, and theirs.
        direct: True if this process can connect to the addresses of its containers.
    """

    def __init__(
        self, core: DockerCore, network_id: str, name: str, parents: tuple[DockerNetwork, ...]
    ) -> None:
        self._core = core
        self.id: str = network_id
        self.name: str = name
        self.parents: tuple[DockerNetwork, ...] = parents
        self.direct: bool = False
        self._users: list[Future[Any]] = []
        self._removed = False

    @property
    def all(self) -> list[DockerNetwork]:
        """This network, its parents and theirs, each once."""
        found = [self]
        for parent in self.parents:
            found += [each for each in parent.all if each not in found]
        return found

    def leaving(self, removal: Future[Any]) -> None:
        """Note the removal of a container, which goes on in the background."""
        self._users = [*(user for user in self._users if not user.done()), removal]

    def remove(self, *, wait: bool = True) -> None:
        """Remove the network; idempotent. Its containers must be removed first.

        Args:
            wait: Return only when the network is gone.
        """
        if self._removed:
            return
        self._removed = True
        self._core.forget_network(self)
        if wait:
            self._remove()
        else:
            self._core.in_background(self._remove)

    def _remove(self) -> None:
        wait_for(self._users)
        if self._core.ending:
            return
        with suppress(ContainersError):
            own = self._core.place.own_id
            if own:
                self._core.api.call(
                    f"network {self.name}",
                    lambda client: client.disconnect_container_from_network(
                        own, self.id, force=True
                    ),
                )
        try:
            self._core.api.call(
                f"removal of network {self.name}", lambda client: client.remove_network(self.id)
            )
        except DaemonRefusal as error:
            if error.status not in (403, 404):  # still in use: it goes at the end of the run
                raise

    def __repr__(self) -> str:
        return f"<DockerNetwork {self.name}>"


class DockerVolume:
    """A volume of a daemon.

    Attributes:
        id: Its name in the daemon.
        name: The same.
    """

    def __init__(self, core: DockerCore, name: str) -> None:
        self._core = core
        self.id: str = name
        self.name: str = name
        self._removed = False

    def remove(self) -> None:
        """Remove the volume and its files; idempotent."""
        if self._removed:
            return
        self._removed = True
        self._core.volumes.pop(self.id, None)
        try:
            self._core.api.call(
                f"removal of volume {self.name}",
                lambda client: client.remove_volume(self.name, force=True),
            )
        except DaemonRefusal as error:
            if error.status != 404:
                raise

    def __repr__(self) -> str:
        return f"<DockerVolume {self.name}>"


class Tracked(Protocol):
    """A container as its run sees it."""

    id: str
    name: str

    def note_start(self) -> int:
        """Count a start; return how many there were."""

    def note_end(self, code: int) -> None:
        """Note the end of its program."""

    def note_loss(self) -> None:
        """Wake those who wait: the daemon is gone."""

    def note_removal(self) -> None:
        """Note that the run has removed it."""


class DockerCore:
    """The run of an engine, which starts on first use. Thread-safe.

    Args:
        endpoint: The daemon.
        home: The directory for locks; None is the default.
        run: The run of another process to join; empty makes one.
        pull: When to ask registries for images.
        hub_prefix: Prepended to names of images without a registry.
        max_containers: The largest number of containers at a time; None is any.
        direct: Connect to the addresses of containers where this process can; False publishes
            all ports.

    Attributes:
        containers: Containers that were not removed, in the order of their starts.
        networks, volumes: Networks and volumes that were not removed, by id.
        ending: True while the run ends: the watcher removes what is left.
        shared: True in a thread that makes what all processes of the run share.
    """

    def __init__(
        self,
        endpoint: DockerEndpoint,
        *,
        home: Path | None = None,
        run: str = "",
        pull: PullPolicy = "missing",
        hub_prefix: str = "",
        max_containers: int | None = None,
        direct: bool = True,
    ) -> None:
        self.api: DockerApi = DockerApi(endpoint)
        self.home: Path = home or Path(default_home())
        self.run: str = run or secrets.token_hex(8)
        self.process: str = secrets.token_hex(8)
        self._owns_run = not run
        self.finder: ImageFinder = ImageFinder(self.api, pull, hub_prefix)
        self.may_be_direct = direct
        self._max_containers = max_containers
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._pool: ThreadPoolExecutor | None = None
        self._reaper: Reaper | None = None
        self._place: DockerPlace | None = None
        self._default_network: DockerNetwork | None = None
        self._numbers = itertools.count(1)
        self._names = itertools.count(1)
        self._closed = False
        self.ending: bool = False
        self.sharing: threading.local = threading.local()
        self.lost: RunLostError | None = None
        self.containers: dict[Tracked, None] = {}
        self.by_id: dict[str, Tracked] = {}
        self.networks: dict[str, DockerNetwork] = {}
        self.volumes: dict[str, DockerVolume] = {}
        self.events: DockerEvents = DockerEvents(
            self.api, f"{labels.RUN}={self.run}", self._ended, self._known, self._note_loss
        )

    # ---------------------------------------------------------------- the run

    @property
    def started(self) -> bool:
        """True if the run was started."""
        return self._reaper is not None

    def start(self) -> None:
        """Start the watcher and the stream of events, before anything is made.

        Raises:
            UnsupportedError: There is no daemon to work with.
            RunLostError: The daemon was lost.
        """
        with self._lock:
            if self._pid != os.getpid():
                raise ContainersError("this engine is that of the parent process; make another")
            if self._closed:
                raise ContainersError("this engine is closed; make another")
            if self.lost is not None:
                raise RunLostError(self.lost.message)
            if self._reaper is not None:
                return
            version = self.api.version
            own = f"{labels.RUN}={self.run}"
            # The controller of xdist cleans up after all workers, and each of them after itself.
            wanted = [own] if self._owns_run else [own, f"{labels.PROCESS}={self.process}"]
            self._reaper = Reaper(self.api.endpoint, version, wanted)
            self._pool = ThreadPoolExecutor(_THREADS, "pytest-containers docker")
            self.events.start()
            atexit.register(_close_at_exit, weakref.ref(self))

    @property
    def reaper_pid(self) -> int:
        """The id of the watcher process."""
        assert self._reaper is not None
        return self._reaper.pid

    @property
    def place(self) -> DockerPlace:
        """How this process reaches containers."""
        with self._lock:
            if self._place is None:
                self._place = find_place(self.api)
            return self._place

    def in_background(self, work: Callable[[], _T]) -> Future[_T]:
        """Do some work in another thread."""
        self.start()
        assert self._pool is not None
        return self._pool.submit(work)

    def check(self) -> None:
        """Raise if the run is gone.

        Raises:
            RunLostError: The daemon was lost.
        """
        if self.lost is not None:
            raise RunLostError(self.lost.message)

    def _note_loss(self) -> None:
        if self.ending or self._closed:
            return
        self.lost = self.api.gone("it has closed the stream of events, as it does when it ends")
        for container in list(self.containers):
            container.note_loss()

    def _ended(self, container_id: str, code: int) -> None:
        container = self.by_id.get(container_id)
        if container is not None:
            container.note_end(code)

    def _known(self, container_id: str, kind: EventKind) -> tuple[str, EventKind] | None:
        container = self.by_id.get(container_id)
        if container is None:
            return None
        if kind == "start" and container.note_start() > 1:
            kind = "restart"
        return container.name, kind

    # ------------------------------------------------------------------ names

    def labels(self, name: str = "") -> dict[str, str]:
        """Return the labels of what is made now."""
        own = {labels.RUN: self.run}
        if not getattr(self.sharing, "on", False):
            own[labels.PROCESS] = self.process
        return own | ({labels.NAME: name} if name else {})

    def next_name(self) -> str:
        """Return a name for a container without one."""
        return f"container-{next(self._numbers)}"

    def next_docker_name(self, name: str) -> str:
        """Return a name that nothing in the daemon has."""
        return f"pytest-{self.process[:8]}-{next(self._names)}-{name}"

    # ------------------------------------------------------ networks, volumes

    def create_network(self, parents: Sequence[Any] = ()) -> DockerNetwork:
        """Make a network; see `Engine.create_network`."""
        self.start()
        for parent in parents:
            if not isinstance(parent, DockerNetwork):
                raise SpecError(f"network {parent!r} is not one of engine 'docker'")
        network = _create_network(self, tuple(parents))
        self.networks[network.id] = network
        return network

    def forget_network(self, network: DockerNetwork) -> None:
        """Drop the record of a network that is removed."""
        self.networks.pop(network.id, None)
        if self._default_network is network:
            self._default_network = None

    def default_network(self) -> DockerNetwork:
        """Return the default network, for containers that name none."""
        with self._lock:
            if self._default_network is None:
                self._default_network = self.create_network()
            return self._default_network

    def create_volume(self) -> DockerVolume:
        """Make an empty volume."""
        self.start()
        name = self.next_docker_name("volume")
        self.api.call(
            f"creation of volume {name}",
            lambda client: client.create_volume(name, labels=self.labels()),
        )
        volume = self.volumes[name] = DockerVolume(self, name)
        return volume

    def add(self, container: Tracked) -> None:
        """Note a container.

        Raises:
            ContainersError: There are as many as there may be.
        """
        with self._lock:
            most = self._max_containers
            if most is not None and len(self.containers) >= most:
                raise ContainersError(
                    f"there are {most} containers already, as many as containers_max_containers "
                    "permits"
                )
            self.containers[container] = None

    # -------------------------------------------------------------------- end

    def close(self) -> None:
        """End all containers; idempotent. The watcher removes what there still is."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self.ending = True
            reaper, self._reaper = self._reaper, None
        for container in list(self.containers):
            container.note_removal()
        self.containers.clear()
        self.by_id.clear()
        self.networks.clear()
        self.volumes.clear()
        self.events.close()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if reaper is not None:
            reaper.finish()
            if self._owns_run:
                shutil.rmtree(self.home / "docker-runs" / self.run, ignore_errors=True)
        self.api.close()

    @property
    def facts(self) -> Mapping[str, Any]:
        """The facts of the run."""
        facts = self.api.facts
        return {
            "engine": "docker",
            "endpoint": self.api.endpoint.url,
            "product": product_of(facts),
            "version": facts.get("Version", ""),
            "api_version": self.api.version,
            "host": self.place.host,
            "identity": "daemon",
            "run": self.run,
        }


def _made_network(core: DockerCore, name: str) -> Mapping[str, Any]:
    """Have the daemon make a network: of its own addresses, and of others once these are used up.

    A daemon has addresses for about 30 networks unless it is told otherwise.
    """
    pool: dict[str, Any] | None = None
    for _ in range(_SUBNET_TRIES):
        try:
            made: Mapping[str, Any] = core.api.call(
                f"creation of network {name}",
                lambda client, pool=pool: client.create_network(  # type: ignore[misc]
                    name, driver="bridge", labels=core.labels(), ipam=pool
                ),
            )
        except DaemonRefusal as error:
            if not _NO_ADDRESSES.search(error.explanation):
                raise
            subnet = f"10.{secrets.randbelow(128) + 128}.{secrets.randbelow(256)}.0/24"
            pool = {"Driver": "default", "Config": [{"Subnet": subnet}]}
        else:
            return made
    raise StartError(
        "the Docker daemon has no addresses left for another network; remove networks "
        "(`docker network prune`), or give it more with default-address-pools"
    )


def _create_network(core: DockerCore, parents: tuple[DockerNetwork, ...]) -> DockerNetwork:
    """Make a network; see `Engine.create_network`."""
    name = core.next_docker_name("net")
    created = _made_network(core, name)
    network = DockerNetwork(core, created["Id"], name, parents)
    own = core.place.own_id
    if own:
        core.api.call(
            f"connection to network {name}",
            lambda client: client.connect_container_to_network(own, network.id),
        )
        network.direct = True
    elif core.place.here and core.may_be_direct:
        facts = core.api.call(f"network {name}", lambda client: client.inspect_network(network.id))
        configs = (facts.get("IPAM") or {}).get("Config") or [{}]
        network.direct = is_own_address(str(configs[0].get("Gateway") or "").partition("/")[0])
    return network


def _close_at_exit(core: weakref.ref[DockerCore]) -> None:
    alive = core()
    if alive is not None and alive._pid == os.getpid():  # not in a forked child
        with suppress(ContainersError):
            alive.close()
