"""A container's writable layer as a layer of the store: a copy, with all that overlayfs noted.

Runs as a job (`Inside.call`) in a bare interpreter: the standard library only. Whiteouts, opaque
directories, owners, modes, times, extended attributes, hard links and holes stay what they are.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pytest_containers.errors import ImageError
from pytest_containers.images.pack import tar_digest

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OWN = "user.overlay."
# The others of overlayfs (origin, impure, nlink) speak of the layers that were below, by inode.
_KEPT_OF_OWN = ("user.overlay.opaque", "user.overlay.whiteout")
_AT_ONCE_BYTES = 1 << 30


def freeze_upper(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Copy the directory `fds[0]` to the new directory ``tree`` in `fds[1]`.

    Args:
        args: For a layer of an image: ``without``, paths where mounts were, which are left out if
            they are nothing but that; ``latest_ns``, the time that nothing is younger than, or
            null. `fds[2]`, if there is one, are the layers below as they show.

    Returns:
        ``size_bytes`` of the files' contents and ``entries``; for a layer of an image also
        ``diff_id``, which is empty where nothing was written.

    Raises:
        ImageError: It cannot be written, the disk is full mostly; with its path.
    """
    upper, parent = fds[:2]
    os.umask(0)
    os.mkdir("tree", 0o700, dir_fd=parent)
    tree = os.open("tree", _FOLDER, dir_fd=parent)
    stubs = _Stubs(frozenset(args.get("without", ())), fds[2] if len(fds) > 2 else -1)
    copier = _Copier(tree, stubs, args.get("latest_ns"))
    try:
        copier.folder(os.open(".", _FOLDER, dir_fd=upper), tree)
    except OSError as error:
        raise ImageError(
            f"freeze of {copier.at or '/'}: {error.strerror}", errno=error.errno
        ) from None
    found: dict[str, Any] = {"size_bytes": copier.size_bytes, "entries": copier.entries}
    if "without" in args:
        kept = os.open("tree", _FOLDER, dir_fd=parent)
        try:
            found["diff_id"] = tar_digest(kept) if copier.entries else ""
        finally:
            os.close(kept)
    return found


