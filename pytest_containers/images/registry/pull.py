"""Images from registries: resolve a name, fetch what is missing, unpack it while it arrives."""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from pytest_containers.images import manifest as manifests
from pytest_containers.images.manifest import Descriptor, Manifest
from pytest_containers.images.reference import Reference, parse_reference
from pytest_containers.images.registry.client import Registry
from pytest_containers.images.registry.download import download
from pytest_containers.images.registry.settings import places
from pytest_containers.images.store.blobs import Blobs, verify
from pytest_containers.images.store.fetch_stop import FetchStop, Stopped
from pytest_containers.images.store.layers import Archive, archive_at
from pytest_containers.images.store.library import Fetch
from pytest_containers.images.store.store import Store, storing
from pytest_containers.model.engine_options import RegistrySettings
from pytest_containers.model.errors import ImageError, hide_frames
from pytest_containers.model.threads import starting_threads
from pytest_containers.model.transfer import Part

__tracebackhide__ = hide_frames

_ARRIVED = struct.Struct("<Q")
_LOOK_S = 0.1
_PATIENCE_S = 0.3
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
        """Return the registries with the images of registry `name`: mirrors first."""
        with self._lock:
            if name not in self._known:
                candidates = places(self.settings, name)
                self._known[name] = [Registry(place, self.settings) for place in candidates]
            return self._known[name]

    def itself(self, name: str) -> Registry:
        """Return the registry, and no mirror."""
        return self.of(name)[-1]

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            for registry in (registry for several in self._known.values() for registry in several):
                registry.close()
            self._known.clear()


class Puller:
    """A fetcher of images into a store.

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
        """Ask a registry once for the digest that a name stands for; None if it won't say."""
        target = reference.digest or reference.tag or ""
        for registry, last in self._all(reference):
            try:
                return registry.digest_of(reference.repository, target, shown=_image(reference))
            except ImageError:
                if last:
                    raise
        return None

    def resolve(self, reference: Reference) -> Resolved:
        """Resolve a name to the image for this machine at its registry.

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

        def fetch(descriptor: Descriptor) -> bytes:
            with suppress(ImageError):  # stored, and whole
                return self._blobs.read(descriptor.digest, manifests.MAX_DOCUMENT_BYTES)
            document = registry.manifest(repository, descriptor.digest, shown=shown)
            if (
                document.media_type
                and descriptor.media_type
                and document.media_type != descriptor.media_type
            ):
                raise ImageError(
                    f"{shown}: its index says {descriptor.media_type!r} of "
                    f"{descriptor.digest[:19]} and registry {registry.name} says "
                    f"{document.media_type!r}; it is refused"
                )
            return document.data

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
        """Return a function that fetches the layers of a repository."""

        def fetch(
            layer: Descriptor, name: str, part: Part, stop: FetchStop
        ) -> AbstractContextManager[Archive]:
            return self.fetched(registry, repository, layer, name, part, stop)

        return fetch

    def fetch_again(self, origin: str) -> Fetch:
        """Return `fetch_from` for an image pulled from ``registry/repository`` before."""
        reference = parse_reference(origin)
        return self.fetch_from(self._registries.itself(reference.registry), reference.repository)

    @contextmanager
    def fetched(
        self,
        registry: Registry,
        repository: str,
        layer: Descriptor,
        name: str,
        part: Part,
        stop: FetchStop,
    ) -> Iterator[Archive]:
        """Provide a layer's archive: from the store, else as it arrives and is stored."""
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
                self._blobs,
                self._store.home,
                layer,
                name,
                part,
                stop,
                lambda start, take: download(registry, repository, layer, start, take, shown=name),
            )
            with arriving as archive:
                yield archive

    @contextmanager
    def _claimed(self, layer: Descriptor, part: Part, stop: FetchStop) -> Iterator[None]:
        """Lock a blob against other fetches; while another has it, show the other's progress."""
        partial = self._blobs.partial(layer.digest)

        def look() -> None:
            with suppress(FileNotFoundError):
                part.moved_bytes = part.before_bytes = partial.stat().st_size

        with stop.holding(self._store.lock(f"blob-{layer.digest[7:71]}"), look):
            yield


