"""Where images come from: the store, a registry, an archive, a root file system."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_containers.errors import ImageError, ImageNotFoundError, hide_frames
from pytest_containers.images import progress
from pytest_containers.images.image import Image, Layer
from pytest_containers.images.inside import Inside
from pytest_containers.images.library import Library
from pytest_containers.images.names import Record
from pytest_containers.images.reference import ArchiveSource, Reference
from pytest_containers.images.store import storing

if TYPE_CHECKING:
    from pytest_containers.images.pull import Policy, Puller, Registries

__tracebackhide__ = hide_frames


class Sources:
    """Brings images into a library.

    Args:
        inside: Access to the run's user namespace.
        registries: How registries are reached.
        display: Shows what is moving.
    """

    def __init__(
        self, library: Library, inside: Callable[[], Inside],
        registries: Callable[[], Registries], display: progress.Display,
    ) -> None:  # fmt: skip
        self._library = library
        self._inside = inside
        self._registries = registries
        self._display = display

    def by_name(self, reference: Reference, policy: Policy) -> Image:
        """From the store, or from its registry as `policy` says."""
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
        """The stored image, mended if something of it is missing; None if that needs a pull."""
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
        found = self._library.documents_of(record)
        what = record.reference.familiar
        if found.manifest is None:
            raise ImageError(f"image {what!r}: its layers are gone; load it again")
        fetch = self.puller().fetch_again(record.origin) if record.origin else None
        transfer = progress.Transfer("unpack", what, progress.parts_of(found.manifest.layers))
        with progress.shown(self._display, transfer):
            wants = self._library.wants(found.manifest, found.diff_ids, transfer.parts, what, fetch)
            layers = self._library.layers.ensure(wants, lambda: self._display.refresh(transfer))
        return self._library.image(found, layers, record.digest, what)

    def puller(self) -> Puller:
        """What fetches from registries."""
        from pytest_containers.images.pull import Puller

        return Puller(self._library.store, self._library.blobs, self._registries())

    def _is_current(self, record: Record) -> bool:
        """Whether the name still stands for what is stored; one request."""
        if record.reference.digest is not None:
            return True
        current = self.puller().tag_digest(record.reference)
        return current is not None and current == record.resolved

    def pulled(self, reference: Reference) -> Image:
        """From its registry, whatever is stored."""
        from pytest_containers.images.library import documents

        what = reference.familiar
        puller = self.puller()
        resolved = puller.resolve(reference)
        found = documents(resolved.manifest, resolved.config_data, what)
        transfer = progress.Transfer("pull", what, progress.parts_of(resolved.manifest.layers))
        library = self._library
        # Before a byte is moved: what could never run here is refused.
        library.image(found, (), resolved.manifest.digest, what)
        with library.store.among_others(), progress.shown(self._display, transfer):
            fetch = puller.fetch_from(resolved.registry, resolved.repository)
            wants = library.wants(resolved.manifest, found.diff_ids, transfer.parts, what, fetch)
            layers = library.layers.ensure(wants, lambda: self._display.refresh(transfer))
            library.keep(found)
            library.names.set(
                reference, config=resolved.manifest.config.digest,
                digest=resolved.manifest.digest, resolved=resolved.tag_digest,
                origin=f"{reference.registry}/{reference.repository}",
            )  # fmt: skip
        return library.image(found, layers, resolved.manifest.digest, what)

    def from_archive(self, source: ArchiveSource) -> Image:
        """From a layout or a tar of another tool."""
        from pytest_containers.images import archives
        from pytest_containers.images.library import documents

        what = str(source)
        with archives.Files(Path(source.path)) as files:
            found = archives.find(files, source)
            known = documents(found.manifest, found.config_data, what)
            self._library.image(known, (), "", what)  # refused before it is unpacked
            layers = self._library.layers.ensure(archives.wants(found, known.diff_ids, what))
        self._library.blobs.write(found.config_data)
        digest = found.manifest.digest if found.manifest is not None else ""
        return self._library.image(known, layers, digest, what)

    def from_rootfs(self, path: Path, config: Mapping[str, Any], name: str) -> Image:
        """An image of one layer. What was unpacked before is known by the file's identity."""
        from pytest_containers.images import archives
        from pytest_containers.images.library import documents

        try:
            status = path.stat()
        except OSError as error:
            raise ImageNotFoundError(f"rootfs {path}: {error.strerror}", path=str(path)) from None
        library, store = self._library, self._library.store
        layers = library.layers
        identity = [
            str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns,
            status.st_ctime_ns, self._inside().id_map_class,
        ]  # fmt: skip
        signature = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        known = store.home / "images" / f"rootfs-{signature}.json"

        def find() -> Layer | None:
            # A directory changes without a trace in its own times, so it is read every time.
            record = None if path.is_dir() else store.read_json(known)
            return layers.find(record["diff_id"]) if record is not None else None

        layer = find()
        if layer is None:
            with (
                store.lock(f"rootfs-{signature[:32]}"),
                archives.rootfs_part(path) as part,
            ):
                layer = find()
                if layer is None:
                    layer = layers.unpack(part, None, f"rootfs {path}").layer
                    with storing(name, store.home):
                        text = json.dumps({"diff_id": layer.diff_id}).encode()
                        store.write_atomically(known, text)
        data = archives.config_of([layer.diff_id], config)
        library.blobs.write(data)
        return library.image(documents(None, data, name), [layer], "", name)
