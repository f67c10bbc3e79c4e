"""A new layer as it is written: what is below it shows through, and no link leads out of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress

from pytest_containers.errors import BuildError
from pytest_containers.linux.files import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40
_MAX_OPEN = 200  # directories; trees have any number of them, processes have a limit
_NOT_COPIED = ("user.overlay.", "trusted.", "security.selinux", "system.")
Fill = Callable[[int], None]
"""Writes a file's contents to a descriptor."""


class Tree:
    """Writes files into a directory that becomes a layer.

    Paths are those of the container, without a leading slash; empty is its root. Parents are made
    as the layers below have them, else as directories of `owner`.

    Args:
        fd: The directory.
        base: The layers below as they show, or -1.
        owner: Of directories that are made on the way.
        time_ns: When everything is said to have changed; None keeps the times.
    """

    def __init__(self, fd: int, base: int, owner: tuple[int, int], time_ns: int | None) -> None:
        self._fd = fd
        self._base = base
        self._owner = owner
        self._time_ns = time_ns
        self._resolved: dict[str, str] = {}
        self._folders: dict[str, int] = {}
        self._times: list[tuple[str, int]] = []
        self.size_bytes: int = 0
        self.entries: int = 0

    # ----------------------------------------------------------------- looking

    def lookup(self, path: str) -> os.stat_result | None:
        """What is at a path that has no links in it, or None."""
        if not path:
            return os.fstat(self._fd)
        for root in (self._fd, self._base):
            if root < 0:
                continue
            with suppress(FileNotFoundError, NotADirectoryError):
                return os.stat(path, dir_fd=root, follow_symlinks=False)
        return None

    def _link(self, path: str) -> str:
        for root in (self._fd, self._base):
            if root >= 0:
                with suppress(OSError):
                    return os.readlink(path, dir_fd=root)
        raise BuildError(f"/{path} is not a link any more")

    def resolve(self, path: str) -> str:
        """The same path without links: each is followed as if the container's root were ``/``."""
        known = self._resolved.get(path)
        if known is not None:
            return known
        done: list[str] = []
        todo = [part for part in path.split("/") if part not in ("", ".")]
        links = 0
        while todo:
            part = todo.pop(0)
            if part == "..":
                if done:
                    done.pop()
                continue
            at = "/".join([*done, part])
            status = self.lookup(at)
            if status is None or not stat.S_ISLNK(status.st_mode):
                done.append(part)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise BuildError(f"/{path}: too many symbolic links in the image")
            target = self._link(at)
            if target.startswith("/"):
                done = []
            todo = [one for one in target.split("/") if one not in ("", ".")] + todo
        found = "/".join(done)
        self._resolved[path] = found
        return found

    def is_folder(self, path: str) -> bool:
        """Whether there is a directory at a path, maybe behind links."""
        status = self.lookup(self.resolve(path))
        return status is not None and stat.S_ISDIR(status.st_mode)

    # ----------------------------------------------------------------- writing

    def folder(self, path: str) -> int:
        """A descriptor of the directory at a path without links; it is made with its parents.

        It stays this object's, and open until many others were asked for.
        """
        known = self._folders.pop(path, None)
        if known is not None:
            self._folders[path] = known  # the last to be closed
            return known
        if not path:
            fd = os.dup(self._fd)
        else:
            above, _, leaf = path.rpartition("/")
            parent = self.folder(above)
            try:
                os.mkdir(leaf, 0o755, dir_fd=parent)
                self.entries += 1
            except FileExistsError:
                fd = self._open(path)
            else:
                fd = self._open(path)
                self._like_below(path, fd)
        self._folders[path] = fd
        if len(self._folders) > _MAX_OPEN:
            os.close(self._folders.pop(next(iter(self._folders))))
        return fd

    def _open(self, path: str) -> int:
        try:
            return openat2(self._fd, path, FOLDER, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        except NotADirectoryError:
            raise BuildError(f"/{path} is not a directory in the image") from None

    def _like_below(self, path: str, fd: int) -> None:
        """A directory of the image stays what it is; a new one is the owner's."""
        status = None
        if self._base >= 0:
            with suppress(FileNotFoundError, NotADirectoryError):
                status = os.stat(path, dir_fd=self._base, follow_symlinks=False)
        if status is None:
            os.fchown(fd, *self._owner)
            os.fchmod(fd, 0o755)
            if self._time_ns is not None:
                self._times.append((path, self._time_ns))
            return
        if not stat.S_ISDIR(status.st_mode):
            raise BuildError(f"/{path} is not a directory in the image")
        source = os.open(path, FOLDER, dir_fd=self._base)
        try:
            copy_attributes(source, fd, status)
        finally:
            os.close(source)
        self._times.append((path, status.st_mtime_ns))

    def make_folder(
        self, path: str, mode: int | None, owner: tuple[int, int] | None, mtime_ns: int | None
    ) -> int:
        """A directory with attributes of its own.

        Raises:
            BuildError: There is something else.
        """
        status = self.lookup(path)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            raise BuildError(f"/{path} of the image is not a directory: it cannot become one")
        fd = self.folder(path)
        if owner is not None:
            os.fchown(fd, *owner)
        if mode is not None:
            os.fchmod(fd, mode)
        time_ns = self._time_ns if self._time_ns is not None else mtime_ns
        if time_ns is not None:
            self._times.append((path, time_ns))
        return fd

    def _leaf(self, path: str) -> tuple[int, str]:
        """Where a file will be; what is there is removed."""
        status = self.lookup(path)
        if status is not None and stat.S_ISDIR(status.st_mode):
            raise BuildError(f"/{path} is a directory in the image: a file cannot replace it")
        above, _, leaf = path.rpartition("/")
        parent = self.folder(self.resolve(above))
        if status is not None:
            with suppress(FileNotFoundError):  # it may be in a layer below
                os.unlink(leaf, dir_fd=parent)
            if stat.S_ISLNK(status.st_mode):
                self._resolved.clear()
        self.entries += 1
        return parent, leaf

    def make_file(
        self, path: str, mode: int, owner: tuple[int, int], mtime_ns: int, fill: Fill,
        dress: Fill | None = None,
    ) -> None:  # fmt: skip
        """A file; `fill` writes it, and `dress` adds what a change of owner would drop."""
        parent, leaf = self._leaf(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(leaf, flags, 0o600, dir_fd=parent)
        try:
            fill(fd)
            self.size_bytes += os.fstat(fd).st_size
            # Owner before mode: chown(2) drops set-id bits.
            os.fchown(fd, *owner)
            os.fchmod(fd, mode)
            if dress is not None:
                dress(fd)
            time_ns = mtime_ns if self._time_ns is None else self._time_ns
            os.utime(fd, ns=(time_ns, time_ns))
        finally:
            os.close(fd)

    def make_link(self, path: str, target: str, owner: tuple[int, int], mtime_ns: int) -> None:
        """A symbolic link."""
        parent, leaf = self._leaf(path)
        self._resolved.clear()
        os.symlink(target, leaf, dir_fd=parent)
        os.chown(leaf, *owner, dir_fd=parent, follow_symlinks=False)
        time_ns = mtime_ns if self._time_ns is None else self._time_ns
        os.utime(leaf, ns=(time_ns, time_ns), dir_fd=parent, follow_symlinks=False)

    def make_hard_link(self, path: str, target: str) -> None:
        """Another name of a file that was written before."""
        above, _, name = target.rpartition("/")
        source = self.folder(self.resolve(above))
        parent, leaf = self._leaf(path)
        try:
            os.link(name, leaf, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise BuildError(f"/{path} is a hard link to /{target}, which is not there") from None

    def make_fifo(self, path: str, mode: int, owner: tuple[int, int], mtime_ns: int) -> None:
        """A named pipe."""
        parent, leaf = self._leaf(path)
        os.mkfifo(leaf, mode, dir_fd=parent)
        os.chown(leaf, *owner, dir_fd=parent, follow_symlinks=False)
        time_ns = mtime_ns if self._time_ns is None else self._time_ns
        os.utime(leaf, ns=(time_ns, time_ns), dir_fd=parent, follow_symlinks=False)

    def finish(self) -> None:
        """Set the times of directories, which changed as they were filled."""
        for path, time_ns in self._times:
            with suppress(FileNotFoundError):
                os.utime(self.folder(path), ns=(time_ns, time_ns))
        for fd in self._folders.values():
            os.close(fd)
        self._folders.clear()


def copy_attributes(source: int, target: int, status: os.stat_result) -> None:
    """Owner, mode and extended attributes of one open file to another."""
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    copy_xattrs(source, target)


def copy_xattrs(source: int, target: int) -> None:
    """Those that mean something outside the file system they are on."""
    for name in os.listxattr(source):
        if not name.startswith(_NOT_COPIED):
            with suppress(OSError):  # a file system without them
                os.setxattr(target, name, os.getxattr(source, name))
