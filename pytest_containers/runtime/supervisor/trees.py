"""Trees of the host, attached once per run: layers of images, and what a caller binds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from pytest_containers.linux import mount
from pytest_containers.linux.descriptors import OwnedDescriptors
from pytest_containers.linux.files import (
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    open_in_root,
    openat2,
)
from pytest_containers.runtime.identity import Identity
from pytest_containers.runtime.supervisor.mount_lock import MountLock
from pytest_containers.runtime.supervisor.root import RunRoot
from pytest_containers.runtime.supervisor.rootfs import (
    ReadyImage,
    Rootfs,
    new_scratch,
    ready_image,
    view_of,
)
from pytest_containers.runtime.wire.faults import FaultError, from_os_error, tree_refused
from pytest_containers.runtime.wire.message import close_all
from pytest_containers.runtime.wire.operations.host import HostTree, OpenTrees
from pytest_containers.runtime.wire.operations.session import AttachImage
from pytest_containers.runtime.wire.peer import Peer
from pytest_containers.runtime.wire.tasks import owned


class TreeOfHost(NamedTuple):
    """A detached mount of a tree of the host.

    Attributes:
        fd: Its descriptor.
        directory: True if it is a directory.
        notes: What it lacks, in clauses.
    """

    fd: int
    directory: bool
    notes: Sequence[str] = ()


class Trees:
    """Gets trees from the host: as root through the launcher, else by ourselves."""

    def __init__(self, root: RunRoot, identity: Identity, launcher: Peer) -> None:
        self._root = root
        self._identity = identity
        self._launcher = launcher
        self._images: dict[str, ReadyImage] = {}
        self._attached: dict[tuple[str, bool], str] = {}
        self._shown: dict[tuple[str, bool], str] = {}
        self._holds: dict[str, int] = {}
        self._mount_lock: MountLock | None = None

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
        """Keep a lock on an image for the rest of the run; further ones are closed."""
        if self._holds.setdefault(key, fd) != fd:
            os.close(fd)

    async def make_ready(self, image: AttachImage) -> None:
        """Attach the trees of `image` that are not there yet.

        Raises:
            FaultError: A layer or directory cannot be had.
        """
        key = image.key
        if key in self._images:
            return
        layers = [(layer.path, layer.owner == "caller") for layer in image.layers]
        shown = [(mount.source, not mount.public) for mount in image.mounts]
        missing = [tree for tree in dict.fromkeys(layers + shown) if tree not in self._attached]
        requests = [
            HostTree(path=path, idmapped=caller, recursive=False) for path, caller in missing
        ]
        try:
            with OwnedDescriptors(tree.fd for tree in await self.open(requests)) as opened:
                for index, tree in enumerate(missing):
                    if tree not in self._attached:  # by another request meanwhile
                        self._attached[tree] = self._root.place(opened.take(index), "trees")
            self._images[key] = ready_image(
                self._root,
                key,
                [self._attached[layer] for layer in layers],
                [
                    (self._show(tree), mount.target)
                    for tree, mount in zip(shown, image.mounts, strict=True)
                ],
                [(device.path, device.name) for device in image.devices],
            )
        except FaultError as error:
            fault = error.fault
            if fault.kind == "RunLostError":
                raise
            message = f"image {key}: {fault.message}"
            raise FaultError.of(fault._replace(kind="ImageError", message=message)) from None
        except OSError as error:
            raise FaultError(
                "ImageError", f"image {key}: {error.filename}: {error.strerror}"
            ) from None

    def _show(self, tree: tuple[str, bool]) -> str:
        if tree not in self._shown:
            fd = self._root.overlay_of(self._attached[tree])
            self._shown[tree] = self._root.place(fd, "shown")
        return self._shown[tree]

    async def open(self, trees: Sequence[HostTree]) -> Sequence[TreeOfHost]:
        """Make detached mounts of trees; the descriptors are the caller's.

        Raises:
            FaultError: One cannot be had; then there is none.
        """
        if not trees:
            return []
        if self._identity.mode != "root":
            return self._open_here(trees)
        answer = await owned(
            self._launcher.request(OpenTrees(trees=trees)), lambda answer: close_all(answer.mounts)
        )
        with OwnedDescriptors(answer.mounts) as received, OwnedDescriptors() as opened:
            notes, place = [], 0
            for tree in answer.trees:
                pieces = slice(place, place + 1 + len(tree.below))
                place = pieces.stop
                missing: list[str] = []
                if tree.below:
                    opened.fds.append(self._assemble(received.fds[pieces], tree.below, missing))
                else:
                    opened.fds.append(received.take(pieces.start))
                notes.append((*tree.notes, *missing))
            return [
                TreeOfHost(fd, tree.directory, notes)
                for fd, tree, notes in zip(opened.hand_over(), answer.trees, notes, strict=True)
            ]

    def _open_here(self, trees: Sequence[HostTree]) -> Sequence[TreeOfHost]:
        with OwnedDescriptors() as opened:
            directories = []
            for tree in trees:
                try:
                    fd = self._root.open_host_tree(tree.path, recursive=tree.recursive)
                except OSError as error:
                    raise tree_refused(tree.path, error, recursive=tree.recursive) from None
                opened.fds.append(fd)
                if tree.attributes:
                    mount.set_attributes(fd, add=tree.attributes, recursive=tree.recursive)
                directories.append(os.path.isdir(f"/proc/self/fd/{fd}"))
            return [
                TreeOfHost(fd, directory)
                for fd, directory in zip(opened.hand_over(), directories, strict=True)
            ]

    def _assemble(self, pieces: Sequence[int], below: Sequence[str], missing: list[str]) -> int:
        """Put the mounts of a tree together; returns a detached mount of all.

        Args:
            pieces: Its own mount, and one for each place of `below`.
            below: Relative paths, those above first.
            missing: Gets a sentence for each that cannot be mounted.
        """
        path = self._root.place(os.dup(pieces[0]), "volumes")
        try:
            for fd, place in zip(pieces[1:], below, strict=True):
                try:
                    # Relative to the tree, where its owner may have put a link meanwhile.
                    with OwnedDescriptors() as targets:
                        top = os.open(path, os.O_PATH | os.O_CLOEXEC)
                        targets.fds.append(top)
                        resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
                        targets.fds.append(openat2(top, place, os.O_PATH, resolve=resolve))
                        mount.move_mount(fd, "", targets.fds[-1])
                except OSError as error:
                    missing.append(f"{place} is not there: {error.strerror}")
            return mount.open_tree(path, recursive=True)
        finally:
            mount.umount(path)
            os.rmdir(path)

    def lock(self, fd: int) -> int:
        """Copy a detached mount with its attributes locked, and close `fd`.

        Raises:
            FaultError: This machine has no means for it.
        """
        try:
            if self._mount_lock is None:
                self._mount_lock = MountLock(self._root.own_ns)
            return self._mount_lock.lock(fd)
        except OSError as error:
            raise FaultError.of(
                from_os_error("UnsupportedError", "mounts of a container with SYS_ADMIN", error)
            ) from None
        finally:
            os.close(fd)
