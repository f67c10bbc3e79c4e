"""The image store as the doors use it: its images are moved, listed, named and removed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_containers.images.image import Image
from pytest_containers.images.images import Images
from pytest_containers.images.reference import parse_reference
from pytest_containers.images.store.library import Library
from pytest_containers.images.store.names import Record
from pytest_containers.model.errors import ImageError, ImageNotFoundError, hide_frames

if TYPE_CHECKING:
    from pytest_containers.model.engine_options import PullPolicy
    from pytest_containers.model.images import (
        ArchiveForm,
        Finding,
        HistoryStep,
        ImageDetails,
        ImageSummary,
        Pruned,
    )

__tracebackhide__ = hide_frames


class StoredImages:
    """The implementation of `model.images.ImageStore`.

    Args:
        images: The images of the store.

    Attributes:
        library: Layers, names, configurations and states of the store.
    """

    def __init__(self, images: Images) -> None:
        self._images = images
        self._sources = images.sources
        self._on_host = images.on_host
        self.library: Library = images.library

    # ------------------------------------------------------------ moved in and out

    def pull(self, name: str, *, policy: PullPolicy = "always") -> Image:
        """Fetch an image from its registry; see `Images.pull`."""
        return self._images.pull(name, policy=policy)

    def load(self, path: str | os.PathLike[str], *, name: str | None = None) -> list[str]:
        """Put the images of an archive into the store, under the names they have there.

        Args:
            path: An OCI layout (directory or tar) or a tar of `docker save`.
            name: A name to give it; needed when the archive has none.

        Returns:
            Their names in the store.
        """
        from pytest_containers.images.formats import load

        with self.library.store.among_others():
            names = load.load(self.library, Path(path), name, self._sources.display)
        for stored_name in names:
            self._images.given_to_image(stored_name)
        return names

    def import_rootfs(
        self,
        path: str | os.PathLike[str],
        name: str,
        config: Mapping[str, Any] | None = None,
    ) -> Image:
        """Make an image of a root file system, a tar or a directory.

        Args:
            name: As it will be called.
            config: How it is run, in the words of an image's config: ``{"Cmd": […], "Env": […]}``.
        """
        from pytest_containers.images.formats import load

        with self.library.store.among_others():
            load.import_rootfs(
                self.library, Path(path).absolute(), parse_reference(name), config or {}
            )
        self._images.given_to_image(name)
        return self._sources.by_name(parse_reference(name), "never")

    def push(self, name: str, target: str | None = None) -> str:
        """Bring a stored image to the registry that its name, or `target`, names.

        Returns:
            The digest of its manifest there.

        Raises:
            ImageNotFoundError, ImageError, RegistryError: See `images.push`.
        """
        from pytest_containers.images.complete import complete
        from pytest_containers.images.registry.push import push

        record = complete(self.library, self._record(name, "push"))
        goal = record.reference if target is None else parse_reference(target)
        registry = self._sources.registries.itself(goal.registry)
        return push(
            self.library, record, goal, registry, self._sources.puller(), self._sources.display
        )

    def save(
        self, names: Sequence[str], path: str | os.PathLike[str], *, form: ArchiveForm = "archive"
    ) -> None:
        """Write images to a file that Docker, Podman and skopeo take, byte for byte.

        Args:
            form: ``"archive"``, a tar, or ``"layout"``, a directory.
        """
        from pytest_containers.images.complete import complete
        from pytest_containers.images.formats.save import save

        records = [complete(self.library, self._record(name, "save")) for name in names]
        save(self.library, records, Path(path).absolute(), form, self._sources.puller())

    # ------------------------------------------------------- named, looked at, removed

    def tag(self, name: str, other: str) -> None:
        """Let `other` be a name of the same image."""
        reference, target = parse_reference(name), parse_reference(other)
        if self._on_host.has(reference):
            self._on_host.tag(reference, target)
            self._images.given_to_host(target)
            return
        record = self._record(name)
        self.library.names.set(
            target,
            config=record.config,
            digest=record.digest,
            resolved=record.resolved,
            origin=record.origin,
        )
        self._images.given_to_image(other)

    def list(self) -> list[ImageSummary]:
        """Images that have a name in the store.

        Returns:
            For each ``name``, ``id``, ``digest``, ``created``, ``size_bytes`` (unpacked),
            ``compressed_bytes``, ``used_at`` (seconds since the epoch). A result on ``host:`` has
            no digest, and the size of what it adds.
        """
        from pytest_containers.images.store.listing import summary

        images = [summary(self.library, record) for record in self.library.names.all()]
        return sorted([*images, *self._on_host.listing()], key=lambda line: str(line["name"]))

    def inspect(self, name: str) -> ImageDetails:
        """All that is known of a stored image: names, digests, layers, platform, config."""
        from pytest_containers.images.store.listing import details

        reference = parse_reference(name)
        if self._on_host.has(reference):
            return self._on_host.details(reference)
        return details(self.library, self._record(name))

    def history(self, name: str) -> Sequence[HistoryStep]:
        """How a stored image came to be, the newest step first."""
        from pytest_containers.images.store.listing import history

        reference = parse_reference(name)
        if self._on_host.has(reference):
            return self._on_host.history(reference)
        return history(self.library, self._record(name))

    def remove(self, name: str) -> None:
        """Forget a name; its layers stay until they are pruned.

        Raises:
            ImageNotFoundError: There is no such name.
        """
        reference = parse_reference(name)
        if not self._on_host.remove(reference):
            self.library.names.remove(reference)
        self._images.forget_answers()

    def prune(
        self,
        *,
        unused_for_s: float | None = None,
        keep_bytes: int | None = None,
        all_unused: bool = False,
        dry_run: bool = False,
    ) -> Pruned:
        """Remove what no name leads to, and names as asked for; never what a live run uses.

        Args:
            unused_for_s: Also names that were not used for so many seconds.
            keep_bytes: Also names, those used longest ago first, until the rest is not larger.
            all_unused: Also every name that no live run uses.
            dry_run: Only tell.
        """
        from pytest_containers.images.store.upkeep import prune

        done = prune(
            self.library,
            unused_for_s=unused_for_s,
            keep_bytes=keep_bytes,
            all_unused=all_unused,
            dry_run=dry_run,
        )
        self._images.forget_answers()
        return done

    def verify(self) -> Sequence[Finding]:
        """Look at every stored byte of named images; what is damaged is mended where it can be."""
        from pytest_containers.images.verify import verify

        def pull(record: Record) -> None:
            if not record.origin:
                raise ImageError(f"{record.reference.familiar} was not pulled")
            self._sources.pulled(record.reference)

        self._images.forget_answers()
        return verify(self.library, self._sources.puller(), pull)

    def cache_export(self, path: str | os.PathLike[str]) -> Sequence[str]:
        """Write all named images to one file of the caller's; returns their names."""
        from pytest_containers.images.cache import export

        return export(self.library, Path(path).absolute(), self._sources.puller())

    def cache_import(self, path: str | os.PathLike[str]) -> Sequence[str]:
        """Take the images of such a file; returns their names."""
        from pytest_containers.images.cache import bring_in

        self._images.forget_answers()
        return bring_in(self.library, Path(path))

    def cache_clear(self) -> None:
        """Empty the store; refused while a live run uses it."""
        from pytest_containers.images.cache import clear

        self._images.forget_answers()
        clear(self.library)

    def _record(self, name: str, doing: str = "use") -> Record:
        """Return what a name stands for.

        Args:
            doing: What a result on ``host:`` cannot be used for.
        """
        reference = parse_reference(name)
        if self._on_host.has(reference):
            raise self._on_host.refusal(reference, doing)
        record = self.library.names.get(reference)
        if record is None:
            raise ImageNotFoundError(
                f"image {reference.familiar!r} is not in the store; `pytest-containers images` "
                "lists what is",
                reference=reference.familiar,
            )
        return record
