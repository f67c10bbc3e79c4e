"""A real, isolated, throwaway container for every test, in milliseconds.

Public names; each is imported when it is first used (PEP 562), so that a plugin that is not used
costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__: str

if TYPE_CHECKING:
    from pytest_containers import services as services
    from pytest_containers.builder.dockerfile.errors import DockerfileError as DockerfileError
    from pytest_containers.engines.choose import Engine as Engine
    from pytest_containers.model import wait as wait
    from pytest_containers.model.build import BuildOptions as BuildOptions
    from pytest_containers.model.engine import Container as Container
    from pytest_containers.model.engine import Network as Network
    from pytest_containers.model.engine import OciContainer as OciContainer
    from pytest_containers.model.engine import Volume as Volume
    from pytest_containers.model.errors import BuildError as BuildError
    from pytest_containers.model.errors import ContainersError as ContainersError
    from pytest_containers.model.errors import ExecError as ExecError
    from pytest_containers.model.errors import ExitedError as ExitedError
    from pytest_containers.model.errors import ImageError as ImageError
    from pytest_containers.model.errors import ImageNotFoundError as ImageNotFoundError
    from pytest_containers.model.errors import NotReadyError as NotReadyError
    from pytest_containers.model.errors import NotRunningError as NotRunningError
    from pytest_containers.model.errors import RegistryError as RegistryError
    from pytest_containers.model.errors import RunLostError as RunLostError
    from pytest_containers.model.errors import SeedError as SeedError
    from pytest_containers.model.errors import SettingsError as SettingsError
    from pytest_containers.model.errors import SpecError as SpecError
    from pytest_containers.model.errors import StartError as StartError
    from pytest_containers.model.errors import UnsupportedError as UnsupportedError
    from pytest_containers.model.errors import WaitTimeoutError as WaitTimeoutError
    from pytest_containers.model.image import Image as Image
    from pytest_containers.model.reports import OciState as OciState
    from pytest_containers.model.reports import Refusals as Refusals
    from pytest_containers.model.results import ExecResult as ExecResult
    from pytest_containers.model.results import Logs as Logs
    from pytest_containers.model.spec import Bind as Bind
    from pytest_containers.model.spec import ContainerSpec as ContainerSpec
    from pytest_containers.model.spec import Port as Port
    from pytest_containers.model.spec import Tmpfs as Tmpfs
    from pytest_containers.model.spec import VolumeMount as VolumeMount
    from pytest_containers.plugin.fixtures import build_fixture as build_fixture
    from pytest_containers.plugin.fixtures import container_fixture as container_fixture
    from pytest_containers.plugin.fixtures import image_fixture as image_fixture
    from pytest_containers.plugin.fixtures import session_service as session_service
    from pytest_containers.plugin.fixtures import volume_fixture as volume_fixture
    from pytest_containers.plugin.scopes import Containers as Containers
    from pytest_containers.services.endpoints import Endpoint as Endpoint
    from pytest_containers.services.endpoints import endpoint as endpoint

_WHERE = {
    "builder.dockerfile.errors": ("DockerfileError",),
    "engines.choose": ("Engine",),
    "model.build": ("BuildOptions",),
    "model.engine": ("Container", "Network", "OciContainer", "Volume"),
    "model.reports": ("OciState", "Refusals"),
    "model.results": ("ExecResult", "Logs"),
    "model.errors": (
        "BuildError", "ContainersError", "ExecError", "ExitedError", "ImageError",
        "ImageNotFoundError", "NotReadyError", "NotRunningError", "RegistryError",
        "RunLostError", "SeedError", "SettingsError", "SpecError", "StartError", "UnsupportedError",
        "WaitTimeoutError",
    ),
    "model.image": ("Image",),
    "services.endpoints": ("Endpoint", "endpoint"),
    "plugin.scopes": ("Containers",),
    "plugin.fixtures": (
        "build_fixture", "container_fixture", "image_fixture", "session_service", "volume_fixture",
    ),
    "model.spec": ("Bind", "ContainerSpec", "Port", "Tmpfs", "VolumeMount"),
}  # fmt: skip
_MODULES = {"services": "services", "wait": "model.wait"}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}
__all__ = [*_MODULES, *sorted(_MODULE_OF)]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "__version__":
        from importlib.metadata import version

        return version("pytest-containers")
    if name in _MODULES:
        return import_module(f"{__name__}.{_MODULES[name]}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
