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

from pytest_containers.images.jobs.pack import tar_digest
from pytest_containers.model.errors import ImageError
from pytest_containers.runtime.copying.walk import FOLDER, Descent, Entry, open_folder, walk
from pytest_containers.runtime.copying.whiteouts import make_whiteout

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
    tree = os.open("tree", FOLDER, dir_fd=parent)
    stubs = _Stubs(frozenset(args.get("without", ())), fds[2] if len(fds) > 2 else -1)
    copier = _Copier(tree, stubs, args.get("latest_ns"))
    try:
        copier.copy(os.open(".", FOLDER, dir_fd=upper), tree)
    except OSError as error:
        raise ImageError(f"freeze of /{copier.path}: {error.strerror}", errno=error.errno) from None
    result: dict[str, Any] = {"size_bytes": copier.size_bytes, "entries": copier.entries}
    if "without" in args:
        result["diff_id"] = tar_digest(tree) if copier.entries else ""
    return result


class _Copier:
    """A copier of all that is below a directory.

    Args:
        root: The new tree.
        stubs: What is left out.
        latest_ns: Nothing is younger; None keeps the times.

    Attributes:
        path: What is being copied.
        size_bytes, entries: What was copied.
    """

    def __init__(self, root: int, stubs: _Stubs, latest_ns: int | None) -> None:
        self.path: str = ""
        self._stubs = stubs
        self._latest_ns = latest_ns
        self.size_bytes: int = 0
        self.entries: int = 0
        self._links: dict[tuple[int, int], str] = {}
        self._root = root

    def copy(self, source: int, tree: int) -> None:
        """Copy the directory `source` to the directory `tree`."""
        with Descent(tree) as target:
            for entry in walk(source):
                self.path = entry.path
                if entry.is_done:
                    self._finish_folder(entry, target.fd)
                    target.leave()
                elif stat.S_ISSOCK(entry.status.st_mode):
                    continue  # nobody will listen on it
                elif self._stubs.has(entry.parent, entry.leaf, f"/{entry.path}", entry.status):
                    entry.skip = True
                else:
                    self._copy_entry(entry, target)
            self.path = ""
            self._dress(source, target.fd, os.fstat(source))

    def _copy_entry(self, entry: Entry, target: Descent) -> None:
        self.entries += 1
        if entry.is_folder:
            os.mkdir(entry.leaf, 0o700, dir_fd=target.fd)
            target.enter(entry.leaf)
        elif stat.S_ISREG(entry.status.st_mode):
            self._copy_file(entry, target.fd)
        else:
            self._copy_special(entry, target.fd)

    def _finish_folder(self, entry: Entry, target: int) -> None:
        source = os.open(entry.leaf, FOLDER, dir_fd=entry.parent)
        try:
            self._dress(source, target, os.fstat(source))
        finally:
            os.close(source)

    def _dress(self, source: int, target: int, status: os.stat_result) -> None:
        _copy_attributes(source, target, status)
        os.utime(target, ns=self._times(status))

    def _times(self, status: os.stat_result) -> tuple[int, int]:
        if self._latest_ns is None:
            return status.st_atime_ns, status.st_mtime_ns
        latest = min(status.st_mtime_ns, self._latest_ns)
        return latest, latest

    def _copy_special(self, entry: Entry, target: int) -> None:
        leaf, status = entry.leaf, entry.status
        mode = status.st_mode
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(leaf, dir_fd=entry.parent), leaf, dir_fd=target)
        elif stat.S_ISFIFO(mode):
            os.mkfifo(leaf, stat.S_IMODE(mode), dir_fd=target)
        else:  # a whiteout: no other device can be made in a container
            make_whiteout(target, leaf)
            return
        os.chown(leaf, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        os.utime(leaf, ns=self._times(status), dir_fd=target, follow_symlinks=False)

    def _copy_file(self, entry: Entry, target: int) -> None:
        leaf, status = entry.leaf, entry.status
        identity = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and identity in self._links:
            self._link(self._links[identity], leaf, target)
            return
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        data = os.open(leaf, flags, dir_fd=entry.parent)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            copy = os.open(leaf, flags, 0o600, dir_fd=target)
            try:
                _copy_data(data, copy, status.st_size)
                self._dress(data, copy, status)
            finally:
                os.close(copy)
        finally:
            os.close(data)
        self.size_bytes += status.st_size
        if status.st_nlink > 1:
            self._links[identity] = entry.path

    def _link(self, first: str, leaf: str, target: int) -> None:
        above, _, name = first.rpartition("/")
        folder = open_folder(self._root, above)
        try:
            os.link(name, leaf, src_dir_fd=folder, dst_dir_fd=target, follow_symlinks=False)
        finally:
            os.close(folder)


class _Stubs:
    """The files that a runtime leaves in a writable layer only to mount something on them.

    Args:
        paths: Where that may be, with the directories above.
        base: The layers below as they show, or -1.
    """

    def __init__(self, paths: frozenset[str], base: int) -> None:
        self._paths = paths
        self._base = base

    def has(self, parent: int, leaf: str, path: str, status: os.stat_result) -> bool:
        """Check whether a file is nothing but a place for a mount."""
        if path not in self._paths:
            return False
        below = self._below(path)
        if stat.S_ISREG(status.st_mode):
            return not status.st_size and (below is None or not stat.S_ISREG(below.st_mode))
        if not stat.S_ISDIR(status.st_mode) or not self._says_nothing_new(status, below):
            return False
        fd = os.open(leaf, FOLDER, dir_fd=parent)
        try:
            # Where there is nothing below, the kernel calls every new directory opaque.
            hides = below is not None and "user.overlay.opaque" in os.listxattr(fd)
            return not hides and all(
                self.has(
                    fd, name, f"{path}/{name}", os.stat(name, dir_fd=fd, follow_symlinks=False)
                )
                for name in os.listdir(fd)
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
            below.st_mode,
            below.st_uid,
            below.st_gid,
        )


def _copy_data(source: int, target: int, size: int) -> None:
    """Copy the parts that hold data; the rest stays holes."""
    end = 0
    while end < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # a hole up to the end
        end = min(os.lseek(source, start, os.SEEK_HOLE), size)
        os.lseek(target, start, os.SEEK_SET)
        while start < end:
            moved = os.sendfile(target, source, start, min(end - start, _AT_ONCE_BYTES))
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