class _Copier:
    """Copies directories.

    Args:
        root: The new tree.
        stubs: What is left out.
        latest_ns: Nothing is younger; None keeps the times.

    Attributes:
        at: The path that is being copied.
    """

    def __init__(self, root: int, stubs: _Stubs, latest_ns: int | None) -> None:
        self.at = ""
        self._stubs = stubs
        self._latest_ns = latest_ns
        self.size_bytes = 0
        self.entries = 0
        self._links: dict[tuple[int, int], str] = {}
        self._root = os.dup(root)

    def folder(self, source: int, target: int, path: str = "") -> None:
        """Copy what is in `source`, then its own attributes; takes both over."""
        try:
            for leaf in sorted(os.listdir(source)):
                self.at = f"{path}/{leaf}"
                self._one(source, target, leaf, self.at)
            self.at = path
            status = os.fstat(source)
            _copy_attributes(source, target, status)
            os.utime(target, ns=self._times(status))
        finally:
            os.close(source)
            os.close(target)

    def _times(self, status: os.stat_result) -> tuple[int, int]:
        if self._latest_ns is None:
            return status.st_atime_ns, status.st_mtime_ns
        latest = min(status.st_mtime_ns, self._latest_ns)
        return latest, latest

    def _one(self, source: int, target: int, leaf: str, path: str) -> None:
        try:
            status = os.stat(leaf, dir_fd=source, follow_symlinks=False)
        except FileNotFoundError:
            return  # it was not paused, and has just removed it
        mode = status.st_mode
        if stat.S_ISSOCK(mode):
            return  # nobody will listen on it
        if self._stubs.has(source, leaf, path, status):
            return
        self.entries += 1
        if stat.S_ISDIR(mode):
            os.mkdir(leaf, 0o700, dir_fd=target)
            self.folder(
                os.open(leaf, _FOLDER, dir_fd=source), os.open(leaf, _FOLDER, dir_fd=target), path
            )
        elif stat.S_ISREG(mode):
            self._file(source, target, leaf, status)
        else:
            self._special(source, target, leaf, status)

    def _special(self, source: int, target: int, leaf: str, status: os.stat_result) -> None:
        mode = status.st_mode
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(leaf, dir_fd=source), leaf, dir_fd=target)
        elif stat.S_ISFIFO(mode):
            os.mkfifo(leaf, stat.S_IMODE(mode), dir_fd=target)
        else:  # a whiteout: no other device can be made in a container
            os.mknod(leaf, stat.S_IFMT(mode), status.st_rdev, dir_fd=target)
            return
        os.chown(leaf, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        os.utime(leaf, ns=self._times(status), dir_fd=target, follow_symlinks=False)

    def _file(self, source: int, target: int, leaf: str, status: os.stat_result) -> None:
        identity = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and identity in self._links:
            first = self._links[identity]
            os.link(first, leaf, src_dir_fd=self._root, dst_dir_fd=target, follow_symlinks=False)
            return
        data = os.open(leaf, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            copy = os.open(leaf, flags, 0o600, dir_fd=target)
            try:
                _copy_data(data, copy, status.st_size)
                _copy_attributes(data, copy, status)
                os.utime(copy, ns=self._times(status))
            finally:
                os.close(copy)
        finally:
            os.close(data)
        self.size_bytes += status.st_size
        if status.st_nlink > 1:
            self._links[identity] = self.at.lstrip("/")


class _Stubs:
    """What a runtime leaves in a writable layer only to mount something on it.

    Args:
        paths: Where that may be, with the directories above.
        base: The layers below as they show, or -1.
    """

    def __init__(self, paths: frozenset[str], base: int) -> None:
        self._paths = paths
        self._base = base

    def has(self, parent: int, leaf: str, path: str, status: os.stat_result) -> bool:
        """Whether what is there is nothing but a place for a mount."""
        if path not in self._paths:
            return False
        below = self._below(path)
        if stat.S_ISREG(status.st_mode):
            return not status.st_size and (below is None or not stat.S_ISREG(below.st_mode))
        if not stat.S_ISDIR(status.st_mode) or not self._says_nothing_new(status, below):
            return False
        fd = os.open(leaf, _FOLDER, dir_fd=parent)
        try:
            # Where there is nothing below, the kernel calls every new directory opaque.
            hides = below is not None and "user.overlay.opaque" in os.listxattr(fd)
            return not hides and all(
                self.has(fd, one, f"{path}/{one}", os.stat(one, dir_fd=fd, follow_symlinks=False))
                for one in os.listdir(fd)
            )
        finally:
            os.close(fd)

    def _below(self, path: str) -> os.stat_result | None:
        if self._base >= 0:
            with suppress(OSError):
                return os.stat(path[1:], dir_fd=self._base, follow_symlinks=False)
        return None

    @staticmethod
    def _says_nothing_new(status: os.stat_result, below: os.stat_result | None) -> bool:
        if below is None:
            return True
        return (status.st_mode, status.st_uid, status.st_gid) == (
            below.st_mode, below.st_uid, below.st_gid,
        )  # fmt: skip


def _copy_data(source: int, target: int, size: int) -> None:
    """Copy the parts that hold data; the rest stays holes."""
    at = 0
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # a hole up to the end
        at = min(os.lseek(source, start, os.SEEK_HOLE), size)
        os.lseek(target, start, os.SEEK_SET)
        while start < at:
            moved = os.sendfile(target, source, start, min(at - start, _AT_ONCE_BYTES))
            if not moved:
                break  # it became shorter meanwhile
            start += moved
    os.ftruncate(target, size)


def _copy_attributes(source: int, target: int, status: os.stat_result) -> None:
    # Owner before mode, and both before xattrs: chown(2) drops set-id bits and capabilities.
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        if name.startswith(_OWN) and name not in _KEPT_OF_OWN:
            continue
        if name.startswith(("trusted.", "security.selinux")):
            continue
        with suppress(FileNotFoundError):
            os.setxattr(target, name, os.getxattr(source, name))
