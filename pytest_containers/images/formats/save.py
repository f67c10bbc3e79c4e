"""Stored images into files that other tools take: OCI layouts, as a directory or a tar."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pytest_containers.images.manifest import OCI_INDEX, REF_NAME, Descriptor, Manifest
from pytest_containers.images.registry.pull import Puller
from pytest_containers.images.store.fetch_stop import FetchStop
from pytest_containers.images.store.library import Documents, Library
from pytest_containers.images.store.names import Record
from pytest_containers.model.errors import ImageError, hide_frames
from pytest_containers.model.transfer import Part

if TYPE_CHECKING:
    from pytest_containers.model.images import ArchiveForm

__tracebackhide__ = hide_frames

_CONTAINERD_NAME = "io.containerd.image.name"


def save(
    library: Library, records: Sequence[Record], target: Path, form: ArchiveForm, puller: Puller
) -> None:
    """Write images, byte for byte as they are stored.

    A tar of ours is an OCI archive and one of `docker save` at once. It appears when it is whole.

    Raises:
        ImageError: A part of one is missing, or `target` cannot be written.
    """
    images = [(record, library.documents_of(record)) for record in records]
    for record, documents in images:
        have_all(library, record, documents, puller)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if form == "layout":
            if target.exists():
                raise ImageError(f"save to {target}: it is there already; name another directory")
            draft.mkdir()
            _write(library, images, _Folder(draft))
        else:
            with draft.open("xb") as file:
                write_archive(library, images, file)
        draft.rename(target)
    except OSError as error:
        raise ImageError(f"save to {target}: {error.strerror}", path=str(target)) from None
    finally:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def write_archive(
    library: Library, images: Sequence[tuple[Record, Documents]], file: IO[bytes]
) -> None:
    """Write images as a tar into an open file; see `save`."""
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        _write(library, images, _Tar(tar))


def have_all(library: Library, record: Record, documents: Documents, puller: Puller) -> None:
    """Fetch the archives that are not stored: layers may have been unpacked from elsewhere.

    Raises:
        ImageError: One is not to be had.
    """
    if documents.manifest is None:
        raise ImageError(
            f"save of image {record.reference.familiar!r}: it was stored without a manifest; "
            "load it again"
        )
    for layer in documents.manifest.layers:
        if library.blobs.has(layer.digest, layer.size_bytes):
            continue
        name = f"layer {layer.digest[7:19]} of {record.reference.familiar}"
        if not record.origin:
            raise ImageError(f"{name} is not in the store any more; load the image again")
        fetch = puller.fetch_again(record.origin)
        with fetch(layer, name, Part("", layer.size_bytes), FetchStop()):
            pass


class _Tar:
    """Files in a tar: equal input gives equal output."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        for name in ("blobs", "blobs/sha256"):  # skopeo would make them root's, and may not
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)

    def add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o644
        self._tar.addfile(member, io.BytesIO(data))

    def copy(self, name: str, path: Path) -> None:
        member = tarfile.TarInfo(name)
        with path.open("rb") as file:
            member.size, member.mode = os.fstat(file.fileno()).st_size, 0o644
            self._tar.addfile(member, file)


class _Folder:
    """Files in a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def add(self, name: str, data: bytes) -> None:
        self._path(name).write_bytes(data)

    def copy(self, name: str, path: Path) -> None:
        shutil.copyfile(path, self._path(name))

    def _path(self, name: str) -> Path:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _write(
    library: Library, images: Sequence[tuple[Record, Documents]], out: _Tar | _Folder
) -> None:
    out.add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    out.add("index.json", _json(_index(images)))
    written: set[str] = set()
    for _, documents in images:
        manifest = _manifest(documents)
        for blob in (_self(manifest), manifest.config, *manifest.layers):
            if blob.digest not in written:
                written.add(blob.digest)
                out.copy(_blob_name(blob.digest), library.blobs.path(blob.digest))
    out.add("manifest.json", _json(_docker_index(images)))


def _index(images: Sequence[tuple[Record, Documents]]) -> dict[str, Any]:
    entries = []
    for record, documents in images:
        reference = record.reference
        where = {
            key: documents.config[key]
            for key in ("architecture", "os", "variant")
            if isinstance(documents.config.get(key), str)
        }
        names = {_CONTAINERD_NAME: str(reference), REF_NAME: str(reference)}
        entries.append(
            {**_self(_manifest(documents)).json, "platform": where, "annotations": names}
        )
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}


def _docker_index(images: Sequence[tuple[Record, Documents]]) -> list[dict[str, Any]]:
    """Build manifest.json, which Podman and `docker load` before version 25 read."""
    entries: dict[str, dict[str, Any]] = {}
    for record, documents in images:
        manifest = _manifest(documents)
        entry = entries.setdefault(
            manifest.config.digest,
            {
                "Config": _blob_name(manifest.config.digest),
                "RepoTags": [],
                "Layers": [_blob_name(layer.digest) for layer in manifest.layers],
            },
        )
        if record.reference.tag is not None:
            entry["RepoTags"].append(record.reference.familiar.partition("@")[0])
    return list(entries.values())


def _manifest(documents: Documents) -> Manifest:
    if documents.manifest is None:
        raise ImageError("the image was stored without a manifest; load it again")
    return documents.manifest


def _self(manifest: Manifest) -> Descriptor:
    return Descriptor(manifest.media_type, manifest.digest, len(manifest.data))


def _blob_name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
