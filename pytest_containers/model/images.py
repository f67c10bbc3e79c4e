"""The image store as the doors see it: the contract, and the records that it answers with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypedDict

from pytest_containers.model.engine_options import PullPolicy
from pytest_containers.model.image import Image

ArchiveForm = Literal["archive", "layout"]


class ImageSummary(TypedDict):
    """A row of the list of images.

    Attributes:
        name, id, digest: Its name, id and manifest digest.
        created: The time in its configuration, in the format of RFC 3339; may be empty.
        size_bytes: The size of its unpacked layers.
        compressed_bytes: The size of its blobs.
        used_at: The time of its last use, in seconds since the epoch.
    """

    name: str
    id: str
    digest: str
    created: str
    size_bytes: int
    compressed_bytes: int
    used_at: float


class LayerRecord(TypedDict):
    """A layer of an image, as `ImageStore.inspect` reports it."""

    digest: str
    diff_id: str
    media_type: str
    size_bytes: int


class ImageDetails(ImageSummary):
    """All that is stored about an image, as `ImageStore.inspect` reports it."""

    names: list[str]
    origin: str
    media_type: str
    os: str
    architecture: str
    variant: str
    layers: list[LayerRecord]
    config: Mapping[str, Any]


class HistoryStep(TypedDict):
    """A step in the history of an image; `digest` is empty if it added no layer."""

    created: str
    created_by: str
    comment: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault in the store.

    Attributes:
        subject: The name of the damaged blob, layer or image.
        problem: The fault.
        repaired: True if it is repaired.
    """

    subject: str
    problem: str
    repaired: bool


@dataclass(slots=True)
class Pruned:
    """The result of `ImageStore.prune`.

    Attributes:
        names: Names of the removed images.
        states, steps: Numbers of removed states of seeds and of removed steps of builds.
        caches: Number of removed caches of ``RUN --mount=type=cache``.
        layers, blobs: Numbers of removed layers and archives.
        freed_bytes: The sum of file sizes (not of blocks), as far as it is recorded.
        held: Number of layers that are kept only because a live run uses them.
    """

    names: list[str] = field(default_factory=list)
    states: int = 0
    steps: int = 0
    caches: int = 0
    layers: int = 0
    blobs: int = 0
    freed_bytes: int = 0
    held: int = 0


class ImageStore(Protocol):
    """The stored images of an engine, by name."""

    def pull(self, name: str, *, policy: PullPolicy = "always") -> Image:
        """Fetch an image from its registry.

        Args:
            policy: ``"always"`` asks whether the name has moved to a newer image.

        Raises:
            ImageNotFoundError: The registry has no image of that name.
            RegistryError: The registry could not be reached, or refused.
        """

    def push(self, name: str, target: str | None = None) -> str:
        """Upload a stored image to the registry of its name, or of `target`.

        Returns:
            The digest of its manifest there.
        """

    def load(self, path: str | os.PathLike[str], *, name: str | None = None) -> Sequence[str]:
        """Store the images of an OCI layout or of a tar of ``docker save``.

        Args:
            name: The name to give; needed if the archive has none.

        Returns:
            The names of the images.
        """

    def save(
        self, names: Sequence[str], path: str | os.PathLike[str], *, form: ArchiveForm = "archive"
    ) -> None:
        """Write images to a tar or to a directory that Docker, Podman and skopeo can read."""

    def import_rootfs(
        self, path: str | os.PathLike[str], name: str, config: Mapping[str, Any] | None = None
    ) -> Image:
        """Make an image of a root file system, a tar or a directory.

        Args:
            name: The name of the new image.
            config: Its configuration, as in the image-spec: ``{"Cmd": […], "Env": […]}``.
        """

    def tag(self, name: str, other: str) -> None:
        """Give an image the name `other` as well."""

    def remove(self, name: str) -> None:
        """Remove a name; the layers stay until they are pruned.

        Raises:
            ImageNotFoundError: No stored image has the name.
        """

    def list(self) -> Sequence[ImageSummary]:
        """Return all images that have a name."""

    def inspect(self, name: str) -> ImageDetails:
        """Return all that is stored about an image."""

    def history(self, name: str) -> Sequence[HistoryStep]:
        """Return the steps that made an image, the newest first."""

    def prune(
        self,
        *,
        unused_for_s: float | None = None,
        keep_bytes: int | None = None,
        all_unused: bool = False,
        dry_run: bool = False,
    ) -> Pruned:
        """Remove unnamed data, and named images on request; nothing that a live run uses.

        Args:
            unused_for_s: Remove also images that were not used for so many seconds.
            keep_bytes: Remove also images, least recently used first, down to this size.
            all_unused: Remove also all images that no live run uses.
            dry_run: Report only.
        """

    def verify(self) -> Sequence[Finding]:
        """Check every stored byte of named images, and repair damage where possible."""

    def cache_export(self, path: str | os.PathLike[str]) -> Sequence[str]:
        """Write all named images to one file; return their names."""

    def cache_import(self, path: str | os.PathLike[str]) -> Sequence[str]:
        """Store the images of such a file; return their names."""

    def cache_clear(self) -> None:
        """Empty the store.

        Raises:
            ImageError: A live run uses it.
        """