class _Arriving:
    """A blob that a thread downloads into a file, from which others read meanwhile.

    Left without an error, it is whole, verified and in the store. What was interrupted is kept, and
    the next one goes on there. A thread that is given up while it waits for the registry is left to
    itself: it writes nothing any more, and ends with the process or when the registry answers.

    Attributes:
        archive: The file, and the pipe that tells how much of it is there.
    """

    def __init__(
        self,
        blobs: Blobs,
        home: Path,
        layer: Descriptor,
        name: str,
        part: Part,
        stop: FetchStop,
        fetch: Callable[[int, Callable[[bytes], None]], None],
    ) -> None:
        self._blobs = blobs
        self._home = home
        self._layer = layer
        self._name = name
        self._part = part
        self._stop = stop
        self._fetch = fetch
        self._turn = threading.Lock()
        self._given_up = False  # from then on, the thread writes nothing
        self._failure: BaseException | None = None
        self._hash = hashlib.sha256() if layer.digest.startswith("sha256:") else hashlib.sha512()
        self._at = self._told = 0

    def __enter__(self) -> Archive:
        with storing(self._name, self._home), ExitStack() as on_failure:
            self._path = self._blobs.partial(self._layer.digest)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            on_failure.callback(os.close, self._fd)
            self._take_up()
            self._reader, self._arrivals = os.pipe2(os.O_CLOEXEC)
            on_failure.callback(os.close, self._reader)
            on_failure.callback(os.close, self._arrivals)
            os.set_blocking(self._arrivals, False)
            self._part.state = "downloading"
            self._thread = threading.Thread(target=self._run, daemon=True)
            with starting_threads():
                self._thread.start()
            on_failure.pop_all()
        return Archive(self._fd, 0, self._layer.size_bytes, self._reader)

    def _take_up(self) -> None:
        """Count the bytes that an earlier attempt has left."""
        if os.fstat(self._fd).st_size > self._layer.size_bytes:
            os.ftruncate(self._fd, 0)
        while data := os.pread(self._fd, _CHUNK_BYTES, self._at):
            self._hash.update(data)
            self._at += len(data)
        self._part.moved_bytes = self._part.before_bytes = self._at

    def _run(self) -> None:
        try:
            with storing(self._name, self._home):
                try:
                    self._fetch(self._at, self._take)
                    self._tell(last=True)
                finally:
                    os.close(self._arrivals)
                with self._turn:
                    self._raise_if_given_up()
                    self._verify()
                    self._blobs.publish(self._path, self._layer.digest)
        except BaseException as error:  # noqa: BLE001 - raised where the archive is used
            self._failure = error

    def _take(self, data: bytes) -> None:
        with self._turn:
            self._raise_if_given_up()
            self._hash.update(data)
            rest = memoryview(data)
            while rest:
                rest = rest[os.pwrite(self._fd, rest, self._at + len(data) - len(rest)) :]
            self._at += len(data)
            self._part.moved_bytes = self._at
            if self._at - self._told >= _TELL_BYTES:
                self._tell(last=False)

    def _raise_if_given_up(self) -> None:
        if self._given_up or self._stop.is_set():
            raise Stopped

    def _tell(self, *, last: bool) -> None:
        """Report the bytes so far. A report may be lost when nothing reads it, but not the last."""
        if last:
            os.set_blocking(self._arrivals, True)
            self._part.state = "unpacking"
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(self._arrivals, _ARRIVED.pack(self._at))
            self._told = self._at

    def _verify(self) -> None:
        actual = f"{self._hash.name}:{self._hash.hexdigest()}"
        if actual != self._layer.digest:
            self._path.unlink(missing_ok=True)
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
        os.close(self._reader)  # first: the thread may be telling somebody who has gone
        while error is None and self._thread.is_alive() and not self._stop.is_set():
            self._thread.join(_LOOK_S)
        with self._turn:
            self._given_up = error is not None or self._thread.is_alive()
        self._thread.join(_PATIENCE_S)
        os.close(self._fd)
        if self._thread.is_alive():
            self._failure = Stopped()
        if isinstance(self._failure, Stopped) and error is not None:
            return  # given up because of `error`, which tells why; what came is kept
        if self._failure is not None:
            raise self._failure from None
        if error is not None:  # it came as it should, and is of no use
            self._path.unlink(missing_ok=True)


def _image(reference: Reference) -> str:
    return f"pull of image {reference.familiar!r}"
