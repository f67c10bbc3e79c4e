"""What an image is once it can be used: layers on disk, a config, and trees of the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

Owner = Literal["mapped", "caller"]


@dataclass(frozen=True, slots=True)
class Layer:
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


@dataclass(frozen=True, slots=True)
class HostMount:
    """A directory of the host, shown read-only at `target` (which exists in the layers)."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """The HEALTHCHECK of an image; 0 means "the default" everywhere, as Docker has it.

    Attributes:
        test: ``("NONE",)``, ``("CMD", arg, …)`` or ``("CMD-SHELL", line)``.
    """

    test: tuple[str, ...]
    interval_s: float = 0.0
    timeout_s: float = 0.0
    start_period_s: float = 0.0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says about running it (image-spec config.md; Docker adds the last three).

    Attributes:
        exposed_ports: As written: ``"8000/tcp"``.
        stop_signal: A name or a number as text, or None.
        shell: For shell-form commands of a Dockerfile.
    """

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    architecture: str = ""
    os: str = "linux"
    variant: str = ""
    healthcheck: HealthCheck | None = None
    shell: tuple[str, ...] = ("/bin/sh", "-c")


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
    """

    id: str
    name: str
    layers: tuple[Layer, ...]
    config: ImageConfig
    mounts: tuple[HostMount, ...] = ()
    digest: str = ""
    base_id: str = ""

    def with_layer(self, layer: Layer, image_id: str) -> Image:
        """The image with one more layer on top."""
        return replace(
            self, id=image_id, layers=(*self.layers, layer), base_id=self.base_id or self.id
        )
