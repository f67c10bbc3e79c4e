"""The base of all services: image, start, readiness, connection details, seeds."""

from __future__ import annotations

import copy
import dataclasses
import os
import shlex
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self
from urllib.parse import quote

from pytest_containers.model.arguments import check, check_fields
from pytest_containers.model.engine import Container, Engine, Network
from pytest_containers.model.errors import (
    ContainersError,
    NotRunningError,
    SpecError,
    UnsupportedError,
    hide_frames,
)
from pytest_containers.model.image import Image
from pytest_containers.model.results import ExecResult, Logs
from pytest_containers.model.spec import ContainerSpec, Port, VolumeMount
from pytest_containers.model.wait import Wait
from pytest_containers.services import certificates, checks
from pytest_containers.services.code_digest import code_digest
from pytest_containers.services.mounted import ServerMounts, check_data, copies
from pytest_containers.state.facts import Inputs
from pytest_containers.state.seeds import Seed, seeds_of
from pytest_containers.state.warm import Stage, WarmStates

if TYPE_CHECKING:
    from pytest_containers.model.reports import Warmup

__tracebackhide__ = hide_frames

_PLACES = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/usr/bin", "/sbin", "/bin")
SEED_LIMIT_S = 600.0
Isolation = Literal["server", "database", "none"]


