"""Recipes: the checked arguments of `container_fixture` and `Service.fixture`."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pytest_containers.model.arguments import SECONDS, require
from pytest_containers.model.engine import Container
from pytest_containers.model.errors import SpecError, hide_frames
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec, Port, Tmpfs
from pytest_containers.services.base import SEED_LIMIT_S, BaseService, Isolation
from pytest_containers.services.checks import check_scripts, paths_of
from pytest_containers.services.endpoints import Endpoint
from pytest_containers.state.facts import Inputs
from pytest_containers.state.seeds import Seed, seeds_of
from pytest_containers.state.warm import Stage

__tracebackhide__ = hide_frames

NO_ENDPOINT = (
    "isolation='database' cannot have an endpoint: its address includes the database and is read "
    "before any test has its own, so all tests would share one; use isolation='server', or pass "
    "the url() of the fixture to the code under test"
)


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """The checked description of a fixture; equal only to itself.

    Attributes:
        description: The container or service to start.
        seed, inputs, seed_timeout_s, isolation: See `container_fixture`.
        endpoint: The fixed address that forwards to the container.
        folder: The directory that relative paths start from.
        constant: True if the recipe is the same for every test.
        per_worker: True if each worker of xdist has a shared container of its own.
        remake: Makes the description with other options, for parametrized fixtures.
    """

    description: ContainerSpec | BaseService
    seed: Any = None
    inputs: Any = ()
    seed_timeout_s: float | None = None
    isolation: Isolation = "server"
    endpoint: Endpoint | None = None
    folder: Path = Path()
    constant: bool = False
    per_worker: bool = False
    remake: Callable[..., ContainerSpec | BaseService] | None = None
    _variants: list[tuple[Any, Recipe]] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        if self.isolation not in get_args(Isolation):
            raise SpecError(
                f"isolation {self.isolation!r} is not one of {', '.join(get_args(Isolation))}"
            )
        if self.isolation == "database" and not (
            self.service is not None and self.service.has_databases
        ):
            raise SpecError(
                "isolation='database' is for SQL services (Postgres, MariaDB, MySQL); this fixture "
                "has no databases: use 'server' or 'none'"
            )
        if self.endpoint is not None and not isinstance(self.endpoint, Endpoint):
            raise SpecError(
                f"endpoint={self.endpoint!r} is not usable; it must be made by "
                "pytest_containers.endpoint()"
            )
        if self.isolation == "database" and self.endpoint is not None:
            raise SpecError(NO_ENDPOINT)
        require("fixture", "seed_timeout_s", self.seed_timeout_s, SECONDS)
        object.__setattr__(self, "inputs", paths_of(self.inputs))
        if isinstance(self.description, ContainerSpec):
            object.__setattr__(self, "description", self.description.anchored(self.folder))
        else:
            self.description.folder = self.folder

    @property
    def service(self) -> BaseService | None:
        """The service; None if the recipe is for a plain container."""
        return self.description if isinstance(self.description, BaseService) else None

    def variant(self, parameter: Any) -> Recipe:
        """Return the recipe for a parameter of the fixture.

        Args:
            parameter: An image, or a dictionary of options.

        Raises:
            SpecError: It is something else, an option is wrong, or the URL of the endpoint differs.
        """
        for earlier, recipe in self._variants:
            if earlier is parameter or (type(earlier) is type(parameter) and earlier == parameter):
                return recipe
        options = parameter if isinstance(parameter, Mapping) else {"image": parameter}
        if self.remake is None or not isinstance(options.get("image", ""), str | Image):
            raise SpecError(
                f"parameter {parameter!r} of a container fixture is not usable; it must be an "
                "image, or a dictionary of options"
            )
        description = self.remake(**options)
        recipe = dataclasses.replace(self, description=description, _variants=[])
        self._check_url(recipe, parameter)
        self._variants.append((parameter, recipe))
        return recipe

    def _check_url(self, variant: Recipe, parameter: Any) -> None:
        base, changed = self.service, variant.service
        if self.endpoint is None or base is None or changed is None:
            return
        if base.url_at(*self.endpoint.address) != changed.url_at(*self.endpoint.address):
            raise SpecError(
                f"parameter {parameter!r} changes the URL, which the endpoint has announced "
                "already; let all parameters have the same user, password and database"
            )

    def seeds(self, marks: Sequence[tuple[Any, Path]] = ()) -> list[Seed]:
        """Return the seeds of the fixture, and then those of marks.

        Args:
            marks: Seeds, each with the directory that its relative paths start from.
        """
        seeds: list[Seed] = []
        for value, folder in [(self.seed, self.folder), *marks]:
            seeds += seeds_of(value, folder)
            if self.service is not None:
                check_scripts(self.service, value, folder)
        return seeds

    def stages(
        self, description: ContainerSpec | BaseService, base: Image, seeds: Sequence[Seed]
    ) -> list[Stage]:
        """Return the stages to run once before the container can start."""
        inputs = Inputs(self.inputs, self.folder)
        limit_s = self.seed_timeout_s or SEED_LIMIT_S
        if isinstance(description, BaseService):
            return description.stages(base, seeds, inputs, limit_s)
        return [
            Stage(
                f"seed {seed.title}",
                description,
                seed.apply,
                {"the seed": seed.identity},
                inputs=inputs,
                module=seed.module,
                limit_s=limit_s,
            )
            for seed in seeds
        ]

    def bound(self, description: ContainerSpec | BaseService, container: Container) -> Any:
        """Return the value of the fixture: the container, or a service that is bound to it."""
        if isinstance(description, BaseService):
            return description.bound(container)
        return container

    def may_be_ahead(self, spec: ContainerSpec, others_before: bool) -> bool:
        """Return True if the test cannot observe that its container was started early.

        False if the container uses something that a fixture of the test may still change (files or
        servers of the host, containers started before it), or a fixed port of the host.
        """
        service = self.service
        return (
            self.constant
            and self.isolation == "server"
            and all(isinstance(mount, Tmpfs) for mount in spec.parsed_mounts)
            and not spec.host_ports
            and not any(port.host for port in spec.parsed_ports)
            and (not others_before or (service is not None and service.alone))
        )


def security_opt_of(description: ContainerSpec | BaseService) -> Sequence[str]:
    """Return the ``security_opt`` of a container or service."""
    if isinstance(description, ContainerSpec):
        return description.security_opt
    options: Sequence[str] = description.options.get("security_opt", ())
    return options


def with_security_opt(
    description: ContainerSpec | BaseService, options: Sequence[str]
) -> ContainerSpec | BaseService:
    """Return a container or service with another ``security_opt``."""
    if options == security_opt_of(description):
        return description
    if isinstance(description, ContainerSpec):
        return dataclasses.replace(description, security_opt=options)
    changed = copy.copy(description)
    changed.options = {**description.options, "security_opt": options}
    return changed


def published(
    description: ContainerSpec | BaseService, number: int, host_port: int
) -> ContainerSpec | BaseService:
    """Return a container or service with one of its ports at a fixed port of the host."""
    fixed = Port(number, host=host_port)
    if isinstance(description, ContainerSpec):
        others = [port for port in description.parsed_ports if port.number != number]
        return dataclasses.replace(description, ports=[*others, fixed])
    changed = copy.copy(description)
    parsed = [Port.parse(port) for port in description.options.get("ports", ())]
    others = [port for port in parsed if port.number != number]
    changed.options = {**description.options, "ports": [*others, fixed]}
    return changed


def folder_of_caller(depth: int) -> Path:
    """Return the directory of the file that is `depth` frames up."""
    name = sys._getframe(depth).f_code.co_filename
    return Path(name).resolve().parent if not name.startswith("<") else Path.cwd()
