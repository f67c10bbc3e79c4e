"""Where images come from: the store, a registry, an archive, a root file system."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_containers.images.store import records
from pytest_containers.model.errors import ImageError, ImageNotFoundError, hide_frames
from pytest_containers.model.transfer import (
    ImageTransfer,
    SilentDisplay,
    TransferDisplay,
    parts_of,
    shown,
)

if TYPE_CHECKING:
    from pytest_containers.images.image import Image, Layer
    from pytest_containers.images.inside import Inside
    from pytest_containers.images.reference import ArchiveSource, Reference
    from pytest_containers.images.registry.pull import Puller, Registries
    from pytest_containers.images.store.library import Library
    from pytest_containers.images.store.names import Record
    from pytest_containers.model.engine_options import PullPolicy, RegistrySettings

__tracebackhide__ = hide_frames


class Sources:
    """The ways by which images get into a library.

    Args:
        inside: Access to the run's user namespace.
        settings: How registries are reached; None is the defaults.
        display: Shows what is moving; None shows nothing.
    """

    def __init__(
        self,
        library: Library,
        inside: Callable[[], Inside],
        settings: RegistrySettings | None,
        display: TransferDisplay | None,
    ) -> None:
        self._library = library
        self._inside = inside
        self._settings = settings
        self._registries: Registries | None = None
        self.display: TransferDisplay = display or SilentDisplay()

    @property
    def registry_settings(self) -> RegistrySettings:
        """How registries are reached."""
        if self._settings is None:
            from pytest_containers.model.engine_options import registry_settings

            self._settings = registry_settings()
        return self._settings

    @property
    def registries(self) -> Registries:
        """The registries of the project."""
        if self._registries is None:
            from pytest_containers.images.registry.pull import Registries

            self._registries = Registries(self.registry_settings)
        return self._registries

    def by_name(self, reference: Reference, policy: PullPolicy) -> Image:
        """Get an image from the store, or from its registry as `policy` says."""
        record = self._library.names.get(reference)
        if policy != "always" and record is not None:
            image = self._stored(record, may_ask=policy != "never")
            if image is not None:
                return image
        if policy == "never":
            raise ImageNotFoundError(
                f"image {reference.familiar!r} is not in the store and may not be pulled "
                "(--containers-pull=never); put it there with `pytest-containers pull`, `load` or "
                "`import`",
                reference=reference.familiar,
            )
        if record is not None and self._is_current(record):
            image = self._stored(record, may_ask=True)
            if image is not None:
                return image
        return self.pulled(reference)

    def _stored(self, record: Record, *, may_ask: bool) -> Image | None:
        """Return the stored image, mended if incomplete; None if that needs a pull."""
        try:
            image = self._library.ready(record)
            if image is None:
                image = self._unpacked(record)
        except ImageError:
            if may_ask and record.origin:
                return None
            raise
        self._library.names.used(record.reference)
        return image

    def _unpacked(self, record: Record) -> Image:
        documents = self._library.documents_of(record)
        image_name = record.reference.familiar
        if documents.manifest is None:
            raise ImageError(f"image {image_name!r}: its layers are gone; load it again")
        fetch = self.puller().fetch_again(record.origin) if record.origin else None
        transfer = ImageTransfer("unpack", image_name, parts_of(documents.manifest.layers))
        with shown(self.display, transfer):
            wants = self._library.wants(
                documents.manifest, documents.diff_ids, transfer.parts, image_name, fetch
            )
            layers = self._library.layers.ensure(wants, lambda: self.display.refresh(transfer))
        return self._library.image(documents, layers, record.digest, image_name)

    def puller(self) -> Puller:
        """Return a fetcher of images from registries."""
        from pytest_containers.images.registry.pull import Puller

        return Puller(self._library.store, self._library.blobs, self.registries)

    def _is_current(self, record: Record) -> bool:
        """Ask the registry once whether the name still stands for the stored image."""
        if record.reference.digest is not None:
            return True
        current = self.puller().tag_digest(record.reference)
        return current is not None and current == record.resolved

    def pulled(self, reference: Reference) -> Image:
        """Pull an image from its registry, whatever is stored."""
        from pytest_containers.images.store.library import documents

        image_name = reference.familiar
        puller = self.puller()
        resolved = puller.resolve(reference)
        image_documents = documents(resolved.manifest, resolved.config_data, image_name)
        transfer = ImageTransfer("pull", image_name, parts_of(resolved.manifest.layers))
        library = self._library
        # Before a byte is moved: what could never run here is refused.
        library.image(image_documents, (), resolved.manifest.digest, image_name)
        with library.store.among_others(), shown(self.display, transfer):
            fetch = puller.fetch_from(resolved.registry, resolved.repository)
            wants = library.wants(
                resolved.manifest, image_documents.diff_ids, transfer.parts, image_name, fetch
            )
            layers = library.layers.ensure(wants, lambda: self.display.refresh(transfer))
            library.keep(image_documents)
            library.names.set(
                reference,
                config=resolved.manifest.config.digest,
                digest=resolved.manifest.digest,
                resolved=resolved.tag_digest,
                origin=f"{reference.registry}/{reference.repository}",
            )
        return library.image(image_documents, layers, resolved.manifest.digest, image_name)

    def from_archive(self, source: ArchiveSource) -> Image:
        """Take an image from a layout or a tar of another tool."""
        from pytest_containers.images.formats import archives
        from pytest_containers.images.store.library import documents

        subject = str(source)
        with archives.Files(Path(source.path)) as files:
            image = archives.find(files, source)
            image_documents = documents(image.manifest, image.config_data, subject)
            self._library.image(image_documents, (), "", subject)  # refused before it is unpacked
            layers = self._library.layers.ensure(
                archives.wants(image, image_documents.diff_ids, subject)
            )
        self._library.blobs.write(image.config_data)
        digest = image.manifest.digest if image.manifest is not None else ""
        return self._library.image(image_documents, layers, digest, subject)

    def from_rootfs(self, path: Path, config: Mapping[str, Any], name: str) -> Image:
        """Make an image of one layer; the file's identity finds an earlier unpacked one."""
        from pytest_containers.images.formats import archives
        from pytest_containers.images.store.library import documents

        try:
            status = path.stat()
        except OSError as error:
            raise ImageNotFoundError(f"rootfs {path}: {error.strerror}", path=str(path)) from None
        library, store = self._library, self._library.store
        layers = library.layers
        identity = [
            str(path),
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            self._inside().id_map_class,
        ]
        signature = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        record_path = store.home / "images" / f"rootfs-{signature}.json"

        def find() -> Layer | None:
            # A directory changes without a trace in its own times, so it is read every time.
            record = None if path.is_dir() else records.read(record_path, "diff_id")
            return layers.find(record.fields["diff_id"]) if record is not None else None

        layer = find()
        if layer is None:
            with (
                store.lock(f"rootfs-{signature[:32]}"),
                archives.rootfs_part(path) as part,
            ):
                layer = find()
                if layer is None:
                    layer = layers.unpack(part, None, f"rootfs {path}").layer
                    store.write_record(record_path, {"diff_id": layer.diff_id}, name)
        data = archives.config_of([layer.diff_id], config)
        library.blobs.write(data)
        return library.image(documents(None, data, name), [layer], "", name)
