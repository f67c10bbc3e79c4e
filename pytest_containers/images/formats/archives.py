"""Images in files: OCI layout directories and tars, `docker save` tars, root file systems."""

from __future__ import annotations

import json
import os
import tarfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, NamedTuple

from pytest_containers.images import manifest as manifests
from pytest_containers.images.manifest import Descriptor, Manifest
from pytest_containers.images.reference import ArchiveSource
from pytest_containers.images.store.blobs import verify
from pytest_containers.images.store.layers import Archive, Opened, Want
from pytest_containers.model.errors import ImageError, ImageNotFoundError, hide_frames
from pytest_containers.model.harmless import shown
from pytest_containers.model.threads import starting_threads
from pytest_containers.model.transfer import Part

__tracebackhide__ = hide_frames

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Files:
    """A directory, or a tar, as files by name. Owns its descriptors; a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tar: tarfile.TarFile | None = None
        self._file: IO[bytes] | None = None
        self._opened: list[int] = []
        try:
            if not path.is_dir():
                self._open_tar()
        except BaseException:
            self.close()
            raise

    def _open_tar(self) -> None:
        path = self._path
        try:
            # Without a look into the compressed ones: a part of a file is handed on.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._opened.append(self._fd)
            self._file = os.fdopen(os.dup(self._fd), "rb")
            self._tar = tarfile.open(fileobj=self._file, mode="r:")  # noqa: SIM115 - closed in `close`
            self._members = {_plain(member.name): member for member in self._tar.getmembers()}
        except FileNotFoundError:
            raise ImageNotFoundError(f"image {path} does not exist", path=str(path)) from None
        except (tarfile.TarError, EOFError) as error:
            raise ImageError(
                f"image {path} is neither a directory nor an uncompressed tar, or is broken or "
                f"truncated: {error}",
                path=str(path),
            ) from None
        except OSError as error:
            raise ImageError(f"image {path}: {error.strerror}", path=str(path)) from None

    def part(self, name: str) -> Archive:
        """Locate the contents of file `name`.

        Raises:
            ImageError: It is not there.
        """
        name = _plain(name)
        if self._tar is None:
            return self._open(name)
        member = self._members.get(name)
        for _ in range(8):  # docker save has linked equal layers
            if member is None or not (member.issym() or member.islnk()):
                break
            target = member.linkname
            if member.issym():
                target = os.path.normpath(os.path.join(os.path.dirname(member.name), target))
            member = self._members.get(_plain(target))
        if member is None or not member.isreg():
            raise ImageError(
                f"image {self._path}: {shown(name)} is missing; the archive is incomplete"
            )
        return Archive(self._fd, member.offset_data, member.size)

    def _open(self, name: str) -> Archive:
        if ".." in name.split("/"):
            raise ImageError(f"image {self._path}: {name!r} leads out of it")
        try:
            fd = os.open(self._path / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ImageError(f"image {self._path}: {name}: {error.strerror}") from None
        self._opened.append(fd)
        return Archive(fd, 0, os.fstat(fd).st_size)

    def read(self, name: str) -> bytes:
        """Read the contents of a small file."""
        part = self.part(name)
        if part.size > manifests.MAX_DOCUMENT_BYTES:
            raise ImageError(f"image {self._path}: {shown(name)} is too large")
        data = os.pread(part.fd, part.size, part.offset)
        if len(data) < part.size:
            raise ImageError(f"image {self._path}: {shown(name)} is truncated")
        return data

    def has(self, name: str) -> bool:
        """Check whether file `name` exists."""
        return name in self._members if self._tar is not None else (self._path / name).exists()

    def close(self) -> None:
        """Close everything."""
        while self._opened:
            os.close(self._opened.pop())
        if self._tar is not None:
            self._tar.close()
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _plain(name: str) -> str:
    return name.removeprefix("./").strip("/")


class Limited:
    """A file cut off after a number of bytes."""

    def __init__(self, file: Any, size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


class ArchivedImage(NamedTuple):
    """An image in an archive.

    Attributes:
        manifest: As it is there; None in tars of `docker save` before version 25, which have none.
        layers: Where each is, with its digest if that is known, bottom first.
        names: What the archive calls the image.
    """

    manifest: Manifest | None
    config_data: bytes
    layers: list[Archive]
    names: tuple[str, ...]


def find(files: Files, source: ArchiveSource) -> ArchivedImage:
    """Find the image that `source` names in its archive.

    Raises:
        ImageNotFoundError: There is none of that name, or no name where there are several.
        ImageError: The archive is broken, or the image is for another machine.
    """
    if source.kind == "docker-archive":
        return _docker_image(files, _choose_docker(_docker_entries(files, source), source), source)
    return _oci_image(files, _choose_oci(_oci_entries(files, source), source), str(source))


def every(files: Files, source: ArchiveSource) -> list[ArchivedImage]:
    """Return all images of an archive that are for this machine.

    Raises:
        ImageError: It is broken, or has none for this machine.
    """
    if source.kind == "docker-archive":
        entries = _docker_entries(files, source)
        return [_docker_image(files, entry, source) for entry in entries]
    subject = str(source)
    by_name: dict[tuple[str, ...], list[Descriptor]] = {}
    for descriptor in _oci_entries(files, source):
        by_name.setdefault(descriptor.names, []).append(descriptor)
    return [
        _oci_image(files, manifests.choose(group, subject), subject) for group in by_name.values()
    ]


def _oci_entries(files: Files, source: ArchiveSource) -> list[Descriptor]:
    index = manifests.document(files.read("index.json"), f"{source}: index.json")
    listed = index.get("manifests")
    if not isinstance(listed, list) or not listed:
        raise ImageNotFoundError(f"{source}: there is no image in it")
    return [manifests.descriptor(entry, str(source)) for entry in listed]


def _choose_oci(images: list[Descriptor], source: ArchiveSource) -> Descriptor:
    subject = str(source)
    if source.name is not None:
        named = [
            image for image in images if source.name in image.names or image.digest == source.name
        ]
        if not named:
            offered = _listed(name for image in images for name in image.names)
            raise ImageNotFoundError(f"{subject}: no image of that name; there are {offered}")
        images = named
    elif len(images) > 1 and len({image.platform for image in images}) == 1:
        listed = _listed(name for image in images for name in image.names)
        raise ImageError(f"{subject} holds several images, {listed}; name one: {subject}:NAME")
    return manifests.choose(images, subject)


def _listed(names: Iterable[str]) -> str:
    """Return names for a message, whatever an archive has for names."""
    listed = [shown(name) for name in names]
    return ", ".join(listed[:5]) + (", …" if len(listed) > 5 else "") or "no names"


def _oci_image(files: Files, chosen: Descriptor, subject: str) -> ArchivedImage:
    def fetch(descriptor: Descriptor) -> bytes:
        return _blob(files, descriptor, subject)

    manifest = manifests.resolve(fetch(chosen), chosen.digest, chosen.media_type, fetch, subject)
    parts = []
    for layer in manifest.layers:
        part = files.part(_blob_name(layer.digest))
        if part.size != layer.size_bytes:
            raise ImageError(
                f"{subject}: layer {layer.digest} has {part.size} bytes instead of "
                f"{layer.size_bytes}; the archive is truncated or damaged"
            )
        parts.append(part._replace(digest=layer.digest))
    return ArchivedImage(manifest, fetch(manifest.config), parts, chosen.names)


def _blob_name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _blob(files: Files, descriptor: Descriptor, name: str) -> bytes:
    data = files.read(_blob_name(descriptor.digest))
    if len(data) != descriptor.size_bytes:
        raise ImageError(
            f"{name}: {descriptor.digest} has {len(data)} bytes instead of {descriptor.size_bytes}"
        )
    verify(data, descriptor.digest)
    return data


def _docker_entries(files: Files, source: ArchiveSource) -> list[dict[str, Any]]:
    if not files.has("manifest.json"):
        raise ImageError(f"{source}: manifest.json is missing; it is no archive of `docker save`")
    try:
        entries = json.loads(files.read("manifest.json"))
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{source}: manifest.json is malformed: {error}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ImageError(f"{source}: manifest.json is malformed: it is no list of images")
    for entry in entries:
        for key in ("Layers", "RepoTags"):
            texts = entry.get(key) or []
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise ImageError(f"{source}: manifest.json is malformed: {key} is no list of texts")
    return entries


def _docker_image(files: Files, entry: dict[str, Any], source: ArchiveSource) -> ArchivedImage:
    try:
        config_name, layer_names = str(entry["Config"]), [str(name) for name in entry["Layers"]]
        names = tuple(str(name) for name in entry.get("RepoTags") or ())
    except (KeyError, TypeError) as error:
        raise ImageError(f"{source}: manifest.json is malformed: {error}") from None
    layers = [files.part(name) for name in layer_names]
    return ArchivedImage(None, files.read(config_name), layers, names)


def _choose_docker(entries: list[dict[str, Any]], source: ArchiveSource) -> dict[str, Any]:
    image_name = source.name
    names_of = [(entry, tuple(entry.get("RepoTags") or ())) for entry in entries]
    listed = _listed(name for _, names in names_of for name in names)
    if image_name is None:
        if len(entries) != 1:
            raise ImageError(f"{source} holds several images, {listed}; name one: {source}:NAME")
        return entries[0]
    for entry, names in names_of:
        if {image_name, f"{image_name}:latest"} & set(names):
            return entry
    raise ImageNotFoundError(f"{source}: no image of that name; there are {listed}")


def wants(image: ArchivedImage, diff_ids: Sequence[str], subject: str) -> list[Want]:
    """List the layers of an image that is used where it lies."""

    def opened(archive: Archive) -> Opened:
        return lambda part, stop: nullcontext(archive)

    return [
        Want(
            diff_id,
            f"layer {diff_id[7:19]} of {subject}",
            Part(diff_id[7:19], archive.size),
            opened(archive),
        )
        for archive, diff_id in zip(image.layers, diff_ids, strict=True)
    ]


def config_of(diff_ids: Sequence[str], config: Mapping[str, Any]) -> bytes:
    """Return the config of an image for this machine.

    Args:
        config: How it is run, in the words of image-spec config.md.
    """
    document = {
        "architecture": manifests.architecture(),
        "os": "linux",
        "config": {"Env": [f"PATH={_PATH}"], "Cmd": ["/bin/sh"], **config},
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
    }
    return json.dumps(document, sort_keys=True).encode()


@contextmanager
def rootfs_part(path: Path) -> Iterator[Archive]:
    """Open a root file system, a tar or a directory, as an archive to unpack.

    A directory is packed on the way, by a thread of this process, which may read all of it.
    """
    if not path.is_dir():
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield Archive(fd, 0, os.fstat(fd).st_size)
        finally:
            os.close(fd)
        return
    reader, writer = os.pipe2(os.O_CLOEXEC)
    failures: list[BaseException] = []
    thread = threading.Thread(target=_pack, args=(path, writer, failures), daemon=True)
    with starting_threads():
        thread.start()
    try:
        yield Archive(reader, 0, -1)
    finally:
        os.close(reader)
        thread.join()
    if failures and not isinstance(failures[0], BrokenPipeError):
        raise ImageError(f"rootfs {path}: {failures[0]}") from failures[0]


def _pack(path: Path, writer: int, failures: list[BaseException]) -> None:
    try:
        with (
            open(writer, "wb") as file,
            tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            tar.add(path, arcname=".")
    except (OSError, tarfile.TarError) as error:
        failures.append(error)
