"""The content-addressed store: blobs, image records, unpacked layers.

    version                       format of the store
    blobs/sha256/<hex>            manifests, configs, layer archives
    images/<sha256 of name>.json  name -> manifest
    layers/<class>/<hex>/tree     an unpacked layer; record.json beside it
    host/<hex>.json               `host:` images by signature of what they were made from
    locks/                        one lock file per thing being made
    tmp/                          things being made, each locked by its maker

Nothing is changed in place. A thing is made below ``tmp`` and renamed, so a process killed at any
instant leaves whole things and a directory that nobody holds; the next maker sweeps that.
Locks are flock(2): the kernel drops them with their process.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pytest_containers.errors import ImageError
from pytest_containers.images.reference import check_digest

VERSION = 1
HOME_VARIABLE = "PYTEST_CONTAINERS_HOME"
_FOLDERS = ("blobs", "images", "layers", "host", "locks", "tmp")
_RECORD = "record.json"
_CLASS_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def default_home(environ: Mapping[str, str] = os.environ) -> Path:
    """``$PYTEST_CONTAINERS_HOME``, else below ``$XDG_CACHE_HOME``, else below ``~/.cache``."""
    if chosen := environ.get(HOME_VARIABLE):
        return Path(chosen).absolute()
    base = environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path there is invalid and to be ignored.
    cache = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return cache / "pytest-containers"


@contextmanager
def storing(what: str, home: Path) -> Iterator[None]:
    """Turn an OSError of a write to the store into one sentence."""
    try:
        yield
    except OSError as error:
        raise ImageError(
            f"cannot store {what} in {home}: {error.strerror or error}; free or permit it there, "
            f"or set {HOME_VARIABLE} to another place",
            home=str(home),
        ) from error


class Store:
    """A store at `home`, made if it is not there.

    Safe under any number of processes and threads, and in a forked child.

    Raises:
        ImageError: `home` belongs to somebody else, holds something else, is of a newer version,
            or cannot be made.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        with storing("images", home):
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = home.stat()
        if status.st_uid != os.geteuid():
            raise ImageError(
                f"the image store {home} belongs to user {status.st_uid} and not to you "
                f"(user {os.geteuid()}); set {HOME_VARIABLE} to a directory of your own",
                home=str(home),
            )
        self._check_version()
        if stat.S_IMODE(status.st_mode) != 0o700:
            home.chmod(0o700)

    def _check_version(self) -> None:
        try:
            text = (self.home / "version").read_text()
        except FileNotFoundError:
            self._initialise()
            return
        if not text.strip().isdigit() or int(text) > VERSION:
            raise ImageError(
                f"the image store {self.home} has format {text.strip()!r} and this version "
                f"knows up to {VERSION}; upgrade pytest-containers, "
                f"or set {HOME_VARIABLE} to another place",
                home=str(self.home),
            )

    def _initialise(self) -> None:
        with storing("images", self.home):
            foreign = {name for name in os.listdir(self.home) if not name.startswith("version")}
            if not foreign <= set(_FOLDERS):
                raise ImageError(
                    f"{self.home} is not an image store and not empty; "
                    f"set {HOME_VARIABLE} to a directory of its own",
                    home=str(self.home),
                )
            for name in _FOLDERS:
                (self.home / name).mkdir(mode=0o700, exist_ok=True)
            self.write_atomically(self.home / "version", f"{VERSION}\n".encode())

    # -- small files ---------------------------------------------------------------------------

    def write_atomically(self, path: Path, data: bytes) -> None:
        """Put `data` at `path`, whole or not at all; parents are made."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.temp_dir() as temp:
            draft = temp.path / "draft"
            draft.write_bytes(data)
            draft.replace(path)

    def read_json(self, path: Path) -> dict[str, Any] | None:
        """The object in `path`; None if there is none, or something a crash left."""
        try:
            found = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    # -- blobs ---------------------------------------------------------------------------------

    def blob_path(self, digest: str) -> Path:
        """Where the blob `digest` is, or would be."""
        algorithm, _, digits = check_digest(digest).partition(":")
        return self.home / "blobs" / algorithm / digits

    def read_blob(self, digest: str, limit_bytes: int) -> bytes:
        """A small blob (manifest, config), verified.

        Raises:
            ImageError: Not there, too large, or not what its name says.
        """
        try:
            with self.blob_path(digest).open("rb") as file:
                data = file.read(limit_bytes + 1)
        except FileNotFoundError:
            raise ImageError(f"{digest} is not in the image store {self.home}") from None
        verify(data, digest)
        return data

    def write_blob(self, data: bytes) -> str:
        """Keep `data`; returns its digest."""
        digest = digest_of(data)
        with storing(digest, self.home):
            if not self.blob_path(digest).exists():
                self.write_atomically(self.blob_path(digest), data)
        return digest

    def copy_blob(self, source: IO[bytes], digest: str, size_bytes: int) -> None:
        """Keep what `source` yields, verified as it is read; nothing appears before.

        Raises:
            ImageError: Size or digest is not as stated, or the store cannot take it.
        """
        path = self.blob_path(digest)
        if path.exists():
            return
        with storing(digest, self.home), self.temp_dir() as temp:
            draft = temp.path / "blob"
            with draft.open("xb") as target:
                copy_verified(source, target, digest, size_bytes)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.replace(path)

    # -- layers --------------------------------------------------------------------------------

    def layer_dir(self, id_map_class: str, digest: str) -> Path:
        """The directory of a layer: ``tree`` and ``record.json``; all or nothing."""
        if not id_map_class or id_map_class[0] == "." or not set(id_map_class) <= _CLASS_LETTERS:
            raise ImageError(f"{id_map_class!r} cannot name a class of id maps")
        return self.home / "layers" / id_map_class / check_digest(digest).rpartition(":")[2]

    def layer_record(self, layer: Path) -> dict[str, Any] | None:
        """What is known of the layer in directory `layer`; None when it is not there."""
        return self.read_json(layer / _RECORD)

    def finish_layer(self, temp: TempDir, layer: Path, record: Mapping[str, Any]) -> None:
        """Make the tree below `temp` the layer `layer`, unless somebody else was first."""
        # The boot is kept so that a layer whose data may not have reached the disk before a
        # crash of the machine can be told apart (there is no fsync per file).
        text = json.dumps({**record, "boot_id": boot_id()}).encode()
        (temp.path / _RECORD).write_bytes(text)
        layer.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temp.commit(layer)

    # -- locks and temporary directories -------------------------------------------------------

    def lock(self, name: str) -> AbstractContextManager[object]:
        """Hold the lock `name` against all other processes and threads; waits for it."""
        from filelock import FileLock

        return FileLock(self.home / "locks" / f"{name}.lock", mode=0o600)

    def temp_dir(self) -> TempDir:
        """A new private directory, locked until closed."""
        return TempDir(self.home / "tmp")

    def sweep(self, remove_inside: Callable[[Path], None] | None = None) -> None:
        """Remove temporary directories whose maker is gone.

        Args:
            remove_inside: Deletes below a directory what belongs to subordinate ids; without it
                such directories stay for the next time.
        """
        for entry in os.scandir(self.home / "tmp"):
            fd = _try_lock(entry.path)
            if fd is None:
                continue
            try:
                remove_tree(Path(entry.path), remove_inside)
            finally:
                os.close(fd)


class TempDir:
    """A directory below ``tmp``, locked by its maker; removed at close unless committed.

    Attributes:
        path: The directory.
        fd: A descriptor of it. It carries the lock: handing it to another process keeps the
            directory from being swept while that process lives.
    """

    def __init__(self, parent: Path) -> None:
        self.removed_by: Callable[[Path], None] | None = None
        while True:
            self.path: Path = parent / os.urandom(8).hex()
            self.path.mkdir(mode=0o700)
            fd = _try_lock(os.fspath(self.path))
            if fd is not None:  # else a sweeper got between the two lines above
                self.fd: int = fd
                return

    def commit(self, target: Path) -> None:
        """Move it to `target`; if that is there already, this one is dropped."""
        try:
            self.path.rename(target)
        except OSError:
            if not target.is_dir():
                raise

    def close(self) -> None:
        """Remove it, unless committed, and let go of the lock."""
        if self.fd < 0:
            return
        try:
            if _is_at(self.fd, os.fspath(self.path)):
                remove_tree(self.path, self.removed_by)
        finally:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> TempDir:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Hold:
    """Shared locks on layers: while one lives, nobody prunes them. Dies with its process.

    Raises:
        FileNotFoundError: A layer is gone; look the image up again.
    """

    def __init__(self, layers: Iterator[Path]) -> None:
        self._fds: list[int] = []
        try:
            for tree in layers:
                path = os.fspath(tree.parent)
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self._fds.append(fd)
                fcntl.flock(fd, fcntl.LOCK_SH)
                if not _is_at(fd, path):
                    raise FileNotFoundError(f"layer {path} was removed")
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Let go; idempotent."""
        while self._fds:
            os.close(self._fds.pop())

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _try_lock(path: str) -> int | None:
    """A descriptor of the directory `path` with an exclusive lock; None if held or gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(fd, path):
            return fd
    except BlockingIOError:
        pass
    os.close(fd)
    return None


def _is_at(fd: int, path: str) -> bool:
    """Whether `path` still is the directory that `fd` refers to."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.stat(path))
    return False


def remove_tree(path: Path, remove_inside: Callable[[Path], None] | None = None) -> None:
    """Delete a directory of the store; with `remove_inside` also what subordinate ids own in it."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass
    except PermissionError:
        if remove_inside is not None:
            remove_inside(path)
            shutil.rmtree(path)


def boot_id() -> str:
    """The kernel's name for this boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def digest_of(data: bytes) -> str:
    """The digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


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


def copy_verified(source: IO[bytes], target: IO[bytes], digest: str, size_bytes: int) -> None:
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
