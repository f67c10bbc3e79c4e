"""The choice of an engine by its name; an engine is imported on first use."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from pytest_containers.model.errors import (
    ContainersError,
    SettingsError,
    UnsupportedError,
    hide_frames,
)

if TYPE_CHECKING:
    from pytest_containers.engines.native import Engine as Engine
    from pytest_containers.model import engine as contract
    from pytest_containers.model.engine_options import EngineOptions, RegistrySettings
    from pytest_containers.model.kept import KeptRun
    from pytest_containers.model.machine import DaemonReport, EngineChoice, MachineFeature
    from pytest_containers.model.sharing import SharedPruned

__tracebackhide__ = hide_frames

DEFAULT = "native"
NAMES: tuple[str, ...] = ("native", "docker", "process")
AUTO = "auto"


class Broker(Protocol):
    """An address where other processes can join a run."""

    @property
    def address(self) -> str: ...
    def close(self) -> None:
        """Accept no more processes; idempotent."""


def create_engine(name: str = DEFAULT, **options: Any) -> contract.Engine:
    """Make an engine.

    Args:
        name: The name of the engine; ``"auto"`` takes the first one that works here.
        **options: The arguments of its class.

    Raises:
        SettingsError: No engine has that name.
        UnsupportedError: No engine works here.
    """
    name = engine_for(name, options.get("broker"))
    if name == "docker":
        from pytest_containers.engines.docker import DockerEngine

        engine: contract.Engine = DockerEngine(**options)
        return engine
    if name == "process":
        from pytest_containers.engines.process.engine import ProcessEngine

        return ProcessEngine(**options)
    from pytest_containers.engines.native import Engine

    return Engine(**options)


def engine_for(name: str, broker: str | None = None) -> str:
    """Return the name of the engine that a setting means.

    Args:
        name: The setting: the name of an engine, or ``"auto"``.
        broker: The address of the run to join, which decides what ``"auto"`` is.

    Raises:
        SettingsError: No engine has that name.
        UnsupportedError: No engine works here.
    """
    if name in NAMES:
        return name
    if name != AUTO:
        raise SettingsError(f"there is no engine {name!r}; there are {', '.join(NAMES)}, {AUTO}")
    if broker:
        return "docker" if broker.startswith("docker:") else "native"
    return _first_that_works()


@functools.cache
def _first_that_works() -> str:
    """Return the first engine that works here; decided once in a process, in some milliseconds."""
    from pytest_containers.engines.possible import first_engine

    name, reasons = first_engine(_no_daemon)
    if name:
        return name
    raise UnsupportedError(
        "no engine works here. "
        + "; ".join(f"{engine}: {reason}" for engine, reason in reasons.items())
        + ". `pytest-containers setup` prints what permits containers here; else start Docker, or "
        "set DOCKER_HOST",
        engine=AUTO,
    )


def _no_daemon() -> str:
    """Return why there is no daemon of Docker to work with; empty if there is one."""
    from pytest_containers.engines.docker.connection import lacks_package, ping
    from pytest_containers.engines.docker.endpoint import find_endpoint

    endpoint = find_endpoint()
    # A daemon on another machine has longer; only the process engine is left then.
    if ping(endpoint) or (endpoint.host and ping(endpoint, 10.0)):
        return lacks_package()
    return f"no Docker daemon answers at {endpoint}"


def described(name: str) -> str:
    """Return an engine in words for the header of a test run.

    Args:
        name: The setting: the name of an engine, or ``"auto"``.
    """
    try:
        taken = engine_for(name)
        if taken == "process":
            from pytest_containers.engines.process import LABEL

            return LABEL
        if taken != "docker":
            from pytest_containers.engines.shared_proc import native_words

            return native_words()
        from pytest_containers.engines.docker.endpoint import find_endpoint

        return f"docker engine at {find_endpoint()}"
    except ContainersError as error:
        return str(error)


def launch_ahead() -> None:
    """Launch a process for the run of the native engine, before its options are known."""
    from pytest_containers.runtime import launch

    launch.launch_ahead()


def begin_run(options: EngineOptions) -> None:
    """Start the run of the engine that will be made with `options`, which is imported meanwhile.

    Raises:
        SettingsError, UnsupportedError: It cannot be started; the engine would say the same.
    """
    import os

    from pytest_containers.model.home import default_home

    if engine_for(options["name"]) != "native":
        return  # its daemon runs already
    from pytest_containers.runtime import run

    run.begin_run(
        options["debug"],
        home=os.path.abspath(options["home"] or default_home()),
        identity=options["identity"],
        runner=options["runner"],
        max_containers=options["max_containers"],
        max_memory_bytes=options["max_memory_bytes"],
    )


def end_begun_run() -> None:
    """End the run of `begin_run` if no engine has taken it; idempotent."""
    from pytest_containers.runtime.run import end_begun

    end_begun()


def unshare(command: Sequence[str]) -> int:
    """Run a command of this machine with the ids of containers, and return its exit code.

    Raises:
        StartError: The machine refuses it.
    """
    from pytest_containers.engines.native.unshare import unshare

    return unshare(command)


def share_run(
    engine: Callable[[], contract.Engine], name: str = DEFAULT, home: str | None = None
) -> Broker:
    """Open the run of an engine to other processes.

    Args:
        engine: Returns the engine; called when the first process joins.
        name: The name of the engine, or ``"auto"``.
        home: The directory of the engine; None is the default.
    """
    with suppress(ContainersError):  # the process that needs a container tells of it
        if engine_for(name) == "docker":
            from pytest_containers.engines.docker.broker import DockerBroker

            return DockerBroker(home)
    from pytest_containers.engines.native.broker import NativeBroker

    def sharing() -> contract.Engine:
        chosen = engine()
        chosen.require("shares")
        return chosen

    return NativeBroker(sharing)


def prune_shared(
    repository: str, settings: RegistrySettings, *, older_than_s: float, dry_run: bool = False
) -> SharedPruned:
    """Remove old states and steps of builds from a repository that machines share.

    Args:
        repository: As in the setting ``containers_states``.
        settings: How registries are reached.

    Raises:
        RegistryError: The registry could not be reached, or refused.
    """
    from pytest_containers.images.shared import prune

    return prune.prune_shared(repository, settings, older_than_s, dry_run=dry_run)


def kept_runs(home: str | None = None) -> Sequence[KeptRun]:
    """Connect to all runs of the user that have kept containers.

    Args:
        home: The directory of the image store; None is the default.

    Raises:
        ContainersError: The directory that lists them is open to other users.
    """
    from pytest_containers.engines.native import kept

    return kept.kept_runs(home)


def machine_features(home: str | None) -> list[MachineFeature]:
    """Return the features of this machine, as a run of the native engine finds them.

    Args:
        home: The directory of the image store; None is the default.
    """
    import os

    from pytest_containers.model.home import default_home
    from pytest_containers.runtime import probe

    return probe.machine_features(os.path.abspath(home or default_home()))


def try_machine(home: str | None, identity: str) -> list[MachineFeature]:
    """Run containers of the native engine as tests would; return what worked.

    Args:
        home: The directory of the image store; None is the default.
        identity: The user mapping; see `pc.Engine`.
    """
    from pytest_containers.engines.native import trial

    return trial.try_machine(home, identity)


def begin_survey() -> Callable[[], list[DaemonReport]]:
    """Ask all endpoints of Docker's API; the function that is returned waits for the answers."""
    from pytest_containers.engines.docker import survey

    return survey.begin_survey()


def auto_choice(
    features: Sequence[MachineFeature], daemons: Sequence[DaemonReport]
) -> EngineChoice:
    """Return the engine that ``auto`` takes, for `pytest-containers doctor`.

    Args:
        features: What this machine offers the native engine.
        daemons: What `begin_survey` has found.
    """
    from pytest_containers.engines.possible import first_engine
    from pytest_containers.model.capabilities import MEANINGS, capabilities_of
    from pytest_containers.model.machine import EngineChoice

    name, reasons = first_engine(lambda: daemons[0].reason)  # of the endpoint that it takes
    if not name:
        return EngineChoice("", (), reasons)
    own = capabilities_of(name)
    lacks: list[str] = [capability for capability in MEANINGS if capability not in own]
    if name == DEFAULT:
        lacks += [feature.name for feature in features if not feature.present]
    return EngineChoice(name, tuple(lacks), reasons)


def __getattr__(name: str) -> object:
    """Import the class of the default engine, ``pc.Engine``, on first use."""
    if name != "Engine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pytest_containers.engines.native import Engine

    return Engine
