"""Trees of the host, attached once per run: layers of images, and what a caller binds."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from pytest_containers.linux import mount
from pytest_containers.linux.files import open_in_root
from pytest_containers.runtime.channel import Frame
from pytest_containers.runtime.launcher.identity import Identity
from pytest_containers.runtime.messages import Fault, FaultError, fault
from pytest_containers.runtime.peer import Peer
from pytest_containers.runtime.supervisor.root import RunRoot
from pytest_containers.runtime.supervisor.rootfs import (
    ReadyImage,
    Rootfs,
    new_scratch,
    ready_image,
    view_of,
)

Tree = tuple[str, bool, bool]
"""``(path on the host, whether its owners are the host's, whether mounts below it come along)``."""


class Trees:
    """Gets trees from the host: as root through the launcher, else by ourselves."""

    def __init__(self, root: RunRoot, identity: Identity, launcher: Peer) -> None:
        self._root = root
        self._identity = identity
        self._launcher = launcher
        self._images: dict[str, ReadyImage] = {}
        self._attached: dict[tuple[str, bool], str] = {}
        self._shown: dict[str, str] = {}
        self._holds: dict[str, int] = {}

    def image(self, key: str) -> ReadyImage:
        """An image that was made ready.

        Raises:
            FaultError: It was not.
        """
        try:
            return self._images[key]
        except KeyError:
            raise FaultError("ImageError", f"image {key} was not made ready") from None

    def view(self, key: str) -> int:
        """The root of an image as it shows, read-only; a descriptor of the caller's."""
        return view_of(self._root, self.image(key))

    def part(self, key: str, path: str, *, writable: bool) -> int:
        """A detached mount of what is at `path` in an image.

        Args:
            writable: What is written is in memory, and dropped with the mount.

        Raises:
            FaultError: It is not there.
        """
        image = self.image(key)
        if writable:
            rootfs = Rootfs(self._root, image, *new_scratch(self._root, None))
            whole = os.dup(rootfs.fd)
            rootfs.close()
        else:
            whole = view_of(self._root, image)
        if path in ("", "/"):
            return whole
        placed = ""
        try:
            if not self._root.features.detached_layers:
                placed = self._root.place(os.dup(whole), "shown")
            root = os.open(placed, os.O_PATH | os.O_CLOEXEC) if placed else os.dup(whole)
            try:
                inner = open_in_root(root, path, os.O_PATH)
            finally:
                os.close(root)
            try:
                return mount.open_tree("", inner)
            finally:
                os.close(inner)
        except OSError as error:
            raise FaultError(
                "StartError", f"mount of {path} of an image: {error.strerror}", path=path
            ) from None
        finally:
            os.close(whole)
            if placed:
                mount.umount(placed)
                os.rmdir(placed)

    def hold(self, key: str, fd: int) -> None:
        """Keep a lock on an image for the rest of the run: one is enough."""
        if self._holds.setdefault(key, fd) != fd:
            os.close(fd)

    def make_ready(self, image: dict[str, Any], done: Callable[[Fault | None], None]) -> None:
        """Attach what `image` needs and is not there yet.

        Args:
            image: ``{"key": …, "layers": [[path, owner], …], "mounts": [[path, target], …]}``.
        """
        key = image["key"]
        if key in self._images:
            done(None)
            return
        layers = [(path, owner == "caller") for path, owner in image["layers"]]
        shown = [(path, True) for path, _ in image["mounts"]]
        missing = [one for one in dict.fromkeys(layers + shown) if one not in self._attached]

        def opened(result: list[tuple[int, bool]] | Fault) -> None:
            if isinstance(result, Fault):
                done(Fault("ImageError", f"image {key}: {result.message}", result.data))
                return
            try:
                for one, (fd, _) in zip(missing, result, strict=True):
                    self._attached[one] = self._root.place(fd, "trees")
                self._images[key] = ready_image(
                    self._root, key, [self._attached[one] for one in layers],
                    [(self._show(path), target) for path, target in image["mounts"]],
                )  # fmt: skip
            except OSError as error:
                done(fault("ImageError", f"image {key}: {error.filename}: {error.strerror}"))
            else:
                done(None)

        self.open([(path, caller, False) for path, caller in missing], opened)

    def _show(self, path: str) -> str:
        if path not in self._shown:
            fd = self._root.overlay_of(self._attached[path, True])
            self._shown[path] = self._root.place(fd, "shown")
        return self._shown[path]

    def open(
        self, trees: Sequence[Tree], done: Callable[[list[tuple[int, bool]] | Fault], None]
    ) -> None:
        """Detached mounts of trees: for each its descriptor and whether it is a directory."""
        if not trees:
            done([])
        elif self._identity.mode != "root":
            self._open_here(trees, done)
        else:
            self._ask(trees, done)

    def _ask(
        self, trees: Sequence[Tree], done: Callable[[list[tuple[int, bool]] | Fault], None]
    ) -> None:
        def answered(frame: Frame | Fault) -> None:
            if isinstance(frame, Fault):
                done(frame)
            else:
                done(list(zip(frame.fds, frame.body["ok"], strict=True)))

        self._launcher.request({"op": "trees", "trees": list(trees)}, answered)

    def _open_here(
        self, trees: Sequence[Tree], done: Callable[[list[tuple[int, bool]] | Fault], None]
    ) -> None:
        opened: list[tuple[int, bool]] = []
        try:
            for path, _, recursive in trees:
                fd = self._root.open_host_tree(path, recursive=recursive)
                opened.append((fd, os.path.isdir(f"/proc/self/fd/{fd}")))
        except OSError as error:
            for fd, _ in opened:
                os.close(fd)
            done(
                fault(
                    "StartError",
                    f"mount of {path}: {error.strerror}",
                    path=path,
                    errno=error.errno,
                )
            )
            return
        done(opened)

    def read_only(self, fd: int, name: str) -> int:
        """A read-only view of a tree; takes `fd` over.

        Args:
            fd: Detached mount of a directory.
            name: Of the one file in it that is wanted; empty for all of it.
        """
        path = self._root.place(fd, "volumes")
        try:
            view = self._root.overlay_of(path)
            if not name:
                return view
            try:
                if not self._root.features.detached_layers:
                    at = self._root.place(os.dup(view), "shown")
                    return mount.open_tree(f"{at}/{name}")
                return mount.open_tree(name, view)
            finally:
                os.close(view)
        finally:
            mount.umount(path)
            os.rmdir(path)
