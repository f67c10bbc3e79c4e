"""The parts of the store put together: names, documents, layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_containers.images import manifest as manifests
from pytest_containers.images.image import Image, Layer
from pytest_containers.images.manifest import Descriptor, Manifest
from pytest_containers.images.store.blobs import Blobs, digest_of
from pytest_containers.images.store.fetch_stop import FetchStop
from pytest_containers.images.store.layers import Archive, Layers, Opened, Want, archive_at
from pytest_containers.images.store.names import Names, Record
from pytest_containers.images.store.states import States
from pytest_containers.model.errors import ImageError, hide_frames

if TYPE_CHECKING:
    from pytest_containers.images.inside import Inside
    from pytest_containers.images.store.store import Store
    from pytest_containers.model.transfer import Part

__tracebackhide__ = hide_frames

Fetch = Callable[[Descriptor, str, "Part", FetchStop], AbstractContextManager[Archive]]
"""Gives a layer's archive: ``(layer, its name in messages, its progress, told to stop)``."""


class Documents(NamedTuple):
    """The documents of an image, verified.

    Attributes:
        manifest: None only for tars of `docker save` that are used where they lie.
        config: The parsed `config_data`.
    """

    manifest: Manifest | None
    config_data: bytes
    config: dict[str, Any]
    diff_ids: list[str]


def documents(manifest: Manifest | None, config_data: bytes, subject: str) -> Documents:
    """Put manifest and config together.

    Raises:
        ImageError: One is malformed, or they do not fit.
    """
    config = manifests.document(config_data, f"{subject}: config")
    diff_ids = manifests.diff_ids_of(config, subject)
    if manifest is not None and len(diff_ids) != len(manifest.layers):
        raise ImageError(f"{subject}: its config and its manifest differ in number of layers")
    return Documents(manifest, config_data, config, diff_ids)


class Library:
    """The parts that operations on images share.

    Args:
        store: Keeps everything.
        inside_factory: Gives access to the run's user namespace; called when it is first needed.
    """

    def __init__(self, store: Store, inside_factory: Callable[[], Inside]) -> None:
        self.store: Store = store
        self.blobs: Blobs = Blobs(store)
        self.names: Names = Names(store)
        self._inside_factory = inside_factory
        self._layers: Layers | None = None
        self._states: States | None = None

    @property
    def layers(self) -> Layers:
        """The unpacked layers for this account's ids; may start the run."""
        if self._layers is None:
            self._layers = Layers(self.store, self._inside_factory())
        return self._layers

    @property
    def states(self) -> States:
        """The states for this account's ids; may start the run."""
        if self._states is None:
            self._states = States(self.store, self.layers)
        return self._states

    def documents_of(self, record: Record) -> Documents:
        """Read the manifest and config of a stored image.

        Raises:
            ImageError: One is missing or damaged.
        """
        image_name = record.reference.familiar
        config_data = self.blobs.read(record.config, manifests.MAX_DOCUMENT_BYTES)
        manifest = None
        if record.digest:
            data = self.blobs.read(record.digest, manifests.MAX_DOCUMENT_BYTES)
            manifest = manifests.parse(data, record.digest, "", image_name)
        return documents(manifest, config_data, image_name)

    def ready(self, record: Record) -> Image | None:
        """Return a stored image that is whole and unpacked, reading as little as possible."""
        config_data = self.blobs.read(record.config, manifests.MAX_DOCUMENT_BYTES)
        image_name = record.reference.familiar
        image_documents = documents(None, config_data, image_name)
        layers = [self.layers.find(diff_id) for diff_id in image_documents.diff_ids]
        whole = [layer for layer in layers if layer is not None]
        return (
            self.image(image_documents, whole, record.digest, image_name)
            if len(whole) == len(layers)
            else None
        )

    def wants(
        self,
        manifest: Manifest,
        diff_ids: Sequence[str],
        parts: Sequence[Part],
        image_name: str,
        fetch: Fetch | None = None,
    ) -> list[Want]:
        """List the layers of an image, for `Layers.ensure`.

        Args:
            fetch: Gives the archive of a layer; None takes it from the store.
        """
        fetch = fetch or self._kept

        def opened(layer: Descriptor, name: str) -> Opened:
            return lambda part, stop: fetch(layer, name, part, stop)

        wants = []
        for layer, diff_id, part in zip(manifest.layers, diff_ids, parts, strict=True):
            name = f"layer {layer.digest[7:19]} of {image_name}"
            wants.append(Want(diff_id, name, part, opened(layer, name)))
        return wants

    @contextmanager
    def _kept(self, layer: Descriptor, name: str, part: Part, stop: FetchStop) -> Iterator[Archive]:
        if not self.blobs.has(layer.digest, layer.size_bytes):
            raise ImageError(f"{name} is not in the store any more; load the image again")
        part.state = "unpacking"
        with archive_at(self.blobs.path(layer.digest), layer.digest) as archive:
            yield archive

    def image(
        self, image_documents: Documents, layers: Sequence[Layer], digest: str, name: str
    ) -> Image:
        """Make an image to start containers from."""
        config = manifests.parse_config(image_documents.config, name)
        whole = tuple(self.layers.completed(layers)) if layers else ()
        devices = tuple(self.layers.devices(layers)) if layers else ()
        return Image(
            digest_of(image_documents.config_data), name, whole, config, (), digest, devices=devices
        )

    def keep(self, image_documents: Documents) -> None:
        """Keep the documents of an image whose layers are kept already."""
        self.blobs.write(image_documents.config_data)
        if image_documents.manifest is not None:
            self.blobs.write(image_documents.manifest.data)
