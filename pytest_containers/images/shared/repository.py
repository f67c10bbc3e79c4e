"""A repository in which machines share results; never needed, so it never fails a test run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_containers.images import manifest as manifests
from pytest_containers.images.formats.compress import gzipped
from pytest_containers.images.manifest import Descriptor
from pytest_containers.images.reference import parse_reference
from pytest_containers.images.registry.client import Document, Registry
from pytest_containers.images.registry.download import download
from pytest_containers.images.registry.settings import Place
from pytest_containers.images.registry.upload import Upload, has_blob, put_manifest
from pytest_containers.images.shared import documents
from pytest_containers.images.shared.background import arriving
from pytest_containers.images.shared.documents import Artifact, ListedResult, Marker
from pytest_containers.images.store import states as records
from pytest_containers.images.store.blobs import digest_of, verify
from pytest_containers.images.store.layers import Archive
from pytest_containers.images.store.store import Store
from pytest_containers.model.engine_options import RegistrySettings
from pytest_containers.model.errors import (
    ImageError,
    ImageNotFoundError,
    RegistryError,
    SettingsError,
    hide_frames,
)
from pytest_containers.model.sharing import SharedPlace
from pytest_containers.model.threads import starting_threads

__tracebackhide__ = hide_frames

_DOWN_S = 1.0
_CONNECT_S, _ANSWER_S = 1.0, 15.0
_TRIES = 2
_LONGEST_PAUSE_S = 0.5
_SECRET_BYTES = 16
_DENIED = (401, 403, 405)


class SharedRepository:
    """A repository with results of other machines. Thread-safe.

    States: *unknown* until the first use, which takes at most a second; then *usable*; *read-only*
    once a push is denied, or from the start if the settings say so; *down* after a failure, for
    the rest of the test run, also for its other processes. Each way down is told once.

    Args:
        place: Where it is.
        kind: The kind of the results, ``state``.
        settings: How registries are reached.
        store: Keeps the note that it is down, and files on their way.
        key_file: The file with the secret that signs results; None signs nothing.
        run: A name that all processes of a test run share; None if there is only one.
        warn: Gets a sentence about each problem.
    """

    def __init__(
        self,
        place: SharedPlace,
        kind: str,
        settings: RegistrySettings,
        store: Store,
        *,
        key_file: str | None,
        run: str | None,
        warn: Callable[[str], object],
    ) -> None:
        reference = parse_reference(place.repository)
        self.place = place
        self.kind = kind
        self._repository: str = reference.repository
        self._shown = f"{kind}s shared in {place.repository}"
        self._registry = Registry(
            Place(reference.registry), settings, _pause, tries=_TRIES,
            timeouts_s=(_CONNECT_S, _ANSWER_S),
        )  # fmt: skip
        self._store = store
        self._secret = None if key_file is None else _secret_of(Path(key_file))
        self._run = run
        self._warn = warn
        self._lock = threading.Lock()
        self._usable: bool | None = None
        self._read_only = place.read_only
        self._has_empty = False
        self._told: set[str] = set()
        self._note_key = hashlib.sha256(f"shared {place.repository}".encode()).hexdigest()

    # ------------------------------------------------------------------- in use

    @property
    def usable(self) -> bool:
        """True while the registry answers; the first look takes at most a second."""
        with self._lock:
            if self._usable is None:
                self._usable = self._is_up()
            return self._usable

    @property
    def writable(self) -> bool:
        """True while results are pushed."""
        return not self._read_only and self.usable

    def _is_up(self) -> bool:
        if self._run is not None and records.failure_of(self._store, self._note_key, self._run):
            return False  # another process of this run has told it
        answers: list[RegistryError | None] = []

        def ask() -> None:
            try:
                self._registry.ping(self._repository, shown=self._shown)
                answers.append(None)
            except RegistryError as error:
                answers.append(error)

        # In a thread: a look-up of a name has no time limit of its own.
        thread = threading.Thread(target=ask, daemon=True)
        with starting_threads():
            thread.start()
        thread.join(_DOWN_S)
        problem = answers[0] if answers else "no answer within a second"
        if problem is None:
            return True
        self._tell_down(problem)
        return False

    def give_up(self, problem: object) -> None:
        """Leave the registry alone for the rest of the test run."""
        with self._lock:
            told, self._usable = self._usable is False, False
        if not told:
            self._tell_down(problem)

    def _tell_down(self, problem: object) -> None:
        self.tell(f"{problem}; this run does without it")
        if self._run is not None:
            with contextlib.suppress(ImageError):
                failure = {"message": str(problem)}
                records.note_failure(self._store, self._note_key, self._run, failure)

    def tell(self, problem: object) -> None:
        """Warn of a problem, once."""
        message = str(problem)
        if not message.startswith(self._shown):
            message = f"{self._shown}: {message}"
        if message not in self._told:
            self._told.add(message)
            self._warn(message)

    # ------------------------------------------------------------------ looking

    def tag(self, key: str) -> str:
        """Return the tag of a key."""
        return f"{self.kind}-{hashlib.sha256(key.encode()).hexdigest()[:40]}"

    def find(self, tag: str) -> list[ListedResult]:
        """Return the results for a tag that are signed and new enough, newest first."""
        if not self.usable:
            return []
        try:
            listed = self._entries(tag)
        except RegistryError as error:
            self.give_up(error)
            return []
        except ImageError as error:
            self.tell(error)
            return []
        unsigned = [entry for entry in listed if not self._is_signed(tag, entry)]
        if unsigned:
            self.tell(f"{len(unsigned)} of tag {tag} without a valid signature; not used")
        age = self.place.max_age_s
        oldest = 0.0 if age is None else time.time() - age
        return [entry for entry in listed if entry not in unsigned and entry.created >= oldest]

    def _entries(self, tag: str) -> list[ListedResult]:
        document = self._document(tag)
        if document is None:
            return []
        return documents.parse_index(document.data, f"{self._shown}: tag {tag}")

    def _document(self, tag: str) -> Document | None:
        """Return what has a tag; None if nothing has it, or nothing was ever pushed."""
        try:
            return self._registry.manifest(self._repository, tag, shown=self._shown)
        except ImageNotFoundError:
            return None
        except RegistryError as error:
            # Many registries deny access to repositories that the first push will create.
            if error.status not in _DENIED or self._read_only:
                raise
            return None

    def _is_signed(self, tag: str, entry: ListedResult) -> bool:
        return self._secret is None or documents.is_signed(
            self._secret, tag, entry.digest, entry.signature
        )

    def artifact(self, entry: ListedResult) -> Artifact:
        """Fetch the manifest and the config of a result, verified.

        Raises:
            ImageError: They are damaged, of another format, or cannot be had.
        """
        name, shown = self._repository, f"{self._shown}: {entry.digest[:19]}"
        document = self._registry.manifest(name, entry.digest, shown=shown)
        config, layer = documents.parse_artifact(document.data, self.kind, shown)
        data = self._registry.small_blob(name, config.digest, config.size_bytes, shown=shown)
        verify(data, config.digest)
        return Artifact(manifests.document(data, shown), layer)

    @contextlib.contextmanager
    def fetched(self, layer: Descriptor) -> Iterator[Archive]:
        """Fetch a layer while it is unpacked, which verifies its digest.

        Raises:
            ImageError: It cannot be had whole.
        """
        shown = f"{self._shown}: layer {layer.digest[7:19]}"

        def fetch(take: Callable[[bytes], None]) -> None:
            download(self._registry, self._repository, layer, 0, take, shown=shown)

        with arriving(fetch) as pipe:
            yield Archive(pipe, 0, -1, -1, layer.digest)

    # ------------------------------------------------------------------ pushing

    def publish(
        self,
        tag: str,
        config: Mapping[str, Any],
        pieces: Iterable[bytes] | None,
        notes: Mapping[str, str],
        *,
        wanted: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Push a result and list it under a tag; return False if that is not possible.

        Its parts come first and the index last, so that a tag never leads to half of it.

        Args:
            pieces: The tar of its layer; None is a result without files.
            notes: Annotations for people.
            wanted: Checked again once the layer is packed: others may have pushed the same.
        """
        with self._pushing(), self._store.temp_dir() as temp:
            path = temp.path / "layer"
            layer = self._empty(temp.path) if pieces is None else _packed(pieces, path)
            if not wanted():
                return False
            if pieces is not None:
                self._send(path, layer)
            created = time.time()
            data = json.dumps(dict(config), sort_keys=True).encode()
            about = self._send_bytes(temp.path, data, documents.artifact_type(self.kind))
            manifest = documents.artifact_of(about, layer, self.kind, notes, created)
            digest = digest_of(manifest)
            # A tag of its own: a registry's collection of garbage may remove those without.
            self.put(f"{tag}-{digest[7:19]}", manifests.OCI_MANIFEST, manifest)
            signature = (
                "" if self._secret is None else documents.signature(self._secret, tag, digest)
            )
            entry = ListedResult(digest, len(manifest), created, signature)
            others = [other for other in self._others(tag) if other.digest != digest]
            index = documents.index_of([entry, *others][: documents.KEPT], self.kind)
            self.put(tag, manifests.OCI_INDEX, index)
            return True
        return False

    def _others(self, tag: str) -> list[ListedResult]:
        """Return what a tag lists and may stay; what is damaged may not."""
        try:
            return [entry for entry in self._entries(tag) if self._is_signed(tag, entry)]
        except RegistryError:
            raise
        except ImageError:
            return []

    @contextlib.contextmanager
    def _pushing(self) -> Iterator[None]:
        """Leave the registry alone, or only read, after a failure."""
        try:
            yield
        except RegistryError as error:
            if error.status not in _DENIED:
                self.give_up(error)
            elif not self._read_only:
                self._read_only = True
                self.tell(f"{error}; this run uses what is there and pushes nothing")
        except (ImageError, OSError) as error:
            self.tell(error)

    def _empty(self, folder: Path) -> Descriptor:
        return self._send_bytes(folder, documents.EMPTY, documents.EMPTY_TYPE)

    def _send_bytes(self, folder: Path, data: bytes, media_type: str) -> Descriptor:
        path = folder / "document"
        path.write_bytes(data)
        blob = Descriptor(media_type, digest_of(data), len(data))
        self._send(path, blob)
        return blob

    def _send(self, path: Path, blob: Descriptor) -> None:
        if has_blob(self._registry, self._repository, blob.digest, shown=self._shown):
            return
        upload = Upload(
            self._registry, self._repository, blob, neighbour="", moved=lambda size: None,
            shown=self._shown,
        )  # fmt: skip
        if not upload.mounted():
            upload.send(path)

    def put(self, tag: str, media_type: str, data: bytes) -> None:
        """Give a document, whose parts are there, a tag."""
        put_manifest(self._registry, self._repository, tag, media_type, data, shown=self._shown)

    # -------------------------------------------------------------------- notes

    def marker(self, tag: str) -> Marker | None:
        """Return the note of the machine that makes the result of a tag, if there is any."""
        name = _marker_tag(tag)
        try:
            document = self._document(name)
            if document is None:
                return None
            subject = f"{self._shown}: tag {name}"
            return documents.parse_marker(document.data, tag, self._secret, subject)
        except RegistryError as error:
            self.give_up(error)
        except ImageError:
            pass  # whatever it is, it is no note of a maker
        return None

    def prepare_notes(self) -> bool:
        """Push what all notes refer to; return False if nothing can be pushed."""
        if not self.writable:
            return False
        with self._pushing():
            if not self._has_empty:
                with self._store.temp_dir() as temp:
                    self._empty(temp.path)
                self._has_empty = True
            return True
        return False

    def mark(self, tag: str, marker: Marker) -> bool:
        """Leave a note in place of any other; return False if that is not possible."""
        if not self.prepare_notes():
            return False
        with self._pushing():
            data = documents.marker_of(marker, tag, self._secret)
            self.put(_marker_tag(tag), manifests.OCI_MANIFEST, data)
            return True
        return False

    def close(self) -> None:
        """Close idle connections."""
        self._registry.close()


def _marker_tag(tag: str) -> str:
    return f"making-{tag}"


def _packed(pieces: Iterable[bytes], path: Path) -> Descriptor:
    """Compress a layer into a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for piece in gzipped(pieces):
            digest.update(piece)
            size += file.write(piece)
    return Descriptor(f"{manifests.OCI_LAYER}+gzip", f"sha256:{digest.hexdigest()}", size)


def _secret_of(path: Path) -> bytes:
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise SettingsError(
            f"containers_states_key: cannot read {path}: {error.strerror}"
        ) from None
    if len(secret) < _SECRET_BYTES:
        raise SettingsError(
            f"containers_states_key: {path} has {len(secret)} bytes; a secret needs at least "
            f"{_SECRET_BYTES}, as from `openssl rand -hex 32`"
        )
    return secret


def _pause(seconds: float) -> None:
    """Wait between tries, and not as long as for an image that a test cannot do without."""
    time.sleep(min(seconds, _LONGEST_PAUSE_S))
