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

import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pytest_containers.errors import ContainersError, ImageError, hide_frames
from pytest_containers.images.directories import TempDir, remove_tree, try_lock
from pytest_containers.images.reference import check_digest

__tracebackhide__ = hide_frames

VERSION = 1
HOME_VARIABLE = "PYTEST_CONTAINERS_HOME"
LATER_FOLDERS = ("steps", "caches", "contexts", "downloads")  # made when they are needed
_FOLDERS = ("blobs", "images", "layers", "host", "locks", "tmp", "partial", "holds", "states")
_RECORD, _SETTLED = "record.json", "settled"
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
    except ContainersError:  # some are OSErrors too, and say what they are
        raise
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
        if not text.strip().isdecimal() or int(text) > VERSION:
            raise ImageError(
                f"the image store {self.home} has format {text.strip()!r} and this version "
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

    def read_json(self, path: Path) -> dict[str, Any] | None:
        """The object in `path`; None if there is none, or something a crash left."""
        try:
            found = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None

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

    def forget_layer(self, layer: Path) -> None:
        """From now on it is not there; its tree is still to be removed."""
        (layer / _RECORD).unlink(missing_ok=True)

    @contextmanager
    def hidden_layer(self, layer: Path) -> Iterator[ExitStack]:
        """While this lasts nobody finds the layer; and for good, if the stack is emptied."""
        record, hidden = layer / _RECORD, layer / "hidden.json"
        with ExitStack() as stack:
            with suppress(FileNotFoundError):
                record.rename(hidden)
                stack.callback(hidden.rename, record)
            yield stack

    def is_settled(self, layer: Path) -> bool:
        """Whether all of a layer is known to have reached the disk."""
        return (layer / _SETTLED).exists()

    def note_settled(self, layers: Iterable[Path]) -> None:
        """Everything was written to the disk after these layers were made."""
        for layer in layers:
            with suppress(FileNotFoundError):  # removed meanwhile
                (layer / _SETTLED).touch(mode=0o600)

    # -- locks and temporary directories -------------------------------------------------------

    def lock(self, name: str) -> AbstractContextManager[object]:
        """Hold the lock `name` against all other processes and threads; waits for it."""
        from filelock import FileLock

        return FileLock(self.home / "locks" / f"{name}.lock", mode=0o600)

    def among_others(self) -> AbstractContextManager[None]:
        """Add to the store what has no name yet; nobody prunes meanwhile."""
        return self._turn(fcntl.LOCK_SH)

    def alone(self) -> AbstractContextManager[None]:
        """Remove what has no name; nobody adds anything meanwhile."""
        return self._turn(fcntl.LOCK_EX)

    @contextmanager
    def _turn(self, kind: int) -> Iterator[None]:
        path = self.home / "locks" / "additions.lock"
        with storing("images", self.home):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, kind)
            yield
        finally:
            os.close(fd)

    def temp_dir(self) -> TempDir:
        """A new private directory, locked until closed."""
        return TempDir(self.home / "tmp")

    def sweep(self, remove_inside: Callable[[Path], None] | None = None) -> None:
        """Remove temporary directories whose maker is gone.

        Args:
            remove_inside: Deletes below a directory what belongs to subordinate ids; without it
                such directories stay for the next time.
        """
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
    """The kernel's name for this boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