class BaseService(ABC):
    """A kind of server.

    An instance describes how to start a server; the value of a fixture is a copy that is bound to
    a container. A subclass sets the class attributes and defines `serve`, and `prepare`, `settle`,
    `run_script` and `url` if necessary (docs/how-to/services.md).

    Args:
        image: The image, instead of the official one: a reference, or ``"host:"`` for the programs
            of this machine.
        env: Environment variables, as the official image documents them.
        tls: Serve TLS with a certificate of an authority of this user; see `sslrootcert`. The
            address is 127.0.0.1, which the certificate names.
        durable: Survive a power cut, as in production, which is slower. By default nothing is
            synced to disk, since the data is temporary (`fast` lists the settings).
        arguments: More arguments for the command line of the server.
        options: Fields of `ContainerSpec` to change.

    Attributes:
        folder: The directory that relative sources of mounts are relative to.
        reference: The official image, with its major version pinned.
        number: The port of the server in the container.
        programs: The programs that ``host:`` needs.
        packages: The Debian packages of these programs.
        configuration: Names below /etc that ``host:`` shows to the server.
        fast: Settings that make the server fast and unsafe; ignored if `durable`.
        clean: True if the server ends with exit code 0 after its stop signal.
        alone: True if the server needs no other container, so that it may start before them.
        has_databases: True for a `SqlService`, which can clone databases.
        scripts: Suffixes of the scripts that `run_script` can run.
        has_tls: True if the service implements ``tls=True``.
        tls_number: The port with TLS; 0 if it is `number` too.
        tls_scheme: The scheme of the URL with TLS; empty if it is `scheme` too.
        server_user: The user of the server in the container, who owns its private keys; empty is
            root.
        data_folders: Where nothing may be mounted, since the stored data is there.
        port_options, port_variables: Command-line options (``"-c port"`` is an option with its
            argument) and environment variables that change the port; they are refused.
        refused_variables: Patterns of variables that cannot be heeded, with what to do instead.
    """

    reference: ClassVar[str] = ""
    number: ClassVar[int] = 0
    programs: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[str] = ""
    configuration: ClassVar[tuple[str, ...]] = ()
    fast: ClassVar[tuple[str, ...]] = ()
    clean: ClassVar[bool] = True
    alone: ClassVar[bool] = True
    has_databases: ClassVar[bool] = False
    scripts: ClassVar[tuple[str, ...]] = (".sh",)
    port_options: ClassVar[tuple[str, ...]] = ()
    port_variables: ClassVar[tuple[str, ...]] = ()
    has_tls: ClassVar[bool] = False
    tls_number: ClassVar[int] = 0
    server_user: ClassVar[str] = ""
    data_folders: ClassVar[tuple[str, ...]] = ()
    refused_variables: ClassVar[Mapping[str, str]] = {}
    user: str = ""
    password: str = ""
    database: str = ""

    def __init__(
        self,
        *,
        image: str | Image | None = None,
        env: Mapping[str, str] | None = None,
        tls: bool = False,
        durable: bool = False,
        arguments: Sequence[str] = (),
        **options: Any,
    ) -> None:
        checks.check_names(type(self), options)
        kind = type(self).__name__
        check(kind, env=env or {}, tls=tls, durable=durable, arguments=arguments)
        check_fields(kind, options.items())
        self.folder: Path = Path()
        self.image: str | Image = image if image is not None else self.reference
        self.durable = durable
        self.env: dict[str, str] = dict(env or {})
        self.arguments: tuple[str, ...] = tuple(arguments)
        self.options: dict[str, Any] = options
        checks.check_port(type(self), self.arguments, self.env)
        checks.check_variables(type(self), self.env)
        checks.check_tls(type(self), tls)
        check_data(type(self), options.get("mounts", ()), self.data_folders)
        self.tls = tls
        if tls and self.tls_number:
            self.number = self.tls_number  # type: ignore[misc]  # that of the class is without TLS
        self._host_names: tuple[str, ...] = ()
        self._container: Container | None = None
        self._address: tuple[str, int] | None = None

    # ------------------------------------------------------- to define in a subclass

    @abstractmethod
    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the server, which runs on the data that `prepare` has made, if any."""

    def prepare(self, image: Image) -> Sequence[Stage]:
        """Return the stages that make the data directory, once for an image and options."""
        return ()

    def settle(self) -> None:  # noqa: B027 - most servers have nothing to do
        """Write all data to files after a seed, unless the server does so when it ends."""

    def warmup(self) -> Warmup | None:
        """Return a request that warms up a server that was started early; None sends nothing."""
        return None

    def run_script(self, path: Path) -> None:
        """Run a script of a seed; a class that overrides this sets `scripts` as well.

        Raises:
            SpecError: The service cannot run this kind of script.
        """
        if not path.name.endswith(".sh"):
            raise checks.unknown_script(self, path)
        self.exec(["/bin/sh", "-e"], input=path.read_bytes(), check=True)

    def known_by(self) -> str:
        """Return the part of the cache key that covers the options and the code of the service."""
        facts = [self.user, self.password, self.database, self.durable, self.arguments]
        return repr([code_digest(type(self)), *facts, sorted(self.env.items())])

    def spec(self, command: Sequence[str], ready: Wait, **fields: Any) -> ContainerSpec:
        """Return a spec with the options of the caller applied."""
        chosen: dict[str, Any] = {
            "entrypoint": (),
            # The certificate names 127.0.0.1: every container has another address.
            "ports": [Port(self.number, host=0) if self.tls else self.number],
            "ready": ready,
            "mounts": self.server_mounts().mounted,
            **fields,
            "env": {**self.client_env(), **fields.get("env", {})},
            **{name: value for name, value in self.options.items() if name != "mounts"},
        }
        spec = ContainerSpec(self.image, [*command, *self.arguments], **chosen)
        return spec.anchored(self.folder)

    def idle(self, image: Image) -> ContainerSpec:
        """Return a container with the mounts and variables of the server, for other programs."""
        return ContainerSpec(
            self.image,
            ["sleep", "infinity"],
            entrypoint=(),
            user="0",
            mounts=self.server_mounts().stored,
            env={**self.client_env(), **self.env},
        )

    def client_env(self) -> Mapping[str, str]:
        """Return variables with which clients in the container connect; `exec` adds them too."""
        return {}

    def server_mounts(self) -> ServerMounts:
        """Return the mounts, by what becomes of them."""
        return ServerMounts(self.options.get("mounts", ()), self.folder, self._owner())

    def _owner(self) -> str:
        user = str(self.options.get("user") or self.server_user)
        return "" if user in ("0", "root") else user

    @staticmethod
    def is_packaged(image: Image) -> bool:
        """Return True if the image has distribution packages, which no entrypoint sets up."""
        return bool(image.mounts) or not image.config.entrypoint

    # ----------------------------------------------------------------------- to start

    def source(self) -> str | Image:
        """Return the image, or the reference of the image to fetch.

        Raises:
            UnsupportedError: This machine lacks a program that ``host:`` needs.
        """
        if not isinstance(self.image, str) or not self.image.startswith("host:"):
            return self.image
        programs = {name: _program(name) for name in self.programs}
        missing = [name for name, path in programs.items() if path is None]
        if missing:
            raise UnsupportedError(
                f"{type(self).__name__} of host: needs {' and '.join(missing)} on this machine: "
                f"apt install {self.packages}, or name an image",
                missing=missing,
            )
        query = [f"etc={name}" for name in self.configuration]
        query += [f"bin={path}" for path in programs.values()]
        own_query = self.image.partition(":")[2].lstrip("?")
        return "host:?" + "&".join([*query, *([own_query] if own_query else [])])

    def stages(
        self, image: Image, seeds: Sequence[Seed], inputs: Inputs, limit_s: float = SEED_LIMIT_S
    ) -> list[Stage]:
        """Return the stages to run once, in order, before the server can start."""
        stages = [*self._files_first(image), *self.prepare(image)]
        served = self.serve(image)
        volumes = [mount for mount in served.mounts if isinstance(mount, VolumeMount)]
        if volumes:
            kept = [mount for mount in served.mounts if mount not in volumes]
            served = dataclasses.replace(served, mounts=kept)
        for seed in seeds:
            parts = {"the seed": seed.identity, "the service": self.known_by()}
            stage = Stage(
                f"seed {seed.title}",
                served,
                self._seeding(seed.apply),
                parts,
                inputs=inputs,
                module=seed.module,
                clean=self.clean,
                limit_s=limit_s,
            )
            stages.append(stage)
        return stages

    def _files_first(self, image: Image) -> list[Stage]:
        """Return the stages of files that belong to the user of the server."""
        copied, owner = self.server_mounts().copied, self._owner()
        spec = dataclasses.replace(self.idle(image), mounts=())
        stages = [copies(spec, copied, owner, self.folder)] if copied else []
        if self.tls:
            names = [*self._host_names, *self.options.get("aliases", ())]
            stages.append(certificates.stage(spec, names, owner))
        return stages

    def without_tls(self) -> Self:
        """Return a copy that serves no TLS."""
        plain = copy.copy(self)
        plain.tls = False
        return plain

    def named(self, name: str) -> Self:
        """Return a copy whose certificate has its host name; the same without ``tls=True``."""
        if not self.tls:
            return self
        named = copy.copy(self)
        named._host_names = tuple(filter(None, [name, self.options.get("hostname")]))
        return named

    def _seeding(self, apply: Callable[[Any], object]) -> Callable[[Container], object]:
        def act(container: Container) -> None:
            service = self.bound(container)
            apply(service)
            service.settle()

        return act

    def of_image(self, image: str | Image) -> Self:
        """Return a copy with another image."""
        changed = copy.copy(self)
        changed.image = image
        return changed

    def start(
        self,
        engine: Engine,
        *,
        seed: Any = None,
        inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
        name: str | None = None,
        network: Network | None = None,
        project: str | os.PathLike[str] = ".",
    ) -> Self:
        """Start the service without pytest; `container.remove` ends it.

        Args:
            engine: The engine of its container.
            seed, inputs: As in `fixture`.
            name: Its host name; None is the name of the class.
            network: Its network; None is the default network of the engine.
            project: The directory whose files are tracked as inputs of the seed.

        Raises:
            SeedError: The seed failed.
            ContainersError: See `Engine.run`.
        """
        folder = Path(project).resolve()
        name = name or type(self).__name__.lower()
        checks.check_scripts(self, seed, folder)
        engine.start()  # meanwhile, the image and its states are looked up
        base = engine.image(self.source())
        stages = self.named(name).stages(
            base, seeds_of(seed, folder), Inputs(checks.paths_of(inputs), folder)
        )
        image = WarmStates(engine, folder).image(name, base, stages, name=name)
        spec = dataclasses.replace(self.serve(base), image=image)
        return self.bound(engine.run(spec, name=name, network=network))

    def bound(self, container: Container) -> Self:
        """Return a copy that is bound to a running container."""
        bound = copy.copy(self)
        bound._container = container
        return bound

    def rebind(self, other: Self) -> None:
        """Lead to the container of another service of this kind from now on."""
        self._container = other._container

    def at(self, address: tuple[str, int]) -> Self:
        """Return a copy that knows its address and was not started."""
        placed = copy.copy(self)
        placed._address = address
        return placed

    # --------------------------------------------------------------- while it runs

    @property
    def container(self) -> Container:
        """The container of the service.

        Raises:
            NotRunningError: The service was not started.
        """
        if self._container is None:
            raise NotRunningError(f"this {type(self).__name__} was described and not started")
        return self._container

    @property
    def host(self) -> str:
        """The host address to connect to."""
        return (self._address or self.container.address(self.number))[0]

    @property
    def port(self) -> int:
        """The port at `host`."""
        return (self._address or self.container.address(self.number))[1]

    @property
    def name(self) -> str:
        """The host name for other containers of the test."""
        return self.container.name

    def url(self, driver: str | None = None) -> str:
        """Return the URL of the service.

        Args:
            driver: A driver to add to the scheme, as in SQLAlchemy: ``postgresql+psycopg://…``.
        """
        return self.url_at(self.host, self.port, driver)

    @property
    def dsn(self) -> str:
        """The URL without a driver."""
        return self.url()

    @property
    def internal_dsn(self) -> str:
        """The URL for other containers of the test, which do not have the file `sslrootcert`."""
        return self.url_at(self.name, self.number, None).partition("?")[0]

    @property
    def sslrootcert(self) -> str:
        """The file on the host with the certificate of the authority, for ``tls=True``.

        Raises:
            SpecError: The service was described without ``tls=True``.
        """
        if not self.tls:
            kind = type(self).__name__
            raise SpecError(f"{kind} has no certificate: describe it with tls=True", option="tls")
        return str(certificates.authority_file())

    scheme: ClassVar[str] = "tcp"
    tls_scheme: ClassVar[str] = ""

    def url_at(self, host: str, port: int, driver: str | None = None) -> str:
        """Return the URL of the service at another address."""
        scheme = (self.tls and self.tls_scheme) or self.scheme
        scheme = scheme if driver is None else f"{scheme}+{driver}"
        login = ""
        if self.user or self.password:
            secret = f":{quote(self.password, safe='')}" if self.password else ""
            login = f"{quote(self.user, safe='')}{secret}@"
        path = f"/{quote(self.database, safe='')}" if self.database else ""
        query = self.url_query(driver)
        return f"{scheme}://{login}{host}:{port}{path}" + (f"?{query}" if query else "")

    def url_query(self, driver: str | None) -> str:
        """Return the query of the URL, for schemes that have options in it."""
        return ""

    def snapshot(self, name: str | None = None) -> Image:
        """Return its files as an image, with all data written; see `Container.snapshot`."""
        self.settle()
        return self.container.snapshot(name)

    def clone(self, name: str | None = None, **changes: Any) -> Self:
        """Start a second server with the data of this one; both continue independently.

        See `Container.clone`; `container.remove` ends the clone before the end of the test.
        """
        self.settle()
        return self.bound(self.container.clone(name, **changes))

    def exec(self, command: Sequence[str] | str, **options: Any) -> ExecResult:
        """Run a program in its container; see `Container.exec`."""
        own = {name: value for name, value in self.client_env().items() if name not in self.env}
        if own:
            options["env"] = {**own, **(options.get("env") or {})}
        return self.container.exec(command, **options)

    def logs(self) -> Logs:
        """Return the output of the server; see `Container.logs`."""
        return self.container.logs()

    @property
    def version(self) -> str:
        """The version that the program of the server prints."""
        result = self.exec(self.version_command(), text=True)
        lines = (result.stdout or result.stderr).strip().splitlines()
        if result.returncode or not lines:
            raise ContainersError(f"{type(self).__name__}: its program prints no version")
        return str(lines[0])

    def version_command(self) -> Sequence[str]:
        """Return the command that prints the version."""
        return [self.programs[0], "--version"]

    def __repr__(self) -> str:
        container = "not started" if self._container is None else repr(self._container)
        return f"<{type(self).__name__} {container}>"


def writing(path: str, text: str) -> str:
    """Return the shell command that writes a file, for the script of `directories`."""
    return f"printf %s {shlex.quote(text)} > {shlex.quote(path)}"


def directories(image: str | Image, *paths: str, script: str = "") -> Stage:
    """Return a stage that makes directories once, rather than at every start.

    Args:
        image: The image of the service.
        script: A shell script to run afterwards.
    """
    command = f"mkdir -p {shlex.join(paths)}; {script}"

    def act(container: Container) -> None:
        container.exec(["sh", "-ec", command], check=True)

    spec = ContainerSpec(image, ["sleep", "infinity"], entrypoint=())
    return Stage("directories", spec, act, {"the directories": command}, traced=False)


def _program(name: str) -> str | None:
    """Return the path of a program of this machine, those in sbin included; None without one."""
    return shutil.which(name, path=os.pathsep.join(_PLACES))
