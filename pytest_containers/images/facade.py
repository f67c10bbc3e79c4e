"""Images by name: the one door through which engines and the command line come."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_containers.errors import ImageError, ImageNotFoundError, hide_frames
from pytest_containers.images.host import host_image
from pytest_containers.images.image import Image, Layer
from pytest_containers.images.inside import Inside
from pytest_containers.images.reference import (
    ArchiveSource,
    HostSource,
    Reference,
    RootfsSource,
    parse,
    parse_reference,
)
from pytest_containers.images.store import Hold, Store, default_home, digest_of, storing

__tracebackhide__ = hide_frames

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Images:
    """The images of one store.

    Thread-safe. In a forked child, make a new one if the run is another.

    Args:
        home: The store's directory; None is `default_home()`.
        inside_factory: Gives access to the run's user namespace. Called at most once, when an
            image with layers of its own is asked for; `host:` never needs it.
        project: The checkout that ``host:?project=1`` shows; None finds it from the working
            directory.
    """

    def __init__(
        self,
        home: Path | None,
        inside_factory: Callable[[], Inside],
        *,
        project: Path | None = None,
    ) -> None:
        self.store: Store = Store(home or default_home())
        self._inside_factory = inside_factory
        self._inside: Inside | None = None
        self._project = project
        self._known: dict[tuple[str, tuple[str, ...], tuple[str, ...]], Image] = {}

    @property
    def inside(self) -> Inside:
        """Access to the run's user namespace."""
        if self._inside is None:
            self._inside = self._inside_factory()
        return self._inside

    def get(
        self, reference: str, *, etc: Sequence[str] = (), binaries: Sequence[str] = ()
    ) -> Image:
        """The image that `reference` names, ready to be started from.

        The answer is remembered: asked again, it costs microseconds and does not change.

        Args:
            reference: As `reference.parse` takes it.
            etc: For `host:`, more names below /etc to show (``"mysql"``).
            binaries: For `host:`, programs whose change makes it another image.

        Raises:
            ImageNotFoundError: There is no such image.
            ImageError: It cannot be read, is for another machine, or cannot be stored.
        """
        key = (reference, tuple(etc), tuple(binaries))
        image = self._known.get(key)
        if image is None:
            image = self._known[key] = self._get(reference, etc, binaries)
        return image

    def _get(self, reference: str, etc: Sequence[str], binaries: Sequence[str]) -> Image:
        source = parse(reference)
        if isinstance(source, HostSource):
            source = replace(
                source, etc=(*source.etc, *etc), binaries=(*source.binaries, *binaries)
            )
            return host_image(self.store, source, project=self._project, name=reference)
        if isinstance(source, ArchiveSource):
            return self._from_archive(source)[0]
        if isinstance(source, RootfsSource):
            return self._from_rootfs(Path(source.path).absolute(), {}, reference)
        return self._from_store(source)

    # ------------------------------------------------------------------ sources

    def _from_archive(self, source: ArchiveSource) -> tuple[Image, tuple[str, ...]]:
        from pytest_containers.images import archives, manifest
        from pytest_containers.images.layers import Layers

        what = str(source)
        with archives.Files(Path(source.path)) as files:
            found = archives.find(files, source)
            config = manifest.parse_config(found.config, what)
            diff_ids = manifest.diff_ids_of(found.config, what)
            if len(diff_ids) != len(found.layers):
                raise ImageError(f"{what}: its config and its manifest differ in number of layers")
            unpacker = Layers(self.store, self.inside)
            layers = [
                unpacker.ensure(part, digest, diff_id, f"layer {diff_id[7:19]} of {what}")
                for (part, digest), diff_id in zip(found.layers, diff_ids, strict=True)
            ]
        config_digest = self.store.write_blob(found.config_data)
        image = Image(config_digest, what, tuple(layers), config, (), found.digest)
        return image, found.names

    def _from_rootfs(self, path: Path, config: Mapping[str, Any], name: str) -> Image:
        """An image of one layer. What was unpacked before is known by the file's identity."""
        from pytest_containers.images import archives, manifest
        from pytest_containers.images.layers import Layers

        try:
            status = path.stat()
        except OSError as error:
            raise ImageNotFoundError(f"rootfs {path}: {error.strerror}", path=str(path)) from None
        unpacker = Layers(self.store, self.inside)
        identity = [
            str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns,
            status.st_ctime_ns, self.inside.id_map_class,
        ]  # fmt: skip
        signature = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        known = self.store.home / "images" / f"rootfs-{signature}.json"
        # A directory changes without a trace in its own times, so it is read every time.
        record = None if path.is_dir() else self.store.read_json(known)
        layer = unpacker.find(record["diff_id"]) if record is not None else None
        if layer is None:
            with self.store.lock(f"rootfs-{signature[:32]}"), archives.rootfs_part(path) as part:
                record = None if path.is_dir() else self.store.read_json(known)
                layer = unpacker.find(record["diff_id"]) if record is not None else None
                if layer is None:
                    layer, _ = unpacker.unpack(part, None, None, f"rootfs {path}")
                    with storing(name, self.store.home):
                        text = json.dumps({"diff_id": layer.diff_id}).encode()
                        self.store.write_atomically(known, text)
        document = {
            "architecture": manifest.architecture(),
            "os": "linux",
            "config": {"Env": [f"PATH={_PATH}"], "Cmd": ["/bin/sh"], **config},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        }
        data = json.dumps(document, sort_keys=True).encode()
        self.store.write_blob(data)
        return Image(digest_of(data), name, (layer,), manifest.parse_config(document, name))

    # ----------------------------------------------------------- the store's own

    def load(self, path: str | os.PathLike[str], *, name: str | None = None) -> list[str]:
        """Put an image of an archive into the store, under the names it has there.

        Args:
            path: An OCI layout (directory or tar) or a tar of `docker save`.
            name: A name to give it; needed when the archive has none.

        Returns:
            Its names in the store.
        """
        source = _archive_at(Path(path))
        image, names = self._from_archive(source)
        wanted = [name] if name is not None else list(names)
        if not wanted:
            raise ImageError(f"{path}: the image in it has no name; give it one")
        return [self._record(image, one) for one in wanted]

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
        image = self._from_rootfs(Path(path).absolute(), config or {}, name)
        self._record(image, name)
        return self.get(name)

    def _record(self, image: Image, name: str) -> str:
        reference = parse_reference(name)
        record = {"name": str(reference), "config": image.id, "digest": image.digest}
        with storing(name, self.store.home):
            path = self._record_path(reference)
            self.store.write_atomically(path, json.dumps(record).encode())
        for key in [key for key in self._known if key[0] in (name, reference.familiar)]:
            del self._known[key]
        return reference.familiar

    def _record_path(self, reference: Reference) -> Path:
        digest = hashlib.sha256(str(reference).encode()).hexdigest()
        return self.store.home / "images" / f"{digest}.json"

    def _from_store(self, reference: Reference) -> Image:
        from pytest_containers.images import manifest
        from pytest_containers.images.layers import Layers

        record = self.store.read_json(self._record_path(reference))
        if record is None:
            raise ImageNotFoundError(
                f"image {reference.familiar!r} is not in the store; put it there with "
                "`pytest-containers load` or `import`, or use host:, oci:PATH, "
                "docker-archive:PATH or rootfs:PATH",
                reference=reference.familiar,
            )
        what = reference.familiar
        data = self.store.read_blob(record["config"], manifest.MAX_DOCUMENT_BYTES)
        config = manifest.document(data, what)
        unpacker = Layers(self.store, self.inside)
        layers: list[Layer] = []
        for diff_id in manifest.diff_ids_of(config, what):
            layer = unpacker.find(diff_id)
            if layer is None:
                raise ImageError(
                    f"image {what!r}: layer {diff_id} is not unpacked for this account's ids "
                    f"({self.inside.id_map_class}); load it again"
                )
            layers.append(layer)
        parsed = manifest.parse_config(config, what)
        return Image(record["config"], what, tuple(layers), parsed, (), record["digest"])

    def list(self) -> list[dict[str, Any]]:
        """Images that have a name in the store: ``name``, ``id``."""
        return sorted(self._records(), key=lambda record: str(record["name"]))

    def _records(self) -> Iterator[dict[str, Any]]:
        for path in (self.store.home / "images").glob("*.json"):
            record = self.store.read_json(path)
            if record is not None and "name" in record:
                yield {"name": parse_reference(record["name"]).familiar, "id": record["config"]}

    def remove(self, name: str) -> None:
        """Forget a name; its layers stay until they are pruned.

        Raises:
            ImageNotFoundError: There is no such name.
        """
        reference = parse_reference(name)
        try:
            self._record_path(reference).unlink()
        except FileNotFoundError:
            raise ImageNotFoundError(f"image {name!r} is not in the store") from None
        self._known.clear()

    def hold(self, image: Image) -> Hold:
        """Keep the layers of `image` from being pruned until the hold is closed.

        Raises:
            FileNotFoundError: One is gone already.
        """
        return Hold(layer.path for layer in image.layers)


def _archive_at(path: Path) -> ArchiveSource:
    """What kind of archive is at `path`, by what is in it."""
    from pytest_containers.images import archives

    with archives.Files(path) as files:
        if files.has("index.json"):
            return ArchiveSource("oci" if path.is_dir() else "oci-archive", str(path))
        return ArchiveSource("docker-archive", str(path))
