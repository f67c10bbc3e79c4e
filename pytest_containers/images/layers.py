"""Layers in the store: unpacked once per class of id maps, whoever asks first, from any source."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from pytest_containers.errors import ContainersError, hide_frames
from pytest_containers.images import progress
from pytest_containers.images.directories import TempDir, remove_tree
from pytest_containers.images.holds import Holds
from pytest_containers.images.image import Layer
from pytest_containers.images.inside import Inside
from pytest_containers.images.store import Store, boot_id, storing

__tracebackhide__ = hide_frames

_UNPACK = "pytest_containers.images.unpack:unpack_layer"
_PARENTS = "pytest_containers.images.parents:make_parents"
_COMPARE = "pytest_containers.images.compare:compare_trees"
_SETTLE = "pytest_containers.images.unpack:settle"
_REMOVE = "pytest_containers.images.unpack:remove_tree"
PACK = "pytest_containers.images.pack:pack_upper"
FREEZE = "pytest_containers.images.freeze:freeze_upper"
Freeze = Callable[[int], dict[str, Any]]
"""Runs the job `FREEZE` on a writable layer; gets the directory for ``tree``."""
_AT_ONCE = 4
_REFRESH_S = 0.1


class Archive(NamedTuple):
    """Where a layer's archive is: a part of an open file.

    Attributes:
        size: -1 is a pipe, to its end.
        arrivals: A pipe that tells how much of the file is there (`unpack.Part`); -1 is all of it.
        digest: Of the part, to be verified as it is read; None where somebody else does.
    """

    fd: int
    offset: int
    size: int
    arrivals: int = -1
    digest: str | None = None


Opened = Callable[[progress.Part, threading.Event], AbstractContextManager[Archive]]


class Want(NamedTuple):
    """A layer that is needed.

    Attributes:
        name: In messages.
        part: Its progress.
        opened: Gives its archive, if it has to be unpacked; told when nobody wants it any more.
    """

    diff_id: str
    name: str
    part: progress.Part
    opened: Opened


class Unpacked(NamedTuple):
    """A layer that was just unpacked, and what is known of its archive."""

    layer: Layer
    digest: str | None
    size_bytes: int


class Layers:
    """Unpacks layers into a store.

    Args:
        store: Keeps them.
        inside: Does what needs the ids of the run.
    """

    def __init__(self, store: Store, inside: Inside) -> None:
        self._store = store
        self.inside: Inside = inside
        # Each takes a processor and some memory.
        self._jobs = threading.Semaphore(max(1, min(_AT_ONCE, len(os.sched_getaffinity(0)))))

    def find(self, diff_id: str) -> Layer | None:
        """The layer, if it is in the store and nothing says that its data may be lost."""
        path = self._path(diff_id)
        record = self._store.layer_record(path)
        if record is None:
            return None
        if record.get("boot_id") != boot_id() and not self._store.is_settled(path):
            return None  # the machine went down before all of it was on the disk
        return Layer(path / "tree", "mapped", diff_id)

    def _path(self, diff_id: str) -> Path:
        return self._store.layer_dir(self.inside.id_map_class, diff_id)

    def ensure(
        self, wants: Sequence[Want], refresh: Callable[[], None] = lambda: None
    ) -> list[Layer]:
        """All those layers, bottom first as asked for; what is missing is unpacked, side by side.

        However many processes ask at once, one unpacks a layer and the others wait for it.

        Args:
            refresh: Called now and then while that goes on, by this thread.

        Raises:
            ImageError: An archive is broken, hostile, not what it claims, or cannot be had.
        """
        found: dict[str, Layer] = {}
        missing: dict[str, Want] = {}
        for want in wants:
            layer = found.get(want.diff_id) or self.find(want.diff_id)
            if layer is None:
                missing.setdefault(want.diff_id, want)
            else:
                found[want.diff_id] = layer
                want.part.state = "present"
        if missing:
            found |= self._ensure_missing(missing, refresh)
        return [found[want.diff_id] for want in wants]

    def _ensure_missing(
        self, missing: dict[str, Want], refresh: Callable[[], None]
    ) -> dict[str, Layer]:
        # The largest first: what is short fills the gaps at the end.
        order = sorted(missing.values(), key=lambda want: -want.part.size_bytes)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pytest-containers layer") as pool:
            stop = threading.Event()
            futures = {want.diff_id: pool.submit(self._one, want, stop) for want in order}
            try:
                _await(list(futures.values()), refresh)
            finally:
                stop.set()
                for future in futures.values():
                    future.cancel()
        return {diff_id: future.result() for diff_id, future in futures.items()}

    def _one(self, want: Want, stop: threading.Event) -> Layer:
        with self._lock(want.diff_id):
            found = self.find(want.diff_id)
            if found is not None:
                want.part.state = "present"
                return found
            with want.opened(want.part, stop) as archive:
                unpacked = self.unpack(archive, want.diff_id, want.name)
            want.part.state = "done"
            return unpacked.layer

    def _lock(self, diff_id: str) -> AbstractContextManager[object]:
        return self._store.lock(f"layer-{self.inside.id_map_class[:60]}-{diff_id[7:23]}")

    def unpack(
        self, archive: Archive, diff_id: str | None, name: str, *, hashed: bool = False
    ) -> Unpacked:
        """Unpack unconditionally; the digest of what was unpacked names the layer.

        Args:
            diff_id: What it must be; whoever knows it holds its lock.
            hashed: Whether the archive's own digest is wanted.
        """
        with storing(name, self._store.home), self._store.temp_dir() as temp:
            result = self._unpack_into(temp, archive, diff_id, name, hashed=hashed)
            with nullcontext() if diff_id is not None else self._lock(result["diff_id"]):
                layer = self._keep(temp, result)
        return Unpacked(layer, result["digest"], result["size_bytes"])

    def freeze(self, freeze: Freeze, name: str) -> Layer:
        """Keep a container's writable layer as it is now; a layer of a name that is its alone.

        Nothing leads to it yet: the caller is among others (`Store.among_others`) until something
        does.

        Raises:
            ImageError: It could not be copied; nothing of it is left.
        """
        with self._made(freeze, name) as (temp, result):
            layer_id = f"sha256:{os.urandom(32).hex()}"
            path = self._path(layer_id)
            self._store.finish_layer(temp, path, {"kind": "state", **result})
        return Layer(path / "tree", "mapped", layer_id)

    def write(self, make: Freeze, name: str) -> tuple[Layer | None, dict[str, Any]]:
        """Keep what a job makes, as `freeze`; the digest that it answers names the layer.

        Returns:
            The layer, or None if there was nothing to keep; and the job's answer.
        """
        with self._made(make, name) as (temp, result):
            diff_id = result["diff_id"]
            if not diff_id:
                return None, result
            path = self._path(diff_id)
            with self._lock(diff_id):
                if self.find(diff_id) is None:
                    self.drop(path)
                    record = {key: result[key] for key in ("size_bytes", "entries")}
                    self._store.finish_layer(temp, path, {"kind": "step", **record})
        return Layer(path / "tree", "mapped", diff_id), result

    @contextmanager
    def _made(self, make: Freeze, name: str) -> Iterator[tuple[TempDir, dict[str, Any]]]:
        with storing(name, self._store.home), self._store.temp_dir() as temp:
            temp.removed_by = self.remove_inside
            temp.path.chmod(0o777)
            result = make(temp.fd)
            temp.path.chmod(0o700)
            yield temp, result

    def thaw(self, archive: Archive, layer_id: str, name: str) -> None:
        """Unpack what was frozen elsewhere, under the name that it had there."""
        with self._lock(layer_id), storing(name, self._store.home), self._store.temp_dir() as temp:
            if self.find(layer_id) is not None:
                return
            result = self._unpack_into(temp, archive, None, name)
            temp.path.chmod(0o700)
            path = self._path(layer_id)
            self.drop(path)
            record = {key: result[key] for key in ("size_bytes", "entries")}
            self._store.finish_layer(temp, path, {"kind": "state", **record})

    def completed(self, layers: Sequence[Layer]) -> list[Layer]:
        """The layers of an image with those between them that `parents` makes, where needed."""
        done: list[Layer] = []
        for layer in layers:
            done.append(layer)
            record = self._store.layer_record(layer.path.parent) or {}
            if record.get("unlisted") and len(done) > 1:
                above = self._parents(done, record["unlisted"])
                done += [above] if above is not None else []
        return done

    def _parents(self, layers: Sequence[Layer], unlisted: Sequence[str]) -> Layer | None:
        """The layer that goes on top of `layers`; None if they look as they should."""
        text = "\n".join(["parents 1", *(layer.diff_id for layer in layers)])
        digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
        path = self._path(digest)
        if self.find(digest) is None:
            with (
                self._lock(digest),
                storing("parents of a layer", self._store.home),
                self._store.temp_dir() as temp,
                ExitStack() as opened,
            ):
                temp.removed_by = self.remove_inside
                temp.path.chmod(0o777)
                fds = [temp.fd]
                for layer in reversed(layers):
                    fds.append(os.open(layer.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                    opened.callback(os.close, fds[-1])
                single = self.inside.id_map_class.startswith("single")
                args = {"unlisted": list(unlisted), "single": single}
                made = self.inside.call(_PARENTS, args, fds)["made"]
                temp.path.chmod(0o700)
                if self.find(digest) is None:
                    self.drop(path)
                    self._store.finish_layer(temp, path, {"kind": "parents", "made": made})
        record = self._store.layer_record(path) or {}
        return Layer(path / "tree", "mapped", "") if record.get("made") else None

    def compare(self, archive: Archive, diff_id: str, name: str) -> tuple[str, bool]:
        """Unpack a layer once more and compare; the new one replaces a damaged one.

        Returns:
            What was wrong, or nothing; and whether it is right now: a layer that a live run uses
            is not replaced.
        """
        path = self._path(diff_id)
        with (
            self._lock(diff_id),
            storing(name, self._store.home),
            self._store.temp_dir() as temp,
            ExitStack() as opened,
        ):
            result = self._unpack_into(temp, archive, diff_id, name)
            fds = []
            for folder in (path / "tree", temp.path / "tree"):
                fds.append(os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                opened.callback(os.close, fds[-1])
            difference: str = self.inside.call(_COMPARE, {}, fds)["difference"]
            if not difference:
                return "", True
            with self._store.hidden_layer(path) as restore:
                if path.name in Holds(self._store).layers():
                    return difference, False
                restore.pop_all()
            self._keep(temp, result)
        return difference, True

    def _unpack_into(
        self, temp: TempDir, archive: Archive, diff_id: str | None, name: str, *,
        hashed: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """Unpack to ``tree`` in a directory of the store; what the job answers."""
        with self._jobs:
            temp.removed_by = self.remove_inside
            # Container root makes the tree. Nobody else gets here: the store is 0700.
            temp.path.chmod(0o777)
            args = {
                "offset": archive.offset,
                "size": archive.size,
                "digest": archive.digest,
                "diff_id": diff_id,
                "hashed": hashed,
                "single": self.inside.id_map_class.startswith("single"),
                "name": name,
            }
            fds = [archive.fd, temp.fd, *([archive.arrivals] if archive.arrivals >= 0 else [])]
            return self.inside.call(_UNPACK, args, fds)

    def _keep(self, temp: TempDir, result: dict[str, Any]) -> Layer:
        temp.path.chmod(0o700)
        path = self._path(result["diff_id"])
        record = {
            "kind": "layer",
            **{key: result[key] for key in ("size_bytes", "entries", "unlisted")},
        }
        if self.find(result["diff_id"]) is None:
            self.drop(path)
            self._store.finish_layer(temp, path, record)
        return Layer(path / "tree", "mapped", result["diff_id"])

    def settle(self, layers: Sequence[Layer]) -> None:
        """See to it, without waiting, that what was unpacked in this boot reaches the disk.

        That is noted then. Whatever is not noted when the machine goes down is unpacked again
        before it is used, so no file needs an fsync of its own.
        """
        paths = [layer.path.parent for layer in layers]
        waiting = [path for path in paths if not self._store.is_settled(path)]
        if waiting:
            threading.Thread(target=self._settle, args=(waiting,), daemon=True).start()

    def _settle(self, paths: Sequence[Path]) -> None:
        # A job: a thread that waits for a disk would keep this process from ending. Where the run
        # ends first, or the store is removed meanwhile, a later run will see to it.
        try:
            fd = os.open(self._store.home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            self.inside.call(_SETTLE, {}, [fd])
        except (ContainersError, OSError):
            return
        finally:
            os.close(fd)
        self._store.note_settled(paths)

    def drop(self, path: Path) -> None:
        """Remove the layer in directory `path`, if it is there; whoever holds its lock may."""
        if not path.exists():
            return
        self._store.forget_layer(path)
        with self._store.temp_dir() as temp:
            temp.removed_by = self.remove_inside
            with suppress(FileNotFoundError):
                (path / "tree").rename(temp.path / "tree")
        remove_tree(path)

    def remove_inside(self, path: Path) -> None:
        """Delete what is in `path`, whoever of the run owns it."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            path.chmod(0o777)
            self.inside.call(_REMOVE, {}, [fd])
        finally:
            os.close(fd)


def _await(futures: list[Future[Layer]], refresh: Callable[[], None]) -> None:
    """Until all have ended or one has failed, whose error is raised."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=_REFRESH_S, return_when=FIRST_EXCEPTION)
        refresh()
        for future in done:
            future.result()


@contextmanager
def archive_at(path: Path, digest: str | None = None) -> Iterator[Archive]:
    """A whole file as an archive."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield Archive(fd, 0, os.fstat(fd).st_size, -1, digest)
    finally:
        os.close(fd)


def total_bytes(store: Store, layers: Sequence[Layer]) -> int:
    """The size of the files in `layers`."""
    records = (store.layer_record(layer.path.parent) for layer in layers)
    return sum(int(record.get("size_bytes", 0)) for record in records if record)
