"""Images from files into the store: archives under their names, root file systems as new images."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_containers.images import manifest as manifests
from pytest_containers.images.decompress import CompressionError, decompressed
from pytest_containers.images.formats import archives
from pytest_containers.images.formats.compress import add_layer
from pytest_containers.images.manifest import Descriptor, Manifest
from pytest_containers.images.reference import ArchiveSource, Reference, parse_reference
from pytest_containers.images.store.blobs import digest_of
from pytest_containers.images.store.layers import Archive
from pytest_containers.images.store.library import Library, documents
from pytest_containers.model.errors import ImageError, hide_frames
from pytest_containers.model.transfer import ImageTransfer, TransferDisplay, parts_of, shown

__tracebackhide__ = hide_frames


def load(library: Library, path: Path, name: str | None, display: TransferDisplay) -> list[str]:
    """Keep the images of an archive and return their names.

    Raises:
        ImageError: It is broken, or has no name.
    """
    source = archive_at_path(path)
    kept: list[str] = []
    with archives.Files(path) as files:
        images = archives.every(files, source)
        if name is not None and len(images) > 1:
            raise ImageError(f"{path}: there are {len(images)} images in it; they keep their names")
        for image in images:
            names = [name] if name is not None else list(image.names)
            if not names:
                raise ImageError(f"{path}: the image in it has no name; give it one")
            references = [parse_reference(image_name) for image_name in names]
            kept += _keep(library, image, references, display)
    return kept


def archive_at_path(path: Path) -> ArchiveSource:
    """Determine the kind of the archive at `path` from its contents."""
    with archives.Files(path) as files:
        if files.has("index.json"):
            return ArchiveSource("oci" if path.is_dir() else "oci-archive", str(path))
        return ArchiveSource("docker-archive", str(path))


def _keep(
    library: Library,
    image: archives.ArchivedImage,
    references: Sequence[Reference],
    display: TransferDisplay,
) -> list[str]:
    image_name = references[0].familiar
    image_documents = documents(image.manifest, image.config_data, image_name)
    library.image(image_documents, (), "", image_name)  # refused before anything is copied
    kept = [_keep_blob(library, part) for part in image.layers]
    manifest = image.manifest or make_manifest(
        Descriptor(manifests.DOCKER_CONFIG, digest_of(image.config_data), len(image.config_data)),
        [
            Descriptor(_layer_type(library, archive), archive.digest, archive.size_bytes)
            for archive in kept
        ],
        manifests.DOCKER_MANIFEST,
    )
    transfer = ImageTransfer("load", image_name, parts_of(manifest.layers))
    with shown(display, transfer):
        wants = library.wants(manifest, image_documents.diff_ids, transfer.parts, image_name)
        library.layers.ensure(wants, lambda: display.refresh(transfer))
    library.keep(image_documents._replace(manifest=manifest))
    for reference in references:
        library.names.set(reference, config=manifest.config.digest, digest=manifest.digest)
    return [reference.familiar for reference in references]


def _keep_blob(library: Library, part: Archive) -> Descriptor:
    """Copy a layer's archive into the store."""
    with open(f"/proc/self/fd/{part.fd}", "rb") as file:
        file.seek(part.offset)
        if part.digest is not None:
            library.blobs.copy(archives.Limited(file, part.size), part.digest, part.size)
            return Descriptor("", part.digest, part.size)
        return Descriptor("", *library.blobs.take(archives.Limited(file, part.size)))


def _layer_type(library: Library, layer: Descriptor) -> str:
    with library.blobs.path(layer.digest).open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return f"{manifests.DOCKER_LAYER}.gzip" if compressed else manifests.DOCKER_LAYER


def make_manifest(config: Descriptor, layers: Sequence[Descriptor], media_type: str) -> Manifest:
    """Make a manifest for an image that has none."""
    body = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config.json,
        "layers": [layer.json for layer in layers],
    }
    data = json.dumps(body, separators=(",", ":")).encode()
    return Manifest(media_type, digest_of(data), data, config, tuple(layers))


def import_rootfs(
    library: Library, path: Path, reference: Reference, config: Mapping[str, Any]
) -> None:
    """Make an image of one layer and keep it under a name.

    Raises:
        ImageError: It cannot be read, or is no tar.
    """
    try:
        with archives.rootfs_part(path) as part:
            layer, diff_id = add_layer(library.blobs, _pieces(part))
    except (CompressionError, OSError) as error:
        raise ImageError(f"import of {path}: {error}", path=str(path)) from None
    keep_image(library, reference, [layer], archives.config_of([diff_id], config))


def keep_image(
    library: Library,
    reference: Reference,
    layers: Sequence[Descriptor],
    config_data: bytes,
) -> None:
    """Keep an image that was made here, of layers whose archives are stored, under a name."""
    config = Descriptor(manifests.OCI_CONFIG, digest_of(config_data), len(config_data))
    manifest = make_manifest(config, layers, manifests.OCI_MANIFEST)
    image_documents = documents(manifest, config_data, reference.familiar)
    parts = parts_of(layers)
    library.layers.ensure(
        library.wants(manifest, image_documents.diff_ids, parts, reference.familiar)
    )
    library.keep(image_documents)
    library.names.set(reference, config=config.digest, digest=manifest.digest)


def _pieces(part: Archive) -> Iterator[bytes]:
    """Yield the tar in an archive, whatever its compression."""
    left = part.size

    def read(size: int) -> bytes:
        nonlocal left
        if part.size < 0:
            return os.read(part.fd, size)
        data = os.pread(part.fd, min(size, left), part.offset + part.size - left)
        left -= len(data)
        return data

    return decompressed(read)
