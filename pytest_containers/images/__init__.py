"""Images: where they come from, and the store that keeps them unpacked.

Nothing is imported before it is used: the unpacker starts in a bare interpreter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_containers.images.facade import Images as Images
    from pytest_containers.images.holds import Hold as Hold
    from pytest_containers.images.image import HealthCheck as HealthCheck
    from pytest_containers.images.image import HostMount as HostMount
    from pytest_containers.images.image import Image as Image
    from pytest_containers.images.image import ImageConfig as ImageConfig
    from pytest_containers.images.image import Layer as Layer
    from pytest_containers.images.inside import Inside as Inside

_WHERE = {
    "Images": "facade",
    "Image": "image",
    "ImageConfig": "image",
    "HealthCheck": "image",
    "Layer": "image",
    "HostMount": "image",
    "Inside": "inside",
    "Hold": "holds",
}
__all__ = ["Images", "Image", "ImageConfig", "HealthCheck", "Layer", "HostMount", "Inside", "Hold"]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
