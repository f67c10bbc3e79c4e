"""Images from registries: resolve a name, fetch what is missing, unpack it while it arrives."""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

from filelock import Timeout

from pytest_containers.errors import ImageError, hide_frames
from pytest_containers.images import manifest as manifests
from pytest_containers.images.blobs import Blobs, verify
from pytest_containers.images.layers import Archive, archive_at
from pytest_containers.images.library import Fetch
from pytest_containers.images.manifest import Descriptor, Manifest
from pytest_containers.images.progress import Part
from pytest_containers.images.reference import Reference, parse_reference
from pytest_containers.images.registry.client import Registry
from pytest_containers.images.registry.download import Stopped, download
from pytest_containers.images.registry.settings import RegistrySettings, places
from pytest_containers.images.store import Store, storing

__tracebackhide__ = hide_frames

Policy = Literal["missing", "always", "never"]
POLICIES: tuple[Policy, ...] = ("missing", "always", "never")
_ARRIVED = struct.Struct("<Q")
_LOOK_S = 0.1
_TELL_BYTES = 1 << 18
_CHUNK_BYTES = 1 << 20


class Resolved(NamedTuple):
    """An image as a registry has it.

    Attributes:
        registry: Where it was found: the registry or a mirror of it.
        repository: There.
        tag_digest: What its tag stands for: an index or a manifest.
    """

    registry: Registry
    repository: str
    manifest: Manifest
    tag_digest: str
    config_data: bytes


class Registries:
    """The registries of a project: connections are made once. Thread-safe."""

    def __init__(self, settings: RegistrySettings) -> None:
        self.settings: RegistrySettings = settings
        self._lock = threading.Lock()
        self._known: dict[str, list[Registry]] = {}

    def of(self, name: str) -> list[Registry]:
        """Who has the images of registry `name`: mirrors first."""
        with self._lock:
            if name not in self._known:
                found = places(self.settings, name)
                self._known[name] = [Registry(place, self.settings) for place in found]
            return self._known[name]

    def itself(self, name: str) -> Registry:
        """The registry, and no mirror."""
        return self.of(name)[-1]

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            for registry in (one for several in self._known.values() for one in several):
                registry.close()
            self._known.clear()


class Puller:
    """Fetches images into a store.

    Args:
        store: Keeps blobs on their way.
        blobs: Keeps them.
        registries: Are asked.
    """

    def __init__(self, store: Store, blobs: Blobs, registries: Registries) -> None:
        self._store = store
        self._blobs = blobs
        self._registries = registries

    def tag_digest(self, reference: Reference) -> str | None:
        """What the name stands for at its registry now, by one request; None if it won't say."""
        target = reference.digest or reference.tag or ""
        for registry, last in self._all(reference):
            try:
                return registry.digest_of(reference.repository, target, shown=_image(reference))
            except ImageError:
                if last:
                    raise
        return None

    def resolve(self, reference: Reference) -> Resolved:
        """The image for this machine that a name stands for at its registry.

        Raises:
            ImageNotFoundError: There is none of that name.
            ImageError: It is not for this machine, or nothing that is supported.
            RegistryError: The registry cannot be asked.
        """
        for registry, last in self._all(reference):
            try:
                return self._resolve(registry, reference)
            except ImageError:
                if last:
                    raise
        raise AssertionError("there is at least the registry itself")

    def _all(self, reference: Reference) -> Iterator[tuple[Registry, bool]]:
        registries = self._registries.of(reference.registry)
        for number, registry in enumerate(registries, 1):
            yield registry, number == len(registries)

    def _resolve(self, registry: Registry, reference: Reference) -> Resolved:
        shown, repository = _image(reference), reference.repository
        target = reference.digest or reference.tag or ""
        top = registry.manifest(repository, target, shown=shown)

        def fetch(one: Descriptor) -> bytes:
            with suppress(ImageError):  # stored, and whole
                return self._blobs.read(one.digest, manifests.MAX_DOCUMENT_BYTES)
            found = registry.manifest(repository, one.digest, shown=shown)
            if found.media_type and one.media_type and found.media_type != one.media_type:
                raise ImageError(
                    f"{shown}: its index says {one.media_type!r} of {one.digest[:19]} and registry "
                    f"{registry.name} says {found.media_type!r}; it is refused"
                )
            return found.data

        manifest = manifests.resolve(top.data, top.digest, top.media_type, fetch, shown)
        config_data = self._config(registry, repository, manifest.config, shown)
        return Resolved(registry, repository, manifest, top.digest, config_data)

    def _config(self, registry: Registry, repository: str, config: Descriptor, shown: str) -> bytes:
        with suppress(ImageError):
            return self._blobs.read(config.digest, manifests.MAX_DOCUMENT_BYTES)
        if config.size_bytes > manifests.MAX_DOCUMENT_BYTES:
            raise ImageError(f"{shown}: its config has {config.size_bytes} bytes; it is refused")
        data = registry.small_blob(repository, config.digest, config.size_bytes, shown=shown)
        verify(data, config.digest)
        return data

    def fetch_from(self, registry: Registry, repository: str) -> Fetch:
        """How to get the layers of a repository."""

        def fetch(
            layer: Descriptor, name: str, part: Part, stop: threading.Event
        ) -> AbstractContextManager[Archive]:
            return self.fetched(registry, repository, layer, name, part, stop)

        return fetch

    def fetch_again(self, origin: str) -> Fetch:
        """The same for what was pulled from ``registry/repository`` before."""
        reference = parse_reference(origin)
        return self.fetch_from(self._registries.itself(reference.registry), reference.repository)

    @contextmanager
    def fetched(
        self, registry: Registry, repository: str, layer: Descriptor, name: str, part: Part,
        stop: threading.Event,
    ) -> Iterator[Archive]:  # fmt: skip
        """A layer's archive: from the store, else as it arrives; afterwards it is in the store."""
        part.size_bytes = layer.size_bytes
        with self._claimed(layer, part, stop):
            if self._blobs.has(layer.digest, layer.size_bytes):
                part.state, part.moved_bytes = "unpacking", layer.size_bytes
                part.before_bytes = layer.size_bytes
                try:
                    with archive_at(self._blobs.path(layer.digest), layer.digest) as archive:
                        yield archive
                except ImageError as error:
                    if getattr(error, "expected", None) == layer.digest:
                        self._blobs.drop(layer.digest)  # damaged: the next call fetches it anew
                    raise
                return
            arriving = _Arriving(
                self._blobs, self._store.home, layer, name, part, stop,
                lambda start, take: download(
                    registry, repository, layer, start, take, shown=name
                ),
            )  # fmt: skip
            with arriving as archive:
                yield archive

    @contextmanager
    def _claimed(self, layer: Descriptor, part: Part, stop: threading.Event) -> Iterator[None]:
        """Nobody else fetches it meanwhile; while somebody does, its progress is ours too."""
        lock = self._store.lock(f"blob-{layer.digest[7:71]}")
        partial = self._blobs.partial(layer.digest)
        while True:
            try:
                with lock.acquire(timeout=_LOOK_S):  # type: ignore[attr-defined]
                    yield
                return
            except Timeout:
                if stop.is_set():
                    raise Stopped from None
                with suppress(FileNotFoundError):
                    part.moved_bytes = part.before_bytes = partial.stat().st_size


