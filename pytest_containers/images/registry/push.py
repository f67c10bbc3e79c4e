"""Images to registries."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from pytest_containers.images.manifest import Descriptor
from pytest_containers.images.reference import Reference, parse_reference
from pytest_containers.images.registry.client import Registry
from pytest_containers.images.registry.upload import Upload, has_blob, put_manifest
from pytest_containers.images.store.fetch_stop import FetchStop
from pytest_containers.images.store.library import Documents, Library
from pytest_containers.images.store.names import Record
from pytest_containers.model.errors import ImageError, hide_frames
from pytest_containers.model.transfer import ImageTransfer, Part, TransferDisplay, parts_of, shown

if TYPE_CHECKING:
    from pytest_containers.images.registry.pull import Puller

__tracebackhide__ = hide_frames

_AT_ONCE = 4
_REFRESH_S = 0.1


def push(
    library: Library,
    record: Record,
    target: Reference,
    registry: Registry,
    puller: Puller,
    display: TransferDisplay,
) -> str:
    """Send a stored image to a registry, under the name `target`, as it is stored.

    What the registry has is not sent. The manifest comes last, so the name never stands for
    something that is not whole.

    Returns:
        The digest of its manifest.

    Raises:
        RegistryError: The registry refuses, or cannot be reached.
        ImageError: A part of the image is not stored any more.
    """
    image_name = target.familiar
    documents = library.documents_of(record)
    if documents.manifest is None:
        raise ImageError(
            f"push of image {image_name!r}: it was stored without a manifest; load it again"
        )
    blobs = list(
        {
            blob.digest: blob for blob in (*documents.manifest.layers, documents.manifest.config)
        }.values()
    )
    transfer = ImageTransfer("push", image_name, parts_of(blobs))
    job = _Push(library, record, target, registry, puller)
    with shown(display, transfer), ThreadPoolExecutor(_AT_ONCE) as pool:
        pending = {
            pool.submit(job.blob, blob, part)
            for blob, part in zip(blobs, transfer.parts, strict=True)
        }
        try:
            while pending:
                done, pending = wait(pending, timeout=_REFRESH_S, return_when=FIRST_EXCEPTION)
                display.refresh(transfer)
                for future in done:
                    future.result()
        finally:
            job.stop.set()
            for future in pending:
                future.cancel()
    job.manifest(documents)
    return documents.manifest.digest


class _Push:
    def __init__(
        self,
        library: Library,
        record: Record,
        target: Reference,
        registry: Registry,
        puller: Puller,
    ) -> None:
        self._library = library
        self._record = record
        self._target = target
        self._registry = registry
        self._puller = puller
        self._shown = f"push of image {target.familiar!r}"
        self.stop = FetchStop()

    def blob(self, blob: Descriptor, part: Part) -> None:
        """Send one blob, unless the registry has it."""
        repository = self._target.repository
        if self.stop.is_set():
            return
        if has_blob(self._registry, repository, blob.digest, shown=self._shown):
            part.state = "present"
            return
        upload = Upload(
            self._registry,
            repository,
            blob,
            neighbour=self._neighbour(),
            moved=self._mover(part),
            shown=self._shown,
        )
        if not upload.mounted():
            self._have(blob, part)
            part.state, part.moved_bytes = "uploading", 0
            upload.send(self._library.blobs.path(blob.digest))
        part.state = "done"

    def _mover(self, part: Part) -> Callable[[int], None]:
        def moved(position: int) -> None:
            part.moved_bytes = position
            if self.stop.is_set():
                raise ImageError(f"{self._shown}: given up")

        return moved

    def _neighbour(self) -> str:
        """Return the repository of the same registry that the image came from."""
        if not self._record.origin:
            return ""
        origin = parse_reference(self._record.origin)
        return origin.repository if origin.registry == self._target.registry else ""

    def _have(self, blob: Descriptor, part: Part) -> None:
        """Fetch a layer's bytes: one that was stored unpacked already was never fetched."""
        if self._library.blobs.has(blob.digest, blob.size_bytes):
            return
        if not self._record.origin:
            raise ImageError(
                f"{self._shown}: {blob.digest[:19]} is not in the store any more; load it again"
            )
        fetch = self._puller.fetch_again(self._record.origin)
        with fetch(blob, f"layer {blob.digest[7:19]} of {self._record.origin}", part, self.stop):
            pass

    def manifest(self, documents: Documents) -> None:
        """Send the manifest, which gives the image its name."""
        manifest = documents.manifest
        if manifest is None:
            raise ImageError(f"{self._shown}: there is no manifest")
        name = self._target.tag or manifest.digest
        put_manifest(
            self._registry, self._target.repository, name, manifest.media_type, manifest.data,
            shown=self._shown,
        )  # fmt: skip
