"""Images in files: OCI layout directories and tars, `docker save` tars, root file systems."""

from __future__ import annotations

import os
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pytest_containers.errors import ImageError, ImageNotFoundError
from pytest_containers.images import manifest as manifests
from pytest_containers.images.manifest import Descriptor
from pytest_containers.images.reference import ArchiveSource
from pytest_containers.images.store import verify


class Part(NamedTuple):
    """Where a layer's archive is: a part of an open file; size -1 is a pipe to its end."""

    fd: int
    offset: int
    size: int


class Files:
    """A directory, or a tar, as files by name. Owns its descriptors; a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tar: tarfile.TarFile | None = None
        self._opened: list[int] = []
        try:
            if not path.is_dir():
                # Without a look into the compressed ones: a part of a file is handed on.
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                self._opened.append(self._fd)
                self._tar = tarfile.open(fileobj=os.fdopen(os.dup(self._fd), "rb"), mode="r:")  # noqa: SIM115 - closed in `close`
                self._members = {_plain(one.name): one for one in self._tar.getmembers()}
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

    def part(self, name: str) -> Part:
        """Where file `name` is.

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
            raise ImageError(f"image {self._path}: {name} is missing; the archive is incomplete")
        return Part(self._fd, member.offset_data, member.size)

    def _open(self, name: str) -> Part:
        if ".." in name.split("/"):
            raise ImageError(f"image {self._path}: {name!r} leads out of it")
        try:
            fd = os.open(self._path / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ImageError(f"image {self._path}: {name}: {error.strerror}") from None
        self._opened.append(fd)
        return Part(fd, 0, os.fstat(fd).st_size)

    def read(self, name: str) -> bytes:
        """The contents of a small file."""
        part = self.part(name)
        if part.size > manifests.MAX_DOCUMENT_BYTES:
            raise ImageError(f"image {self._path}: {name} is too large")
        data = os.pread(part.fd, part.size, part.offset)
        if len(data) < part.size:
            raise ImageError(f"image {self._path}: {name} is truncated")
        return data

    def has(self, name: str) -> bool:
        """Whether file `name` is there."""
        return name in self._members if self._tar is not None else (self._path / name).exists()

    def close(self) -> None:
        """Close everything."""
        while self._opened:
            os.close(self._opened.pop())
        if self._tar is not None:
            self._tar.close()
            if self._tar.fileobj is not None:
                self._tar.fileobj.close()

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _plain(name: str) -> str:
    return name.removeprefix("./").strip("/")


class Found(NamedTuple):
    """An image in an archive.

    Attributes:
        layers: Where each is, with the digest of that part or None, bottom first.
        names: What the archive calls the image.
    """

    config: dict[str, Any]
    config_data: bytes
    layers: list[tuple[Part, str | None]]
    names: tuple[str, ...]
    digest: str


def find(files: Files, source: ArchiveSource) -> Found:
    """The image that `source` names in its archive.

    Raises:
        ImageNotFoundError: There is none of that name.
        ImageError: The archive is broken, or the image is for another machine.
    """
    if source.kind == "docker-archive":
        return _find_docker(files, source)
    return _find_oci(files, source)


def _find_oci(files: Files, source: ArchiveSource) -> Found:
    what = str(source)
    index = manifests.document(files.read("index.json"), f"{what}: index.json")
    found = [manifests.descriptor(one, what) for one in index.get("manifests") or ()]
    if source.name is not None:
        named = [one for one in found if source.name in one.names or one.digest == source.name]
        if not named:
            offered = ", ".join(name for one in found for name in one.names) or "no names"
            raise ImageNotFoundError(f"{what}: no image of that name; there are {offered}")
        found = named
    elif len(found) > 1 and len({one.platform for one in found}) == 1:
        listed = ", ".join(name for one in found for name in one.names)
        raise ImageError(f"{what} holds several images, {listed}; name one: {what}:NAME")
    chosen = manifests.choose(found, what)
    names = chosen.names
    for _ in range(4):  # an index of indexes is allowed, endless ones are not
        data = _blob(files, chosen, what)
        body = manifests.document(data, f"{what}: {chosen.digest}")
        if "manifests" not in body:
            break
        inner = [manifests.descriptor(one, what) for one in body["manifests"]]
        chosen = manifests.choose(inner, what)
    config_descriptor, layers = manifests.layers_of(body, what)
    config_data = _blob(files, config_descriptor, what)
    config = manifests.document(config_data, f"{what}: config")
    parts: list[tuple[Part, str | None]] = []
    for layer in layers:
        part = files.part(_blob_name(layer.digest))
        if part.size != layer.size_bytes:
            raise ImageError(
                f"{what}: layer {layer.digest} has {part.size} bytes instead of "
                f"{layer.size_bytes}; the archive is truncated or damaged"
            )
        parts.append((part, layer.digest))
    return Found(config, config_data, parts, names, chosen.digest)


def _blob_name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _blob(files: Files, what: Descriptor, name: str) -> bytes:
    data = files.read(_blob_name(what.digest))
    if len(data) != what.size_bytes:
        raise ImageError(
            f"{name}: {what.digest} has {len(data)} bytes instead of {what.size_bytes}"
        )
    verify(data, what.digest)
    return data


def _find_docker(files: Files, source: ArchiveSource) -> Found:
    what = str(source)
    if not files.has("manifest.json"):
        raise ImageError(f"{what}: manifest.json is missing; it is no archive of `docker save`")
    try:
        import json

        entries = json.loads(files.read("manifest.json"))
        chosen = _choose_docker(entries, source)
        config_name, layer_names = chosen["Config"], chosen["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise ImageError(f"{what}: manifest.json is malformed: {error}") from None
    config_data = files.read(config_name)
    config = manifests.document(config_data, f"{what}: {config_name}")
    layers: list[tuple[Part, str | None]] = [(files.part(name), None) for name in layer_names]
    return Found(config, config_data, layers, tuple(chosen.get("RepoTags") or ()), "")


def _choose_docker(entries: Any, source: ArchiveSource) -> dict[str, Any]:
    wanted = source.name
    if wanted is None:
        if len(entries) != 1:
            listed = ", ".join(name for one in entries for name in one.get("RepoTags") or ())
            raise ImageError(f"{source} holds several images, {listed}; name one: {source}:NAME")
        found: dict[str, Any] = entries[0]
        return found
    names = {wanted, f"{wanted}:latest"}
    for entry in entries:
        if names & set(entry.get("RepoTags") or ()):
            return dict(entry)
    offered = ", ".join(name for one in entries for name in one.get("RepoTags") or ())
    raise ImageNotFoundError(f"{source}: no image of that name; there are {offered or 'no names'}")


@contextmanager
def rootfs_part(path: Path) -> Iterator[Part]:
    """A root file system, a tar or a directory, as something to unpack.

    A directory is packed on the way, by a thread of this process, which may read all of it.
    """
    if not path.is_dir():
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield Part(fd, 0, os.fstat(fd).st_size)
        finally:
            os.close(fd)
        return
    reader, writer = os.pipe2(os.O_CLOEXEC)
    failures: list[BaseException] = []
    thread = threading.Thread(target=_pack, args=(path, writer, failures), daemon=True)
    thread.start()
    try:
        yield Part(reader, 0, -1)
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
