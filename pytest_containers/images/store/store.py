"""The content-addressed store: blobs, image records, unpacked layers.

    version                       format of the store
    blobs/sha256/<hex>            manifests, configs, layer archives
    images/<sha256 of name>.json  name -> manifest
    layers/<class>/<hex>/tree     an unpacked layer; record.json beside it
    host/<hex>.json               `host:` images by signature of what they were made from
    states/<key>/<hex>.json       states by key: layers on top of an image, and what they depend on
    steps/<key>.json              steps of builds: the layer that each left
    caches/<class>/<key>/tree     what `RUN --mount=type=cache` mounts
    contexts/<key>.json           digests of files of build contexts
    downloads/<key>.data          what ADD fetched; a record beside it
    partial/                      blobs on their way, to go on with after an interruption
    holds/                        what live runs use, each locked by its run
    locks/                        one lock file per thing being made
    tmp/                          things being made, each locked by its maker

Nothing is changed in place. A thing is made below ``tmp`` and renamed, so a process killed at any
instant leaves whole things and a directory that nobody holds; the next maker sweeps that.
Locks are flock(2): the kernel drops them with their process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pytest_containers.images.reference import check_digest
from pytest_containers.images.store import records
from pytest_containers.images.store.directories import TempDir, remove_tree, try_lock
from pytest_containers.model.errors import ContainersError, ImageError, hide_frames
from pytest_containers.model.home import HOME_VARIABLE

__tracebackhide__ = hide_frames

VERSION = 1
LATER_FOLDERS = ("steps", "caches", "contexts", "downloads", "tls")  # made when they are needed
_FOLDERS = ("blobs", "images", "layers", "host", "locks", "tmp", "partial", "holds", "states")
_NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_RECORD, _SETTLED = "record.json", "settled"
_CLASS_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@contextmanager
def storing(subject: str, home: Path) -> Iterator[None]:
    """Turn an OSError of a write to the store into one sentence."""
    try:
        yield
    except ContainersError as error:  # some are OSErrors too, and say what they are
        if error.errno not in _NO_PLACE or str(home) in error.message:
            raise
        raise _cannot_store(subject, home, error.message, error.errno) from error
    except OSError as error:
        raise _cannot_store(subject, home, error.strerror or str(error), error.errno) from error


def _cannot_store(subject: str, home: Path, cause: str, code: int | None) -> ImageError:
    return ImageError(
        f"cannot store {subject} in {home}: {cause.removeprefix(f'{subject}: ')}; free or permit "
        f"it there, or set {HOME_VARIABLE} to another place",
        home=str(home),
        errno=code,
    )


class _NoLock:
    """The lock of a thing that nobody can make or remove; as a `FileLock`."""

    def acquire(self, timeout: float = -1) -> _NoLock:
        return self

    def __enter__(self) -> _NoLock:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class Store:
    """A store at `home`, made if it is not there.

    Safe under any number of processes and threads, and in a forked child.

    Attributes:
        read_only: True if nothing can be written to it, as in an image of a CI container that it
            was baked into. What is in it is used without locks: nothing can be removed.

    Raises:
        ImageError: `home` belongs to another user, holds something else, is of a newer version,
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
            with suppress(OSError):  # read-only
                home.chmod(0o700)
        self.read_only: bool = not os.access(home, os.W_OK)

    def _check_version(self) -> None:
        try:
            version = (self.home / "version").read_text()
        except FileNotFoundError:
            self._initialise()
            return
        if not version.strip().isdecimal() or int(version) > VERSION:
            raise ImageError(
                f"the image store {self.home} has format {version.strip()!r} and this version "
                f"knows up to {VERSION}; upgrade pytest-containers, "
                f"or set {HOME_VARIABLE} to another place",
                home=str(self.home),
            )

    def _initialise(self) -> None:
        with storing("images", self.home):
            foreign = {name for name in os.listdir(self.home) if not name.startswith("version")}
            if not foreign <= {*_FOLDERS, *LATER_FOLDERS}:
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

    def write_record(
        self, path: Path, fields: Mapping[str, Any], subject: str, *, used_at: float | None = None
    ) -> None:
        """Put a record (see `records`) at `path`, whole or not at all; parents are made.

        Args:
            path: Its file, in the store.
            fields: JSON.
            subject: What it is a record of, for the error.
            used_at: Seconds since the epoch of its last use; None is now.

        Raises:
            ImageError: It cannot be stored.
        """
        with storing(subject, self.home):
            self.write_atomically(path, records.encode(fields))
            if used_at is not None:
                os.utime(path, (used_at, used_at))

    # -- layers --------------------------------------------------------------------------------

    def layer_dir(self, id_map_class: str, digest: str) -> Path:
        """Return the directory of a layer: ``tree`` and ``record.json``; all or nothing."""
        if not id_map_class or id_map_class[0] == "." or not set(id_map_class) <= _CLASS_LETTERS:
            raise ImageError(f"{id_map_class!r} cannot name a class of id maps")
        return self.home / "layers" / id_map_class / check_digest(digest).rpartition(":")[2]

    def layer_record(self, layer: Path) -> dict[str, Any] | None:
        """Return the record of the layer in directory `layer`; None when there is none."""
        record = records.read(layer / _RECORD)
        return None if record is None else record.fields

    def finish_layer(self, temp: TempDir, layer: Path, record: Mapping[str, Any]) -> None:
        """Make the tree below `temp` the layer `layer`, unless another process was first."""
        # The boot is kept so that a layer whose data may not have reached the disk before a
        # crash of the machine can be told apart (there is no fsync per file).
        fields = {**record, "boot_id": boot_id()}
        (temp.path / _RECORD).write_bytes(records.encode(fields))
        layer.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temp.commit(layer)

    def forget_layer(self, layer: Path) -> None:
        """Remove a layer's record: it is gone from now on, but for its tree."""
        (layer / _RECORD).unlink(missing_ok=True)

    @contextmanager
    def hidden_layer(self, layer: Path) -> Iterator[ExitStack]:
        """Hide the layer meanwhile, and for good if the stack is emptied."""
        record, hidden = layer / _RECORD, layer / "hidden.json"
        with ExitStack() as stack:
            with suppress(FileNotFoundError):
                record.rename(hidden)
                stack.callback(hidden.rename, record)
            yield stack

    def is_settled(self, layer: Path) -> bool:
        """Check whether all of a layer is known to have reached the disk."""
        return self.read_only or (layer / _SETTLED).exists()

    def note_settled(self, layers: Iterable[Path]) -> None:
        """Note that everything reached the disk after these layers were made."""
        for layer in layers:
            with suppress(FileNotFoundError):  # removed meanwhile
                (layer / _SETTLED).touch(mode=0o600)

    # -- locks and temporary directories -------------------------------------------------------

    def lock(self, name: str) -> AbstractContextManager[object]:
        """Hold the lock `name` against all other processes and threads, after a wait for it."""
        if self.read_only:
            return _NoLock()
        from filelock import FileLock

        return FileLock(self.home / "locks" / f"{name}.lock", mode=0o600)

    def among_others(self) -> AbstractContextManager[None]:
        """Keep prunes away while content is added that has no name yet."""
        return self._turn(fcntl.LOCK_SH)

    def alone(self) -> AbstractContextManager[None]:
        """Keep additions away while content without a name is removed."""
        return self._turn(fcntl.LOCK_EX)

    @contextmanager
    def _turn(self, kind: int) -> Iterator[None]:
        if self.read_only:
            yield
            return
        path = self.home / "locks" / "additions.lock"
        with storing("images", self.home):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, kind)
            yield
        finally:
            os.close(fd)

    def temp_dir(self) -> TempDir:
        """Make a new private directory, locked until closed."""
        return TempDir(self.home / "tmp")

    def sweep(self, remove_inside: Callable[[Path], None] | None = None) -> None:
        """Remove temporary directories whose maker is gone.

        Args:
            remove_inside: Deletes below a directory what belongs to subordinate ids; without it
                such directories stay for the next time.
        """
        if self.read_only:
            return
        for name in os.listdir(self.home / "tmp"):
            path = self.home / "tmp" / name
            fd = try_lock(os.fspath(path))
            if fd is None:
                continue
            try:
                remove_tree(path, remove_inside)
            finally:
                os.close(fd)


def boot_id() -> str:
    """Return the kernel's name for this boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
