"""The registry of the Distribution project, for images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pytest_containers.model import wait
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.base import directories, writing
from pytest_containers.services.service import Service
from pytest_containers.state.warm import Stage

if TYPE_CHECKING:
    from pytest_containers.services.options import ServiceFixture


_DATA, _CONFIG = "/var/lib/registry", "/etc/own-registry.yml"
_OWN = f"""
version: 0.1
log: {{level: info}}
storage:
  filesystem: {{rootdirectory: {_DATA}}}
  delete: {{enabled: true}}
http: {{addr: ":5000"}}
"""


class DockerRegistry(Service):
    """A registry of images, without TLS and passwords; see `Service` for its options."""

    reference: ClassVar[str] = "registry:2"
    number: ClassVar[int] = 5000
    programs: ClassVar[tuple[str, ...]] = ("docker-registry",)
    packages: ClassVar[str] = "docker-registry"
    scheme: ClassVar[str] = "http"
    port_variables: ClassVar[tuple[str, ...]] = ("REGISTRY_HTTP_ADDR",)
    clean: ClassVar[bool] = False  # it ends by its stop signal

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[ServiceFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the registry."""
        program = self.programs[0] if self.is_packaged(image) else "registry"
        ready = wait.http("/v2/", port=self.number)
        return self.spec([program, "serve", _CONFIG], ready, env=self.env)

    def prepare(self, image: Image) -> Sequence[Stage]:
        """Return the stage that writes the configuration."""
        return [directories(self.image, _DATA, "/etc", script=writing(_CONFIG, _OWN))]

    @property
    def address(self) -> str:
        """``HOST:PORT``, the beginning of the names of its images."""
        return f"{self.host}:{self.port}"
