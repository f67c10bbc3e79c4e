"""Layers in the store: unpacked once per class of id maps, whoever asks first, from any source."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_containers.images.image import Device, Layer
from pytest_containers.images.jobs import COMPARE, PARENTS, REMOVE, SETTLE, UNPACK
from pytest_containers.images.store.directories import TempDir, remove_tree
from pytest_containers.images.store.fetch_stop import FetchStop
from pytest_containers.images.store.holds import Holds
from pytest_containers.images.store.store import Store, boot_id, storing
from pytest_containers.model.errors import ContainersError, ImageError, hide_frames
from pytest_containers.model.threads import starting_threads

if TYPE_CHECKING:
    from concurrent.futures import Future

    from pytest_containers.images.inside import Inside
    from pytest_containers.model.transfer import Part

__tracebackhide__ = hide_frames

_log = logging.getLogger(__name__)

Freeze = Callable[[int], dict[str, Any]]
"""Runs the job `FREEZE` on a writable layer; gets the directory for ``tree``."""
_AT_ONCE = 4
_REFRESH_S = 0.1


class Archive(NamedTuple):
    """A layer's archive: a part of an open file.

    Attributes:
        size: -1 is a pipe, to its end.
        arrivals: A pipe that tells how much of the file is there (`unpack.Part`); -1 is all of it.
        digest: Of the part, to be verified as it is read; None where that is done elsewhere.
    """

    fd: int
    offset: int
    size: int
    arrivals: int = -1
    digest: str | None = None


Opened = Callable[["Part", FetchStop], AbstractContextManager[Archive]]


class Want(NamedTuple):
    """A layer that is needed.

    Attributes:
        name: In messages.
        part: Its progress.
        opened: Opens its archive, if it has to be unpacked; its event stops that when set.
    """

    diff_id: str
    name: str
    part: Part
    opened: Opened


class Unpacked(NamedTuple):
    """A layer that was just unpacked, with digest and size of its archive."""

    layer: Layer
    digest: str | None
    size_bytes: int


class Layers:
    """The unpacked layers of a store.

    Args:
        store: Keeps them.
        inside: Does what needs the ids of the run.
    """

    def __init__(self, store: Store, inside: Inside) -> None:
        self._store = store
        self.inside: Inside = inside
        # Each takes a processor and some memory.
        self._jobs = threading.Semaphore(max(1, min(_AT_ONCE, len(os.sched_getaffinity(0)))))

    @property
    def single(self) -> bool:
        """True if all files have one owner, since the run has a single id."""
        return self.inside.id_map_class.startswith("single")

    def find(self, diff_id: str) -> Layer | None:
        """Find a layer that is stored and whose data cannot have been lost."""
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
        """Return all those layers, in order; unpack the missing ones side by side.

        However many processes ask at once, one unpacks a layer and the others wait for it.

        Args:
            refresh: Called now and then while that goes on, by this thread.

        Raises:
            ImageError: An archive is broken, hostile, not what it claims, or cannot be had.
        """
        layers: dict[str, Layer] = {}
        missing: dict[str, Want] = {}
        for want in wants:
            layer = layers.get(want.diff_id) or self.find(want.diff_id)
            if layer is None:
                missing.setdefault(want.diff_id, want)
            else:
                layers[want.diff_id] = layer
                want.part.state = "present"
        if missing:
            layers |= self._ensure_missing(missing, refresh)
        return [layers[want.diff_id] for want in wants]

    def _ensure_missing(
        self, missing: dict[str, Want], refresh: Callable[[], None]
    ) -> dict[str, Layer]:
        # The largest first: what is short fills the gaps at the end.
        order = sorted(missing.values(), key=lambda want: -want.part.size_bytes)
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pytest-containers layer") as pool:
            stop = FetchStop()
            with starting_threads():
                futures = {
                    want.diff_id: pool.submit(self._ensure_one, want, stop) for want in order
                }
            try:
                _await(list(futures.values()), refresh)
            finally:
                stop.set()
                for future in futures.values():
                    future.cancel()
        return {diff_id: future.result() for diff_id, future in futures.items()}

    def _ensure_one(self, want: Want, stop: FetchStop) -> Layer:
        with stop.holding(self._lock(want.diff_id)):
            layer = self.find(want.diff_id)
            if layer is not None:
                want.part.state = "present"
                return layer
            with want.opened(want.part, stop) as archive:
                unpacked = self.unpack(archive, want.diff_id, want.name, stop=stop)
            want.part.state = "done"
            return unpacked.layer

    def _lock(self, diff_id: str) -> AbstractContextManager[object]:
        return self._store.lock(f"layer-{self.inside.id_map_class[:60]}-{diff_id[7:23]}")

    def unpack(
        self,
        archive: Archive,
        diff_id: str | None,
        name: str,
        *,
        hashed: bool = False,
        stop: FetchStop | None = None,
    ) -> Unpacked:
        """Unpack unconditionally; the digest of the contents names the layer.

        Args:
            diff_id: The expected one, whose lock the caller holds; None if it is unknown.
            hashed: Also compute the archive's own digest.
            stop: May give it up.

        Raises:
            ImageError: The archive is broken, hostile, not what it claims, or was given up.
        """
        with storing(name, self._store.home), self._store.temp_dir() as temp:
            result = self._unpack_into(temp, archive, diff_id, name, hashed=hashed, stop=stop)
            with nullcontext() if diff_id is not None else self._lock(result["diff_id"]):
                layer = self._keep(temp, result)
        return Unpacked(layer, result["digest"], result["size_bytes"])

    def freeze(self, freeze: Freeze, name: str) -> Layer:
        """Keep a container's writable layer as it is now, as a layer with a name of its own.

        Nothing leads to it yet: the caller is among others (`Store.among_others`) until something
        does.

        Raises:
            ImageError: It could not be copied; nothing of it is left.
        """
        with self._made(freeze, name) as (temp, result):
            nonce = os.urandom(32).hex()
            layer_id = _state_layer(nonce)
            path = self._path(layer_id)
            self._store.finish_layer(temp, path, {"kind": "state", "nonce": nonce, **result})
        return Layer(path / "tree", "mapped", layer_id)

    def write(self, make: Freeze, name: str) -> tuple[Layer | None, dict[str, Any]]:
        """Keep the output of a job, as `freeze`; the digest in its answer names the layer.

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

    def thaw(self, archive: Archive, layer_id: str, nonce: str, name: str) -> None:
        """Unpack a layer that was frozen elsewhere, under the name that it had there.

        Raises:
            ImageError: The name is not that of a frozen layer. It could be an image's, for which
                the contents would be taken from then on.
        """
        if not is_state_layer(layer_id, nonce):
            raise ImageError(f"{name}: its layer has no name of a state")
        with self._lock(layer_id), storing(name, self._store.home), self._store.temp_dir() as temp:
            if self.find(layer_id) is not None:
                return
            result = self._unpack_into(temp, archive, None, name)
            temp.path.chmod(0o700)
            path = self._path(layer_id)
            self.drop(path)
            record = {key: result[key] for key in ("size_bytes", "entries")}
            self._store.finish_layer(temp, path, {"kind": "state", "nonce": nonce, **record})

    def completed(self, layers: Sequence[Layer]) -> list[Layer]:
        """Return an image's layers, with those between them that `parents` makes if needed."""
        done: list[Layer] = []
        for layer in layers:
            done.append(layer)
            record = self._store.layer_record(layer.path.parent) or {}
            if record.get("unlisted") and len(done) > 1:
                above = self._parents(done, record["unlisted"])
                done += [above] if above is not None else []
        return done

    def devices(self, layers: Sequence[Layer]) -> list[Device]:
        """Return the device nodes in layers that a container gets when it starts."""
        records = [self._store.layer_record(layer.path.parent) or {} for layer in layers]
        nodes = [Device(*node) for record in records for node in record.get("devices", ())]
        return [node for node in nodes if node.name and not node.is_covered]

    def _parents(self, layers: Sequence[Layer], unlisted: Sequence[str]) -> Layer | None:
        """Return the layer to put on top of `layers`; None if they look as they should."""
        identity = "\n".join(["parents 2", *(layer.diff_id for layer in layers)])
        digest = f"sha256:{hashlib.sha256(identity.encode()).hexdigest()}"
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
                args = {"unlisted": list(unlisted), "single": self.single}
                count = self.inside.call(PARENTS, args, fds)["made"]
                temp.path.chmod(0o700)
                if self.find(digest) is None:
                    self.drop(path)
                    self._store.finish_layer(temp, path, {"kind": "parents", "made": count})
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
            difference: str = self.inside.call(COMPARE, {}, fds)["difference"]
            if not difference:
                return "", True
            with self._store.hidden_layer(path) as restore:
                if path.name in Holds(self._store).layers():
                    return difference, False
                restore.pop_all()
            self._keep(temp, result)
        return difference, True

    def _unpack_into(
        self,
        temp: TempDir,
        archive: Archive,
        diff_id: str | None,
        name: str,
        *,
        hashed: bool = False,
        stop: FetchStop | None = None,
    ) -> dict[str, Any]:
        """Unpack to ``tree`` in a directory of the store; return the job's answer."""
        with self._jobs, (stop or FetchStop()).pipe() as stopped:
            temp.removed_by = self.remove_inside
            # Container root makes the tree. Nobody else gets here: the store is 0700.
            temp.path.chmod(0o777)
            args = {
                "offset": archive.offset,
                "size": archive.size,
                "digest": archive.digest,
                "diff_id": diff_id,
                "hashed": hashed,
                "single": self.single,
                "name": name,
            }
            arrivals = [archive.arrivals] if archive.arrivals >= 0 else []
            fds = [archive.fd, temp.fd, stopped, *arrivals]
            result = self.inside.call(UNPACK, args, fds)
        _warn_of_devices(name, [Device(*node) for node in result["devices"]])
        return result

    def _keep(self, temp: TempDir, result: dict[str, Any]) -> Layer:
        temp.path.chmod(0o700)
        path = self._path(result["diff_id"])
        record = {
            "kind": "layer",
            **{key: result[key] for key in ("size_bytes", "entries", "unlisted", "devices")},
        }
        if self.find(result["diff_id"]) is None:
            self.drop(path)
            self._store.finish_layer(temp, path, record)
        return Layer(path / "tree", "mapped", result["diff_id"])

    def settle(self, layers: Sequence[Layer]) -> None:
        """Have the layers that were unpacked in this boot written to disk, without waiting.

        That is noted then. Whatever is not noted when the machine goes down is unpacked again
        before it is used, so no file needs an fsync of its own.
        """
        paths = [layer.path.parent for layer in layers]
        waiting = [path for path in paths if not self._store.is_settled(path)]
        if waiting:
            with starting_threads():
                threading.Thread(target=self._settle, args=(waiting,), daemon=True).start()

    def _settle(self, paths: Sequence[Path]) -> None:
        # A job: a thread that waits for a disk would keep this process from ending. Where the run
        # ends first, or the store is removed meanwhile, a later run will see to it.
        try:
            fd = os.open(self._store.home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            self.inside.call(SETTLE, {}, [fd])
        except (ContainersError, OSError):
            return
        finally:
            os.close(fd)
        self._store.note_settled(paths)

    def drop(self, path: Path) -> None:
        """Remove the layer in directory `path`, if it exists; the caller holds its lock."""
        if not path.exists():
            return
        self._store.forget_layer(path)
        with self._store.temp_dir() as temp:
            temp.removed_by = self.remove_inside
            with suppress(FileNotFoundError):
                (path / "tree").rename(temp.path / "tree")
        remove_tree(path)

    def remove_inside(self, path: Path) -> None:
        """Delete the contents of `path`, whichever ids of the run own them."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            path.chmod(0o777)
            self.inside.call(REMOVE, {}, [fd])
        finally:
            os.close(fd)


def is_state_layer(layer_id: str, nonce: str) -> bool:
    """Check that a name was made for a frozen layer: by no choice of `nonce` is it an image's."""
    return layer_id == _state_layer(nonce)


def _state_layer(nonce: str) -> str:
    return f"sha256:{hashlib.sha256(f'state layer {nonce}'.encode()).hexdigest()}"


def _warn_of_devices(name: str, devices: Sequence[Device]) -> None:
    """Warn of the device nodes in a layer that no container can have."""
    for node in devices:
        if not node.name and not node.is_covered:
            _log.warning(
                "%s: /%s is a device (%s %d:%d) that containers cannot have; opening it fails",
                name,
                node.path,
                node.kind,
                node.major,
                node.minor,
            )


def _await(futures: list[Future[Layer]], refresh: Callable[[], None]) -> None:
    """Wait until all have ended or one has failed, whose error is raised."""
    from concurrent.futures import FIRST_EXCEPTION, wait

    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=_REFRESH_S, return_when=FIRST_EXCEPTION)
        refresh()
        for future in done:
            future.result()


@contextmanager
def archive_at(path: Path, digest: str | None = None) -> Iterator[Archive]:
    """Open a whole file as an archive."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield Archive(fd, 0, os.fstat(fd).st_size, -1, digest)
    finally:
        os.close(fd)