class _Arriving:
    """A blob that a thread downloads into a file, from which others read meanwhile.

    Left without an error, it is whole, verified and in the store. What was interrupted is kept, and
    the next one goes on there.

    Attributes:
        archive: The file, and the pipe that tells how much of it is there.
    """

    def __init__(
        self, blobs: Blobs, home: Path, layer: Descriptor, name: str, part: Part,
        stop: threading.Event, fetch: Callable[[int, Callable[[bytes], None]], None],
    ) -> None:  # fmt: skip
        self._blobs = blobs
        self._home = home
        self._layer = layer
        self._name = name
        self._part = part
        self._stop = stop
        self._fetch = fetch
        self._given_up = False
        self._failure: BaseException | None = None
        self._hash = hashlib.sha256() if layer.digest.startswith("sha256:") else hashlib.sha512()
        self._at = self._told = 0

    def __enter__(self) -> Archive:
        path = self._blobs.partial(self._layer.digest)
        with storing(self._name, self._home):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._take_up()
        reader, self._arrivals = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._arrivals, False)
        self._reader = reader
        self._part.state = "downloading"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return Archive(self._fd, 0, self._layer.size_bytes, reader)

    def _take_up(self) -> None:
        """Count what an earlier attempt has left."""
        if os.fstat(self._fd).st_size > self._layer.size_bytes:
            os.ftruncate(self._fd, 0)
        while data := os.pread(self._fd, _CHUNK_BYTES, self._at):
            self._hash.update(data)
            self._at += len(data)
        self._part.moved_bytes = self._part.before_bytes = self._at

    def _run(self) -> None:
        path = self._blobs.partial(self._layer.digest)
        try:
            with storing(self._name, self._home):
                try:
                    self._fetch(self._at, self._take)
                    self._tell(last=True)
                finally:
                    os.close(self._arrivals)
                self._verify(path)
                self._blobs.publish(path, self._layer.digest)
        except BaseException as error:  # noqa: BLE001 - raised where the archive is used
            self._failure = error

    def _take(self, data: bytes) -> None:
        if self._given_up or self._stop.is_set():
            raise Stopped
        self._hash.update(data)
        rest = memoryview(data)
        while rest:
            rest = rest[os.pwrite(self._fd, rest, self._at + len(data) - len(rest)) :]
        self._at += len(data)
        self._part.moved_bytes = self._at
        if self._at - self._told >= _TELL_BYTES:
            self._tell(last=False)

    def _tell(self, *, last: bool) -> None:
        """How much there is. Nobody has to listen, but the last word must not be lost."""
        if last:
            os.set_blocking(self._arrivals, True)
            self._part.state = "unpacking"
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(self._arrivals, _ARRIVED.pack(self._at))
            self._told = self._at

    def _verify(self, path: Path) -> None:
        actual = f"{self._hash.name}:{self._hash.hexdigest()}"
        if actual != self._layer.digest:
            path.unlink(missing_ok=True)
            raise ImageError(
                f"{self._name}: what came does not match its digest: expected "
                f"{self._layer.digest}, got {actual}; it was damaged on the way or is not what it "
                "claims. Pull again; if that fails too, ask the registry's owner",
                expected=self._layer.digest,
                actual=actual,
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        self._given_up = error is not None
        os.close(self._reader)  # first: the thread may be telling somebody who has gone
        self._thread.join()
        os.close(self._fd)
        if self._failure is not None:
            raise self._failure from None
        if error is not None:  # it came as it should, and is of no use
            self._blobs.partial(self._layer.digest).unlink(missing_ok=True)


def _image(reference: Reference) -> str:
    return f"pull of image {reference.familiar!r}"
