"""What all services have: an image, a way to be started, readiness, connection facts, a seed."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import os
import shlex
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self
from urllib.parse import quote

from pytest_containers.errors import (
    ContainersError,
    NotRunningError,
    UnsupportedError,
    hide_frames,
)
from pytest_containers.images.image import Image
from pytest_containers.services import options as checks
from pytest_containers.spec import ContainerSpec
from pytest_containers.state.facts import Inputs
from pytest_containers.state.seeds import Seed, seeds_of
from pytest_containers.state.warm import Stage, Warm
from pytest_containers.wait import Wait

if TYPE_CHECKING:
    from pytest_containers.engines.native import Container, Engine, Network
    from pytest_containers.engines.protocol import ExecResult, Logs

__tracebackhide__ = hide_frames

_PLACES = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/usr/bin", "/sbin", "/bin")
SEED_LIMIT_S = 600.0
_OF_FIXTURES = (
    "seed", "inputs", "seed_timeout_s", "isolation", "endpoint", "scope", "autouse", "name",
)  # fmt: skip
Isolation = Literal["server", "database", "none"]


class Service(ABC):
    """A kind of server: what it is started from, and how it is reached while it runs.

    Made with options, it says how to start one; fixtures give a copy of it that is bound to a
    container. A subclass sets the class attributes and defines `serve`, maybe `prepare`, `settle`,
    `run_script` and `url`; nothing else is needed for a new service (docs/how-to/services.md).

    Args:
        image: Another image than the official one: a reference, or ``"host:"`` for the programs of
            this machine's packages.
        env: Added to the environment, as the official image understands it.
        durable: Survive a power cut, as in production: slower. Off, nothing is synced to a disk
            that is going to be thrown away (`fast` lists the settings).
        arguments: More words for the server's command line.
        options: Fields of `ContainerSpec` that are to differ.

    Attributes:
        reference: The official image, its major version pinned.
        number: The port that it listens on, in the container.
        programs: What ``host:`` needs to have.
        packages: Debian's packages with these programs.
        configuration: Names below /etc that ``host:`` is to show.
        fast: Settings that make it fast and unsafe; used unless `durable`.
        clean: Whether it ends by itself when it is told to.
        alone: Whether it starts without other containers, so that it may be started before them.
        scripts: Ends of names of files that `run_script` applies.
        port_options, port_variables: Words of its command line, ``"-c port"`` being two, and of
            the environment that would let it listen elsewhere; they are refused.
    """

    reference: ClassVar[str] = ""
    number: ClassVar[int] = 0
    programs: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[str] = ""
    configuration: ClassVar[tuple[str, ...]] = ()
    fast: ClassVar[tuple[str, ...]] = ()
    clean: ClassVar[bool] = True
    alone: ClassVar[bool] = True
    scripts: ClassVar[tuple[str, ...]] = (".sh",)
    port_options: ClassVar[tuple[str, ...]] = ()
    port_variables: ClassVar[tuple[str, ...]] = ()
    user: str = ""
    password: str = ""
    database: str = ""

    def __init__(
        self,
        *,
        image: str | Image | None = None,
        env: Mapping[str, str] | None = None,
        durable: bool = False,
        arguments: Sequence[str] = (),
        **options: Any,
    ) -> None:
        checks.check_names(type(self), options)
        self.image: str | Image = image if image is not None else self.reference
        self.durable = durable
        self.env: dict[str, str] = dict(env or {})
        self.arguments: tuple[str, ...] = tuple(arguments)
        self.options: dict[str, Any] = options
        checks.check_port(type(self), self.arguments, self.env)
        self._container: Container | None = None

    @classmethod
    def fixture(
        cls,
        *,
        seed: Any = None,
        inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
        seed_timeout_s: float | None = None,
        isolation: Isolation = "server",
        endpoint: Any = None,
        scope: Any = "function",
        autouse: bool = False,
        name: str | None = None,
        **options: Any,
    ) -> Any:
        """A fixture whose value is such a service, ready to be used.

        Args:
            seed: What brings it into the state that tests want, done once and kept: a callable
                that gets the ready service, a script, a directory of scripts, or several of these.
            inputs: A file, directory or glob that the seed depends on beside what it is seen to
                use, or several.
            seed_timeout_s: How long a seed may take; None is 600.
            isolation: ``"server"``: one for each test (of the scope); ``"database"``: a database
                for each test on a server that all tests share; ``"none"``: one for all.
            endpoint: A variable to be set to its URL before any test is collected, or a dictionary
                of variables in which ``{host}``, ``{port}`` and ``{url}`` are replaced; the address
                stays the same and leads to the current test's (see `endpoint`). Not with
                ``isolation="database"``.
            scope, autouse, name: As `pytest.fixture`.
            **options: What the service takes.
        """
        checks.check_names(cls, options, _OF_FIXTURES)
        # Upwards, and only when somebody asks for a fixture: services work without pytest.
        from pytest_containers.plugin.fixtures import service_fixture

        return service_fixture(
            cls(**options), seed=seed, inputs=inputs, seed_timeout_s=seed_timeout_s,
            isolation=isolation, endpoint=endpoint, scope=scope, autouse=autouse, name=name,
            depth=3,
        )  # fmt: skip

    # ------------------------------------------------- for those who write services

    @abstractmethod
    def serve(self, image: Image) -> ContainerSpec:
        """How the server is started: on the data that `prepare` has made, if there is one."""

    def prepare(self, image: Image) -> Sequence[Stage]:
        """How its data directory is made, once per image and options, in order."""
        return ()

    def settle(self) -> None:  # noqa: B027 - most servers have nothing to do
        """Have everything written to files, after a seed; what the end of the server does not."""

    def first_word(self) -> dict[str, Any] | None:
        """What is said to a server that was started ahead, so that the test's first use is fast.

        Returns:
            ``text`` (of its output, after which), ``port`` and ``data`` (base64), or None.
        """
        return None

    def run_script(self, path: Path) -> None:
        """Apply a script of a seed; a class that defines this tells `scripts` too.

        Raises:
            SpecError: It is of no kind that this service knows.
        """
        if not path.name.endswith(".sh"):
            raise checks.unknown_script(self, path)
        self.exec(["/bin/sh", "-e"], input=path.read_bytes(), check=True)

    def known_by(self) -> str:
        """What makes the data of two of them different, beside image and seeds."""
        facts = [self.user, self.password, self.database, self.durable, self.arguments]
        return repr([_code_of(type(self)), *facts, sorted(self.env.items())])

    def spec(self, command: Sequence[str], ready: Wait, **fields: Any) -> ContainerSpec:
        """A spec with what the caller has asked for."""
        chosen: dict[str, Any] = {
            "entrypoint": (), "ports": [self.number], "ready": ready, **fields, **self.options,
        }  # fmt: skip
        return ContainerSpec(self.image, [*command, *self.arguments], **chosen)

    @staticmethod
    def is_packaged(image: Image) -> bool:
        """Whether it has a distribution's packages, rather than an entrypoint that sets it up."""
        return bool(image.mounts) or not image.config.entrypoint

    # ------------------------------------------------------------ for those who start

    def source(self) -> str | Image:
        """The image to ask for.

        Raises:
            UnsupportedError: ``host:`` has not what it needs.
        """
        if not isinstance(self.image, str) or not self.image.startswith("host:"):
            return self.image
        found = [_program(name) for name in self.programs]
        missing = [name for name, path in zip(self.programs, found, strict=True) if path is None]
        if missing:
            raise UnsupportedError(
                f"{type(self).__name__} of host: needs {' and '.join(missing)} on this machine: "
                f"apt install {self.packages}, or name an image",
                missing=missing,
            )
        wanted = [f"etc={name}" for name in self.configuration]
        wanted += [f"bin={path}" for path in found if path is not None]
        rest = self.image.partition(":")[2].lstrip("?")
        return "host:?" + "&".join([*wanted, *([rest] if rest else [])])

    def stages(
        self, image: Image, seeds: Sequence[Seed], inputs: Inputs, limit_s: float = SEED_LIMIT_S
    ) -> list[Stage]:
        """What has to be done once before it is served, in order."""
        stages = list(self.prepare(image))
        served = self.serve(image)
        for seed in seeds:
            parts = {"the seed": seed.identity, "the service": self.known_by()}
            stage = Stage(
                f"seed {seed.title}", served, self._seeding(seed.apply), parts, inputs=inputs,
                module=seed.module, clean=self.clean, limit_s=limit_s,
            )  # fmt: skip
            stages.append(stage)
        return stages

    def _seeding(self, apply: Callable[[Any], object]) -> Callable[[Container], object]:
        def act(container: Container) -> None:
            service = self.bound(container)
            apply(service)
            service.settle()

        return act

    def of_image(self, image: str | Image) -> Self:
        """The same of another image."""
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
        """Start one without pytest; `container.remove` ends it.

        Args:
            engine: Makes its container.
            seed, inputs: As in `fixture`.
            name: Its host name; None is the class's.
            network: None is the engine's own.
            project: The directory below which the seed's files are looked after.

        Raises:
            SeedError: The seed failed.
            ContainersError: See `Engine.run`.
        """
        folder = Path(project).resolve()
        name = name or type(self).__name__.lower()
        checks.check_scripts(self, seed, folder)
        base = engine.image(self.source())
        stages = self.stages(base, seeds_of(seed, folder), Inputs(checks.paths_of(inputs), folder))
        image = Warm(engine, folder).image(name, base, stages, name=name)
        spec = dataclasses.replace(self.serve(base), image=image)
        return self.bound(engine.run(spec, name=name, network=network))

    def bound(self, container: Container) -> Self:
        """The same, running in `container`."""
        bound = copy.copy(self)
        bound._container = container
        return bound

    # --------------------------------------------------------------- while it runs

    @property
    def container(self) -> Container:
        """Its container.

        Raises:
            NotRunningError: It was not started.
        """
        if self._container is None:
            raise NotRunningError(f"this {type(self).__name__} was described and not started")
        return self._container

    @property
    def host(self) -> str:
        """Where to connect to."""
        return self.container.address(self.number)[0]

    @property
    def port(self) -> int:
        """The port at `host`."""
        return self.container.address(self.number)[1]

    @property
    def name(self) -> str:
        """Its host name for other containers of the test."""
        return self.container.name

    def url(self, driver: str | None = None) -> str:
        """Where it is, as a URL.

        Args:
            driver: Added to the scheme as SQLAlchemy has it: ``postgresql+psycopg://…``.
        """
        return self.url_at(self.host, self.port, driver)

    @property
    def dsn(self) -> str:
        """The same without a driver."""
        return self.url()

    @property
    def internal_dsn(self) -> str:
        """The same for other containers of the test."""
        return self.url_at(self.name, self.number, None)

    scheme: ClassVar[str] = "tcp"

    def url_at(self, host: str, port: int, driver: str | None = None) -> str:
        """The same for another address that leads to it."""
        scheme = self.scheme if driver is None else f"{self.scheme}+{driver}"
        login = ""
        if self.user or self.password:
            secret = f":{quote(self.password, safe='')}" if self.password else ""
            login = f"{quote(self.user, safe='')}{secret}@"
        path = f"/{quote(self.database, safe='')}" if self.database else ""
        return f"{scheme}://{login}{host}:{port}{path}"

    def snapshot(self, name: str | None = None) -> Image:
        """Freeze its files as they are, with all it has been told; see `Container.snapshot`."""
        self.settle()
        return self.container.snapshot(name)

    def clone(self, name: str | None = None, **changes: Any) -> Self:
        """A second one from the state of this one; both go on independently.

        See `Container.clone`; its `container.remove` ends it before the test does.
        """
        self.settle()
        return self.bound(self.container.clone(name, **changes))

    def exec(self, command: Sequence[str] | str, **options: Any) -> ExecResult:
        """Run a program in its container; see `Container.exec`."""
        return self.container.exec(command, **options)

    def logs(self) -> Logs:
        """What the server has written; see `Container.logs`."""
        return self.container.logs()

    @property
    def version(self) -> str:
        """The server's version, as its program tells it."""
        result = self.exec(self.version_command(), text=True)
        lines = (result.stdout or result.stderr).strip().splitlines()
        if result.returncode or not lines:
            raise ContainersError(f"{type(self).__name__}: its program does not tell its version")
        return str(lines[0])

    def version_command(self) -> Sequence[str]:
        """What tells it."""
        return [self.programs[0], "--version"]

    def __repr__(self) -> str:
        where = "not started" if self._container is None else repr(self._container)
        return f"<{type(self).__name__} {where}>"


def directories(image: str | Image, *paths: str, script: str = "") -> Stage:
    """A stage that makes directories, once, so that nobody has to at every start.

    Args:
        image: Of the service.
        script: For a shell, once they are there.
    """
    command = f"mkdir -p {shlex.join(paths)}; {script}"

    def act(container: Container) -> None:
        container.exec(["sh", "-ec", command], check=True)

    spec = ContainerSpec(image, ["sleep", "infinity"], entrypoint=())
    return Stage("directories", spec, act, {"the directories": command}, traced=False)


_codes: dict[str, str] = {}


def _code_of(kind: type) -> str:
    """A digest of the files that a service and its bases are in."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name not in _codes:
        _codes[name] = _digest_of(kind)
    return _codes[name]


def _digest_of(kind: type) -> str:
    hasher = hashlib.sha256(kind.__qualname__.encode())
    for base in kind.__mro__[:-1]:
        path = getattr(sys.modules.get(base.__module__), "__file__", None)
        if path is not None:
            hasher.update(Path(path).read_bytes())
    return hasher.hexdigest()


def _program(name: str) -> str | None:
    """Where this machine has a program, also those that are no user's."""
    return shutil.which(name, path=os.pathsep.join(_PLACES))
