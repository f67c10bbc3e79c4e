"""Containers that all processes of a run share: one makes them, under a lock, and others join."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_containers.engines.docker.container import DockerContainer
from pytest_containers.engines.docker.core import DockerNetwork
from pytest_containers.model import errors
from pytest_containers.model.errors import ContainersError, hide_frames

if TYPE_CHECKING:
    from pytest_containers.engines.docker.core import DockerCore
    from pytest_containers.model.spec import ContainerSpec

__tracebackhide__ = hide_frames


def begin(
    core: DockerCore,
    key: str,
    spec: ContainerSpec,
    launch: Callable[[], Any],
    await_ready: Callable[[Any], None],
    name: str,
) -> Callable[[], DockerContainer]:
    """Begin to start a shared container; see `Engine.begin_shared`."""
    import hashlib

    from filelock import FileLock

    folder = core.home / "docker-runs" / core.run
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    record = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    # The process that makes it holds the lock until it is ready; it goes with the process.
    lock = FileLock(record.with_suffix(".lock"), thread_local=False)
    lock.acquire()
    if record.exists():
        lock.release()
        joined = _join(core, json.loads(record.read_text()), spec, name)
        return lambda: joined
    try:
        core.sharing.on = True
        try:
            container = launch()
        finally:
            core.sharing.on = False
    except BaseException as error:
        _note(record, {"error": type(error).__name__, "message": str(error)})
        lock.release()
        raise

    def finish() -> DockerContainer:
        try:
            await_ready(container)
        except BaseException as error:
            _note(record, {"error": type(error).__name__, "message": str(error)})
            raise
        else:
            network = container.network
            facts = {"container": container.id}
            if network is not None:
                facts |= {"network": network.id, "network_name": network.name}
                facts |= {"direct": network.direct}
            _note(record, facts)
        finally:
            lock.release()
        made: DockerContainer = container
        return made

    return finish


def _note(record: Path, facts: dict[str, Any]) -> None:
    new = record.with_suffix(".new")
    new.write_text(json.dumps(facts))
    new.replace(record)


def _join(
    core: DockerCore, record: dict[str, Any], spec: ContainerSpec, name: str
) -> DockerContainer:
    if "error" in record:
        kind = getattr(errors, record["error"], ContainersError)
        is_ours = isinstance(kind, type) and issubclass(kind, ContainersError)
        raise (kind if is_ours else ContainersError)(record["message"])
    for known in core.containers:
        if known.id == record["container"] and isinstance(known, DockerContainer):
            return known
    network = None
    if "network" in record:
        network = DockerNetwork(core, record["network"], record["network_name"], ())
        network.direct = record["direct"]
    container = DockerContainer(core, spec, core.finder.get(spec.image), name, network)
    facts = core.api.call(
        f"shared container {name!r}",
        lambda client: client.inspect_container(record["container"]),
    )
    container.join(facts)
    if not facts["State"]["Running"]:
        container.note_end(int(facts["State"]["ExitCode"]))
    return container
