"""Images from files into the store: archives under their names, root file systems as new images."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_containers.errors import ImageError, hide_frames
from pytest_containers.images import archives, progress
from pytest_containers.images import manifest as manifests
from pytest_containers.images.blobs import digest_of
from pytest_containers.images.compress import add_layer
from pytest_containers.images.decompress import CompressionError, decompressed
from pytest_containers.images.layers import Archive
from pytest_containers.images.library import Library, documents
from pytest_containers.images.manifest import Descriptor, Manifest
from pytest_containers.images.reference import ArchiveSource, Reference, parse_reference

__tracebackhide__ = hide_frames


def load(library: Library, path: Path, name: str | None, display: progress.Display) -> list[str]:
    """Keep the images of an archive. Returns their names.

    Raises:
        ImageError: It is broken, or has no name.
    """
    source = archive_at_path(path)
    kept: list[str] = []
    with archives.Files(path) as files:
        images = archives.every(files, source)
        if name is not None and len(images) > 1:
            raise ImageError(f"{path}: there are {len(images)} images in it; they keep their names")
        for found in images:
            names = [name] if name is not None else list(found.names)
            if not names:
                raise ImageError(f"{path}: the image in it has no name; give it one")
            references = [parse_reference(one) for one in names]
            kept += _keep(library, found, references, display)
    return kept


def archive_at_path(path: Path) -> ArchiveSource:
    """What kind of archive is at `path`, by what is in it."""
    with archives.Files(path) as files:
        if files.has("index.json"):
            return ArchiveSource("oci" if path.is_dir() else "oci-archive", str(path))
        return ArchiveSource("docker-archive", str(path))


def _keep(
    library: Library, found: archives.Found, references: Sequence[Reference],
    display: progress.Display,
) -> list[str]:  # fmt: skip
    what = references[0].familiar
    known = documents(found.manifest, found.config_data, what)
    library.image(known, (), "", what)  # refused before anything is copied
    kept = [_keep_blob(library, part) for part in found.layers]
    manifest = found.manifest or make_manifest(
        Descriptor(manifests.DOCKER_CONFIG, digest_of(found.config_data), len(found.config_data)),
        [Descriptor(_layer_type(library, one), one.digest, one.size_bytes) for one in kept],
        manifests.DOCKER_MANIFEST,
    )
    transfer = progress.Transfer("load", what, progress.parts_of(manifest.layers))
    with progress.shown(display, transfer):
        wants = library.wants(manifest, known.diff_ids, transfer.parts, what)
        library.layers.ensure(wants, lambda: display.refresh(transfer))
    library.keep(known._replace(manifest=manifest))
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
    """A manifest for what has none."""
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
    made(library, reference, [layer], archives.config_of([diff_id], config))


def made(
    library: Library, reference: Reference, layers: Sequence[Descriptor], config_data: bytes,
) -> None:  # fmt: skip
    """Keep an image that was made here, of layers whose archives are kept, under a name."""
    config = Descriptor(manifests.OCI_CONFIG, digest_of(config_data), len(config_data))
    manifest = make_manifest(config, layers, manifests.OCI_MANIFEST)
    known = documents(manifest, config_data, reference.familiar)
    parts = progress.parts_of(layers)
    library.layers.ensure(library.wants(manifest, known.diff_ids, parts, reference.familiar))
    library.keep(known)
    library.names.set(reference, config=config.digest, digest=manifest.digest)


def _pieces(part: Archive) -> Iterator[bytes]:
    """The tar in an archive, whatever it is compressed with."""
    left = part.size

    def read(size: int) -> bytes:
        nonlocal left
        if part.size < 0:
            return os.read(part.fd, size)
        data = os.pread(part.fd, min(size, left), part.offset + part.size - left)
        left -= len(data)
        return data

    return decompressed(read)
