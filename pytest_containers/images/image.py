"""What an image is once it can be used: layers on disk, a config, and trees of the host."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from pytest_containers.model.image import HealthCheck as HealthCheck
from pytest_containers.model.image import ImageConfig as ImageConfig

Owner = Literal["mapped", "caller"]


class Layer(NamedTuple):
    """A directory of the store that becomes one read-only overlay layer.

    Attributes:
        path: The directory itself. Below a 0700 directory of the caller's, so only a descriptor
            opened by the caller gets into the run.
        owner: ``"mapped"``: files carry the ids of the run's user namespace on disk, use as it is.
            ``"caller"``: all files are the calling user's and mean container root; mount it
            idmapped where the caller is not container root already.
        diff_id: Digest of the uncompressed tar it was made from, or of its own listing; empty for
            one of `images.parents`, which no archive has.
    """

    path: Path
    owner: Owner
    diff_id: str


class HostMount(NamedTuple):
    """A directory of the host, shown read-only at `target` (which exists in the layers).

    Attributes:
        public: True if only that is shown which every user of the host may read.
    """

    source: Path
    target: str
    public: bool = False


DEVICES: dict[tuple[str, int, int], str] = {
    ("c", 1, 3): "null", ("c", 1, 5): "zero", ("c", 1, 7): "full", ("c", 1, 8): "random",
    ("c", 1, 9): "urandom", ("c", 5, 0): "tty",
}  # fmt: skip
"""Names in ``/dev`` of the devices that every container has, by kind, major and minor number."""


class Device(NamedTuple):
    """A device node in a layer.

    Attributes:
        path: In the container, without a leading slash.
        kind: ``"c"`` or ``"b"``: character or block device.
    """

    path: str
    kind: str
    major: int
    minor: int

    @property
    def name(self) -> str:
        """The member of `DEVICES` it is; empty for one that containers cannot have."""
        return DEVICES.get((self.kind, self.major, self.minor), "")

    @property
    def is_covered(self) -> bool:
        """True below ``/dev``, which is each container's own."""
        return self.path.startswith("dev/")


@dataclass(frozen=True, slots=True)
class Image:
    """An image that containers can be started from.

    Attributes:
        id: Digest of everything that makes its contents and config: equal ids, equal images.
        name: The name it was asked for by.
        layers: Bottom first.
        mounts: Read-only trees of the host on top of the layers (only `host:` has them).
        digest: Digest of its manifest; empty for `host:`.
        base_id: Of a state: the id of the image below it, whose config it has.
        devices: Device nodes of its layers that every container has (`Device.name`).
    """

    id: str
    name: str
    layers: tuple[Layer, ...]
    config: ImageConfig
    mounts: tuple[HostMount, ...] = ()
    digest: str = ""
    base_id: str = ""
    devices: tuple[Device, ...] = ()

    @property
    def volumes_apart(self) -> bool:
        """False: they are a part of the writable layer."""
        return False

    def with_layer(self, layer: Layer, image_id: str) -> Image:
        """Return the image with one more layer on top."""
        return replace(
            self, id=image_id, layers=(*self.layers, layer), base_id=self.base_id or self.id
        )
