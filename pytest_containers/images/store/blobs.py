"""Blobs of the store: manifests, configs and layer archives, by the digest of what they are.

What has a name here was verified before it got it. It is verified again when it is read, so that a
disk that forgets, or a crash of the machine, never serves something else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

from pytest_containers.images.reference import check_digest
from pytest_containers.images.store.store import Store, storing
from pytest_containers.model.errors import ImageError, hide_frames

__tracebackhide__ = hide_frames

_CHUNK_BYTES = 1 << 20


class Readable(Protocol):
    """A source of bytes, with none at its end."""

    def read(self, size: int = -1, /) -> bytes: ...


class Blobs:
    """The blobs of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def path(self, digest: str) -> Path:
        """Return the path of the blob `digest`, stored or not."""
        algorithm, _, digits = check_digest(digest).partition(":")
        return self._store.home / "blobs" / algorithm / digits

    def has(self, digest: str, size_bytes: int) -> bool:
        """Check whether the blob is stored, as far as its size tells."""
        try:
            return self.path(digest).stat().st_size == size_bytes
        except FileNotFoundError:
            return False

    def read(self, digest: str, limit_bytes: int) -> bytes:
        """Read a small blob (manifest, config), verified.

        Raises:
            ImageError: Not there, too large, or not what its name says.
        """
        try:
            with self.path(digest).open("rb") as file:
                data = file.read(limit_bytes + 1)
        except FileNotFoundError:
            raise ImageError(f"{digest} is not in the image store {self._store.home}") from None
        verify(data, digest)
        return data

    def write(self, data: bytes) -> str:
        """Keep `data`; return its digest."""
        digest = digest_of(data)
        self.keep(digest, len(data), lambda file: file.write(data))
        return digest

    def keep(self, digest: str, size_bytes: int, write: Callable[[IO[bytes]], object]) -> None:
        """Keep the contents that `write` puts into a file and vouches for."""
        if self.has(digest, size_bytes):
            return
        with storing(digest, self._store.home), self._store.temp_dir() as temp:
            draft = temp.path / "blob"
            with draft.open("xb") as file:
                write(file)
            self.publish(draft, digest)

    def copy(self, source: Readable, digest: str, size_bytes: int) -> None:
        """Keep the contents of `source`, verified as they are read; nothing appears before.

        Raises:
            ImageError: Size or digest is not as stated, or the store cannot take it.
        """
        self.keep(digest, size_bytes, lambda file: copy_verified(source, file, digest, size_bytes))

    def take(self, source: Readable) -> tuple[str, int]:
        """Keep the contents of `source`, whatever they are; return their digest and size."""
        with storing("a layer", self._store.home), self._store.temp_dir() as temp:
            draft, hasher, size = temp.path / "blob", hashlib.sha256(), 0
            with draft.open("xb") as file:
                while data := source.read(_CHUNK_BYTES):
                    hasher.update(data)
                    file.write(data)
                    size += len(data)
            digest = f"sha256:{hasher.hexdigest()}"
            self.publish(draft, digest)
        return digest, size

    def publish(self, draft: Path, digest: str) -> None:
        """Give the whole and verified file `draft` its name, once it is on the disk."""
        path = self.path(digest)
        with draft.open("rb") as file:
            os.fdatasync(file.fileno())
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.chmod(0o600)
        draft.replace(path)

    def drop(self, digest: str) -> None:
        """Remove a blob; idempotent."""
        with suppress(FileNotFoundError):
            self.path(digest).unlink()

    def partial(self, digest: str) -> Path:
        """Return the path of an unfinished download, which a later one resumes."""
        folder = self._store.home / "partial"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / check_digest(digest).replace(":", "-")

    def all(self) -> Iterator[tuple[str, Path]]:
        """Yield digest and path of each blob."""
        for folder in (self._store.home / "blobs").iterdir():
            for path in folder.iterdir():
                yield f"{folder.name}:{path.name}", path


def digest_of(data: bytes) -> str:
    """Return the digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def file_digest(path: Path, like: str) -> str:
    """Return the digest of a file, by the algorithm of `like`."""
    algorithm = check_digest(like).partition(":")[0]
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def verify(data: bytes, digest: str) -> None:
    """Raise ImageError unless `data` has `digest`."""
    algorithm, _, expected = check_digest(digest).partition(":")
    actual = hashlib.new(algorithm, data).hexdigest()
    if actual != expected:
        raise ImageError(
            f"content does not match its digest: expected {digest}, got {algorithm}:{actual}; "
            "it is damaged or not what it claims, fetch it again",
            expected=digest,
            actual=f"{algorithm}:{actual}",
        )


def copy_verified(source: Readable, target: IO[bytes], digest: str, size_bytes: int) -> None:
    """Copy exactly `size_bytes` with `digest`; a byte more or less is an ImageError."""
    algorithm, _, expected = check_digest(digest).partition(":")
    hasher, left = hashlib.new(algorithm), size_bytes
    while left and (chunk := source.read(min(left, 1 << 20))):
        hasher.update(chunk)
        target.write(chunk)
        left -= len(chunk)
    if left or source.read(1):
        much = "too short" if left else "too long"
        raise ImageError(f"blob {digest} is {much}: {size_bytes} bytes were announced")
    if hasher.hexdigest() != expected:
        raise ImageError(
            f"content does not match its digest: expected {digest}, "
            f"got {algorithm}:{hasher.hexdigest()}; it is damaged or not what it claims",
            expected=digest,
            actual=f"{algorithm}:{hasher.hexdigest()}",
        )
