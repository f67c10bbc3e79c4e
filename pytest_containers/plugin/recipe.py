"""What a fixture starts, and how: the arguments of `container_fixture` and of `Service.fixture`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pytest_containers.errors import SpecError, hide_frames
from pytest_containers.services.base import SEED_LIMIT_S, Isolation, Service
from pytest_containers.services.options import check_scripts, paths_of
from pytest_containers.services.sql import SqlService
from pytest_containers.spec import ContainerSpec, Tmpfs
from pytest_containers.state.facts import Inputs
from pytest_containers.state.seeds import Seed, seeds_of
from pytest_containers.state.warm import Stage

if TYPE_CHECKING:
    from pytest_containers.engines.native import Container
    from pytest_containers.images.image import Image
    from pytest_containers.plugin.endpoints import Endpoint

__tracebackhide__ = hide_frames


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """A description, checked; equal only to itself.

    Attributes:
        what: A container, or a service.
        seed, inputs, seed_timeout_s: See `container_fixture`.
        isolation: Who has one of their own.
        endpoint: Leads to it while a test has it.
        folder: What relative paths are relative to.
        constant: Whether it is the same for every test.
    """

    what: ContainerSpec | Service
    seed: Any = None
    inputs: Any = ()
    seed_timeout_s: float | None = None
    isolation: Isolation = "server"
    endpoint: Endpoint | None = None
    folder: Path = Path()
    constant: bool = False

    def __post_init__(self) -> None:
        if self.isolation not in get_args(Isolation):
            raise SpecError(
                f"isolation {self.isolation!r} is not one of {', '.join(get_args(Isolation))}"
            )
        if self.isolation == "database" and not isinstance(self.what, SqlService):
            raise SpecError(
                "isolation='database' is for SQL services (Postgres, MariaDB, MySQL); this has no "
                "databases: use 'server' or 'none'"
            )
        object.__setattr__(self, "inputs", paths_of(self.inputs))

    @property
    def service(self) -> Service | None:
        """The service, if it is one."""
        return self.what if isinstance(self.what, Service) else None

    def seeds(self, more: Sequence[tuple[Any, Path]] = ()) -> list[Seed]:
        """Its own seeds, and those of marks on top.

        Args:
            more: Seeds, and what their relative paths are relative to.
        """
        found: list[Seed] = []
        for value, folder in [(self.seed, self.folder), *more]:
            found += seeds_of(value, folder)
            if self.service is not None:
                check_scripts(self.service, value, folder)
        return found

    def stages(
        self, what: ContainerSpec | Service, base: Image, seeds: Sequence[Seed]
    ) -> list[Stage]:
        """What has to be done once before it can be started."""
        inputs = Inputs(self.inputs, self.folder)
        limit_s = self.seed_timeout_s or SEED_LIMIT_S
        if isinstance(what, Service):
            return what.stages(base, seeds, inputs, limit_s)
        return [
            Stage(
                f"seed {seed.title}", what, seed.apply, {"the seed": seed.identity}, inputs=inputs,
                module=seed.module, limit_s=limit_s,
            )
            for seed in seeds
        ]  # fmt: skip

    def bound(self, what: ContainerSpec | Service, container: Container) -> Any:
        """What the fixture gives."""
        return what.bound(container) if isinstance(what, Service) else container

    def may_be_ahead(self, spec: ContainerSpec, others_before: bool) -> bool:
        """Whether it can be started before its test begins without anybody noticing.

        Not where it sees what fixtures of the test may still change: files of the host, servers of
        the host, containers started before it; nor where it takes a port that is taken now.
        """
        service = self.service
        return (
            self.constant
            and self.isolation == "server"
            and all(isinstance(mount, Tmpfs) for mount in spec.mounts)
            and not spec.host_ports
            and all(port.host is None for port in spec.parsed_ports)
            and (not others_before or (service is not None and service.alone))
        )


def folder_of_caller(depth: int) -> Path:
    """The directory of the file that called, `depth` frames up."""
    name = sys._getframe(depth).f_code.co_filename
    return Path(name).resolve().parent if not name.startswith("<") else Path.cwd()
