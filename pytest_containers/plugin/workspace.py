"""The state that the parts of the plugin share: settings, engine, live scopes."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import pytest

from pytest_containers.model import settings
from pytest_containers.model.engine import Container, Engine, Image, Network
from pytest_containers.model.errors import (
    ContainersError,
    RunLostError,
    SpecError,
    UnsupportedError,
    hide_frames,
)
from pytest_containers.model.settings import Settings
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.plugin.journal import ContainerLife, Journal
from pytest_containers.plugin.keep import Keeper
from pytest_containers.plugin.startup import settings_of, worker_facts
from pytest_containers.services.names import SCOPES

if TYPE_CHECKING:
    from pytest_containers.plugin.patience import Patience
    from pytest_containers.services.endpoints import Endpoints
    from pytest_containers.services.service import Service

__tracebackhide__ = hide_frames

_log = logging.getLogger(__name__)


class LiveScope(Protocol):
    """The containers of a live scope; see `scopes.Containers`."""

    scope: str
    failed: list[Container]
    fixtures: dict[pytest.FixtureRequest, None]

    @property
    def running(self) -> Sequence[Container]: ...
    @property
    def network(self) -> Network: ...
    @property
    def network_if_made(self) -> Network | None: ...
    def start(
        self, spec: ContainerSpec, name: str, *, wait_ready: bool = True, ahead: Any = None
    ) -> Container: ...
    def release(self, container: Container, *, wait: bool = False) -> None: ...


class Workspace:
    """The settings, engine and live scopes of a process.

    Attributes:
        config: The configuration of the test run.
        settings: The settings of the test run.
        live: The live scopes, widest first.
        shared_containers: Containers that this process shares with others.
        shared_networks: The networks of these containers.
        shared_lives: Those of these containers that this process has started, with their lives.
        facts: What the controller of xdist has sent to this worker.
        began_at: The start of the test run, in seconds since the epoch.
        keeper: Keeps containers after the test run.
        journal: What happened to the containers and states of this process.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.settings: Settings = settings_of(config)
        self._pid = os.getpid()
        self._engine: Engine | None = None
        self._patience: tuple[Patience | None] | None = None
        self._endpoints: Endpoints | None = None
        self.live: list[LiveScope] = []
        self.shared_networks: list[Network] = []
        self.shared_containers: list[Container] = []
        self.shared_lives: dict[Container, ContainerLife] = {}
        self.facts: Mapping[str, Any] = worker_facts(config)
        self.began_at: float = self.facts.get("containers_began", time.time())
        self.keeper: Keeper = Keeper(
            self.settings,
            lambda: self.engine,
            debugger=bool(getattr(config.option, "usepdb", False)),
        )
        self.journal: Journal = Journal(self.worker, detailed=config.get_verbosity() > 0)

    @property
    def ours(self) -> bool:
        """True if this process made the workspace; False in a forked child."""
        return self._pid == os.getpid()

    def loss(self) -> RunLostError | None:
        """Why the run is gone, if it is."""
        return None if self._engine is None or not self.ours else self._engine.lost

    def drop_run(self) -> None:
        """Let the next use of `engine` make another run, since the run is lost."""
        endpoints, self._endpoints = self._endpoints, None
        if endpoints is not None:
            endpoints.close()
        self.shared_containers.clear()
        self.shared_networks.clear()
        self.shared_lives.clear()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    @property
    def engine(self) -> Engine:
        """The engine; in a worker of xdist it joins the run of the controller."""
        if self._engine is None:
            from pytest_containers.engines.choose import create_engine
            from pytest_containers.model.engine_options import engine_options
            from pytest_containers.plugin.displays import display_of

            options = engine_options(self.settings)
            if options["sharing"] is not None:
                options["sharing"] = dataclasses.replace(
                    options["sharing"],
                    run=self.facts.get("testrunuid"),
                    warn=self.journal.warnings.append,
                )
            try:
                self._engine = create_engine(
                    **options,
                    broker=self.facts.get("containers_broker"),
                    project=self.config.rootpath,
                    display=display_of(self.config),
                )
                if self._engine.name == "docker":
                    self._engine.start()  # now is known whether there is a daemon
            except UnsupportedError as error:
                self._engine = None
                if self.settings.get(settings.REQUIRED):
                    raise
                pytest.skip(error.message)
            if self.settings.get(settings.LOGS) == "live" and self.patience is not None:
                from pytest_containers.plugin.live_logs import show_logs

                show_logs(self._engine, self.patience.write)
        return self._engine

    @property
    def patience(self) -> Patience | None:
        """What tells of long waits on the terminal; None with ``-q``."""
        if self._patience is None:
            from pytest_containers.plugin.displays import open_output
            from pytest_containers.plugin.patience import Patience

            fd = open_output(self.config)
            self._patience = (None if fd is None else Patience(fd),)
        return self._patience[0]

    def watch(self, describe: Callable[[], str]) -> AbstractContextManager[None]:
        """Tell what the body waits for if it takes long; see `Patience.watch`."""
        return nullcontext() if self.patience is None else self.patience.watch(describe)

    @property
    def endpoints(self) -> Endpoints:
        """The endpoints of this process, with their containers."""
        if self._endpoints is None:
            from pytest_containers.services.endpoints import Endpoints

            self._endpoints = Endpoints(self.engine, self.worker)
        return self._endpoints

    @property
    def worker(self) -> str:
        """The worker of xdist that this process is, ``gw0``; empty for none."""
        return str(self.facts.get("workerid", ""))

    def count_refused(self) -> None:
        """Add the connections that were refused since the last container to the endpoints."""
        if self._endpoints is not None:
            self._endpoints.count_refused()

    @property
    def has_spec_hooks(self) -> bool:
        """True if a hook may change specs."""
        return bool(self.config.hook.pytest_containers_spec.get_hookimpls())

    def security_opt(self, options: Sequence[str]) -> Sequence[str]:
        """Return a container's options as the settings change them."""
        chosen: Sequence[str] = self.settings.get(settings.SECURITY_OPT, options or None)
        return chosen or options

    def adjusted(self, name: str, spec: ContainerSpec) -> ContainerSpec:
        """Return a spec with the changes of the settings and of the hook."""
        timeout_s = self.settings.get(settings.READY_TIMEOUT, spec.ready_timeout_s)
        if timeout_s != spec.ready_timeout_s:
            spec = dataclasses.replace(spec, ready_timeout_s=timeout_s)
        if spec.network and self.settings.get(settings.EGRESS, spec.egress) != bool(spec.egress):
            spec = dataclasses.replace(spec, egress=not spec.egress)
        security_opt = self.security_opt(spec.security_opt)
        if security_opt != spec.security_opt:
            spec = dataclasses.replace(spec, security_opt=security_opt)
        changed = self.config.hook.pytest_containers_spec(config=self.config, name=name, spec=spec)
        return spec if changed is None else changed

    def image(self, reference: str, pull: str | None = None) -> Image:
        """Return an image, fetched if the argument or the setting says so."""
        return self.engine.image(reference, pull=self.settings.get(settings.PULL, pull))

    def build(
        self,
        context: Path,
        dockerfile: str | os.PathLike[str] | None,
        tags: Sequence[str],
        options: Mapping[str, Any],
    ) -> Image:
        """Build an image from a Dockerfile, and show its steps on the output of pytest."""
        from pytest_containers.model.build import BuildOptions, epoch_of
        from pytest_containers.plugin.build_display import StepsDisplay
        from pytest_containers.plugin.displays import RECORDER

        names = {field.name for field in dataclasses.fields(BuildOptions)}
        for name in options:
            if name not in names:
                raise SpecError(
                    f"{name!r} is not an option of a build; there are {', '.join(sorted(names))}"
                )
        build_options = BuildOptions(**{"epoch": epoch_of(), **options})
        self.engine.require("builds")
        recorder = self.config.pluginmanager.get_plugin(RECORDER)
        name = tags[0] if tags else os.path.relpath(context)
        with nullcontext() if recorder is None else recorder.building(name):
            return self.engine.build(
                context,
                dockerfile=dockerfile,
                tags=tags,
                options=build_options,
                display=StepsDisplay(self.config),
            )

    def service_class(self, kind: str | type[Service]) -> type[Service]:
        """Return the class of a service; a class is returned as it is.

        Raises:
            SpecError: No service has that name.
        """
        if isinstance(kind, type) and hasattr(kind, "serve"):
            return kind
        if not isinstance(kind, str):
            raise SpecError(
                f"service {kind!r} is not usable; it must be a class of pytest_containers.services "
                "or its name, such as 'redis'"
            )
        from pytest_containers import services

        added = {
            name.lower(): service
            for classes in self.config.hook.pytest_containers_services(config=self.config)
            for name, service in classes.items()
        }
        names = {name.lower(): name for name in services.__all__}
        lower_name = kind.lower()
        if lower_name in added:
            return cast("type[Service]", added[lower_name])
        if lower_name not in names:
            offered = ", ".join(sorted({*names, *added}))
            raise SpecError(f"there is no service {kind!r}; there are {offered}")
        # Only this one is imported.
        return cast("type[Service]", getattr(services, names[lower_name]))

    def wider_networks(self, scope: str) -> list[Network]:
        """Return the networks of all live wider scopes."""
        wider = SCOPES[: SCOPES.index(scope)]
        return self.shared_networks + [
            live.network_if_made
            for live in self.live
            if live.scope in wider and live.network_if_made is not None
        ]

    def finish(self) -> None:
        """Do what the end of the test run asks for, while the run still lives."""
        self._give_back_temporary_files()
        self._keep_shared()
        self._finish_sharing()

    def _give_back_temporary_files(self) -> None:
        """Let pytest remove what users of containers have left in its temporary directories."""
        # There is no public way to it that does not make the directory.
        factory = getattr(self.config, "_tmp_path_factory", None)
        folder = getattr(factory, "_basetemp", None)
        if self._engine is None or folder is None:
            return
        try:
            self._engine.give_back(folder)
        except ContainersError as error:
            _log.warning("files of containers below %s stay as they are: %s", folder, error)

    def _finish_sharing(self) -> None:
        """Wait until what other machines may use is pushed."""
        if self._engine is not None:
            with self.watch(lambda: "the push of states that other machines may use"):
                self._engine.finish_sharing()

    def _keep_shared(self) -> None:
        """Keep the shared containers that the settings name, at the end of the test run."""
        if self.worker:
            return  # others may still use them
        for container, life in self.shared_lives.items():
            try:
                self.keeper.keep(container, life)
            except ContainersError as error:
                _log.warning("container %r is not kept: %s", container.name, error)

    def close(self) -> None:
        """End the run."""
        if self._endpoints is not None:
            self._endpoints.close()
        engine, self._engine = self._engine, None
        if engine is not None and self.ours:
            engine.close()
        if self._patience is not None and self._patience[0] is not None:
            self._patience[0].close()
