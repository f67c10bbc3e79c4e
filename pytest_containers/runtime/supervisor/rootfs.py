"""Root file systems: layers and trees of an image, and an overlay of its own per container."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import NamedTuple

from pytest_containers.linux import mount
from pytest_containers.runtime.plan.mounts import OWN_FILES
from pytest_containers.runtime.supervisor import etc_files
from pytest_containers.runtime.supervisor.root import RunRoot
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.loop import Batch, Loop
from pytest_containers.runtime.wire.message import close_all

_SCRATCH_FOLDERS = ("upper", "work", "etc")
_STOCK_IMAGES, _STOCK_AFTER_S = 4, 0.003
CLOSE_AFTER_S = 0.003


class ReadyImage(NamedTuple):
    """An image whose trees are attached in the supervisor's root.

    Attributes:
        key: The client's name for it.
        layers: Paths below ``/trees``, top first.
        layer_fds: The same as descriptors.
        mounts: ``(path below /shown, target in the container)``.
        devices: ``(path in the container, name in /dev)`` of its device nodes.
    """

    key: str
    layers: tuple[str, ...]
    layer_fds: tuple[int, ...]
    mounts: tuple[tuple[str, str], ...]
    devices: tuple[tuple[str, str], ...] = ()


class Rootfs:
    """The root file system of a container. Owns its descriptors.

    Attributes:
        fd: The overlay: readable also when the container is dead.
        scratch_fd: The file system of the writable layer: ``upper``, ``work`` and ``etc``.
    """

    def __init__(
        self, root: RunRoot, image: ReadyImage, scratch_fd: int, scratch_path: str
    ) -> None:
        self._root = root
        self._image = image
        self.scratch_fd: int = scratch_fd
        self._scratch_path = scratch_path
        self._etc: list[int] = []
        self.fd: int = -1
        try:
            self.mount_again()
        except BaseException:
            self.close()
            raise

    def mount_again(self) -> None:
        """Make the overlay (anew: a dead container's cannot be attached a second time)."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if self._root.features.detached_layers and not self._scratch_path:
            self.fd = _overlay_by_descriptors(self._image, self.scratch_fd)
        else:
            self.fd = _overlay_by_paths(self._image, self._scratch_path)

    def open_root(self) -> int:
        """Open the root directory of the overlay, without what a container mounts in it."""
        return os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)

    def open_upper(self) -> int:
        """Open the upper directory of the overlay: all that was written."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        return os.open("upper", flags, dir_fd=self.scratch_fd)

    def prepare_etc(self) -> None:
        """Make the mounts for `take_etc`, of files that are still empty."""
        for name in OWN_FILES:
            os.close(etc_files.create(self.scratch_fd, name))
        self._etc = self._clone_etc()

    def take_etc(self) -> list[int]:
        """Return mounts of the files in ``etc`` of the scratch, in the order of `OWN_FILES`."""
        prepared, self._etc = self._etc, []
        return prepared or self._clone_etc()

    def _clone_etc(self) -> list[int]:
        cloned: list[int] = []
        try:
            for name in OWN_FILES:
                if self._scratch_path:
                    cloned.append(mount.open_tree(f"{self._scratch_path}/etc/{name}"))
                else:
                    cloned.append(mount.open_tree(f"etc/{name}", self.scratch_fd))
        except BaseException:
            for fd in cloned:
                os.close(fd)
            raise
        return cloned

    def close(self) -> None:
        """Let go of it; memory and blocks return when the container is dead as well."""
        close_all(self._hand_over())
        if self._scratch_path:
            mount.umount(self._scratch_path)
            os.rmdir(self._scratch_path)
            self._scratch_path = ""

    def close_soon(self, closing: Batch[int]) -> None:
        """Let go of it in a moment.

        To free the file systems of a dead container takes the kernel 0.3 ms. Whatever removes a
        container often starts the next one at once, and should not find the supervisor busy; some
        milliseconds later, that one's program runs and the supervisor waits for it.
        """
        if self._scratch_path:  # the directory on the host goes with it
            self.close()
        else:
            closing.add(*self._hand_over())

    def _hand_over(self) -> list[int]:
        fds = [fd for fd in (*self._etc, self.fd, self.scratch_fd) if fd >= 0]
        self._etc = []
        self.fd = self.scratch_fd = -1
        return fds


class Stock:
    """Root file systems made ahead: one each for the images that were used last.

    Args:
        root: The run's.
        loop: Tells when there is time.
    """

    def __init__(self, root: RunRoot, loop: Loop) -> None:
        self._root = root
        self._loop = loop
        self._ready: dict[str, Rootfs] = {}
        self._used: dict[str, ReadyImage] = {}
        self._making = False

    def take(self, image: ReadyImage) -> Rootfs:
        """Take a root file system with an unlimited writable layer in memory, ready or new."""
        ready = self._ready.pop(image.key, None)
        self._used.pop(image.key, None)
        self._used[image.key] = image
        if not self._making:
            self._making = True
            self._loop.call_at_leisure(_STOCK_AFTER_S, self._make)
        return ready or self._new(image)

    def _new(self, image: ReadyImage) -> Rootfs:
        return Rootfs(self._root, image, *new_scratch(self._root, None))

    def _make(self) -> None:
        self._making = False
        while len(self._used) > _STOCK_IMAGES:
            oldest = next(iter(self._used))
            del self._used[oldest]
            if oldest in self._ready:
                self._ready.pop(oldest).close()
        for key, image in self._used.items():
            # Made ahead of need: a lack of room is reported when a container needs it.
            with contextlib.suppress(OSError):
                if key not in self._ready:
                    self._ready[key] = self._prepared(image)

    def _prepared(self, image: ReadyImage) -> Rootfs:
        rootfs = self._new(image)
        try:
            rootfs.prepare_etc()
        except BaseException:
            rootfs.close()
            raise
        return rootfs


def new_scratch(root: RunRoot, size_bytes: int | None) -> tuple[int, str]:
    """Make a private tmpfs for a writable layer.

    Returns:
        Its descriptor; and its path, if this kernel needs it attached, else nothing.
    """
    fd = root.new_tmpfs(size_bytes)
    try:
        make_folders(fd)
        if root.features.detached_layers:
            return fd, ""
        return fd, root.place(os.dup(fd), "scratch")
    except BaseException:
        os.close(fd)
        raise


def disk_scratch(root: RunRoot, tree_fd: int) -> tuple[int, str]:
    """Make a writable layer in a directory of the host; takes its detached mount over."""
    path = root.place(tree_fd, "scratch")
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    make_folders(fd)
    return fd, path


def make_folders(scratch_fd: int) -> None:
    """Make the directories of a writable layer."""
    for name in _SCRATCH_FOLDERS:
        os.mkdir(name, 0o755, dir_fd=scratch_fd)


def _overlay_by_descriptors(image: ReadyImage, scratch_fd: int) -> int:
    options: list[tuple[str, str | int | None]] = [("lowerdir+", fd) for fd in image.layer_fds]
    opened = [
        os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=scratch_fd) for name in ("upper", "work")
    ]
    try:
        options += [("upperdir", opened[0]), ("workdir", opened[1])]
        options += [("userxattr", None), ("xino", "on")]
        return mount.new_mount("overlay", options)
    finally:
        for fd in opened:
            os.close(fd)


def _overlay_by_paths(image: ReadyImage, scratch_path: str) -> int:
    """Make an overlay as kernels before 6.15 need it: of attached layers, by their short paths.

    With mount(2), which takes a page of options: fsconfig(2) takes 256 bytes, 25 layers.
    """
    options = (
        f"lowerdir={':'.join(image.layers)},upperdir={scratch_path}/upper,"
        f"workdir={scratch_path}/work,userxattr,xino=on"
    )
    place = "/rootfs"  # where a container has its own; here it is always empty
    mount.mount("overlay", place, "overlay", 0, options)
    try:
        return mount.open_tree(place)
    finally:
        mount.umount(place)


def view_of(root: RunRoot, image: ReadyImage) -> int:
    """Make a detached, read-only overlay of an image's layers, without its mounts."""
    # Two are the least that an overlay takes.
    if root.features.detached_layers:
        empty = os.open("/empty", os.O_PATH | os.O_CLOEXEC)
        try:
            options: list[tuple[str, str | int | None]] = [
                ("lowerdir+", fd) for fd in (*image.layer_fds, empty)
            ]
            return mount.new_mount("overlay", [*options, ("userxattr", None), ("xino", "on")])
        finally:
            os.close(empty)
    place = "/rootfs"
    options_text = f"lowerdir={':'.join((*image.layers, '/empty'))},userxattr,xino=on"
    mount.mount("overlay", place, "overlay", 0, options_text)
    try:
        return mount.open_tree(place)
    finally:
        mount.umount(place)


def ready_image(
    root: RunRoot, key: str, layers: Sequence[str], mounts: Sequence[tuple[str, str]],
    devices: Sequence[tuple[str, str]],
) -> ReadyImage:  # fmt: skip
    """Put an image together from attached trees.

    Args:
        layers: Paths below ``/trees``, bottom first, as images list them.
        mounts: ``(path below /shown, target)``.
        devices: ``(path, name in /dev)``.
    """
    if not layers:
        raise FaultError("ImageError", f"image {key}: it has no layers")
    # overlayfs refuses a directory that is a layer twice (ELOOP); builds without changes make such
    # images. The upper one has every entry and whiteout of the lower one, so that shows nothing.
    top_first = tuple(dict.fromkeys(reversed(layers)))
    fds = tuple(os.open(path, os.O_PATH | os.O_CLOEXEC) for path in top_first)
    return ReadyImage(key, top_first, fds, tuple(mounts), tuple(devices))
