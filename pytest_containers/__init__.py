"""A real, isolated, throwaway container for every test, in milliseconds.

Public names; each is imported when it is first used (PEP 562), so that a plugin that is not used
costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_containers import services as services
    from pytest_containers import wait as wait
    from pytest_containers.build.dockerfile.errors import DockerfileError as DockerfileError
    from pytest_containers.build.options import BuildOptions as BuildOptions
    from pytest_containers.engines.native import Container as Container
    from pytest_containers.engines.native import Engine as Engine
    from pytest_containers.engines.native import Network as Network
    from pytest_containers.engines.native import Volume as Volume
    from pytest_containers.engines.protocol import ExecResult as ExecResult
    from pytest_containers.engines.protocol import Logs as Logs
    from pytest_containers.errors import BuildError as BuildError
    from pytest_containers.errors import ContainersError as ContainersError
    from pytest_containers.errors import ExecError as ExecError
    from pytest_containers.errors import ExitedError as ExitedError
    from pytest_containers.errors import ImageError as ImageError
    from pytest_containers.errors import ImageNotFoundError as ImageNotFoundError
    from pytest_containers.errors import NotReadyError as NotReadyError
    from pytest_containers.errors import NotRunningError as NotRunningError
    from pytest_containers.errors import RegistryError as RegistryError
    from pytest_containers.errors import RunLostError as RunLostError
    from pytest_containers.errors import SeedError as SeedError
    from pytest_containers.errors import SettingsError as SettingsError
    from pytest_containers.errors import SpecError as SpecError
    from pytest_containers.errors import StartError as StartError
    from pytest_containers.errors import UnsupportedError as UnsupportedError
    from pytest_containers.errors import WaitTimeoutError as WaitTimeoutError
    from pytest_containers.images.image import Image as Image
    from pytest_containers.plugin.endpoints import Endpoint as Endpoint
    from pytest_containers.plugin.endpoints import endpoint as endpoint
    from pytest_containers.plugin.fixtures import Containers as Containers
    from pytest_containers.plugin.fixtures import build_fixture as build_fixture
    from pytest_containers.plugin.fixtures import container_fixture as container_fixture
    from pytest_containers.plugin.fixtures import image_fixture as image_fixture
    from pytest_containers.plugin.fixtures import volume_fixture as volume_fixture
    from pytest_containers.spec import Bind as Bind
    from pytest_containers.spec import ContainerSpec as ContainerSpec
    from pytest_containers.spec import Port as Port
    from pytest_containers.spec import Tmpfs as Tmpfs
    from pytest_containers.spec import VolumeMount as VolumeMount

_WHERE = {
    "build.dockerfile.errors": ("DockerfileError",),
    "build.options": ("BuildOptions",),
    "engines.native": ("Container", "Engine", "Network", "Volume"),
    "engines.protocol": ("ExecResult", "Logs"),
    "errors": (
        "BuildError", "ContainersError", "ExecError", "ExitedError", "ImageError",
        "ImageNotFoundError", "NotReadyError", "NotRunningError", "RegistryError",
        "RunLostError", "SeedError", "SettingsError", "SpecError", "StartError", "UnsupportedError",
        "WaitTimeoutError",
    ),
    "images.image": ("Image",),
    "plugin.endpoints": ("Endpoint", "endpoint"),
    "plugin.fixtures": (
        "Containers", "build_fixture", "container_fixture", "image_fixture", "volume_fixture",
    ),
    "spec": ("Bind", "ContainerSpec", "Port", "Tmpfs", "VolumeMount"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}
__all__ = ["services", "wait", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in ("services", "wait"):
        return import_module(f"pytest_containers.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
