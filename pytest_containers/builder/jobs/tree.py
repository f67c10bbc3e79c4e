"""A new layer as it is written: what is below it shows through, and no link leads out of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress

from pytest_containers.builder.jobs.modes import NEW_FOLDER_MODE
from pytest_containers.linux.files import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2, remove
from pytest_containers.model.errors import BuildError
from pytest_containers.runtime.copying.nodes import OwnerError, set_owner

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40
_MAX_OPEN = 200  # directories; trees have any number of them, processes have a limit
_CHUNK_BYTES = 1 << 20
_OPAQUE = "user.overlay.opaque"
_NOT_COPIED = ("user.overlay.", "trusted.", "security.selinux", "system.")
Fill = Callable[[int], None]
"""Writes a file's contents to a descriptor."""


class Tree:
    """A writer of files into a directory that becomes a layer.

    Paths are those of the container, without a leading slash; empty is its root. Parents are made
    as the layers below have them, else as directories of `owner`.

    Args:
        fd: The directory.
        base: The layers below as they show, or -1.
        owner, new_mode: Of directories that are made on the way.
        time_ns: When everything is said to have changed; None keeps the times.

    Attributes:
        new_owner, new_mode: The same; they may change.
    """

    def __init__(
        self,
        fd: int,
        base: int,
        owner: tuple[int, int],
        time_ns: int | None,
        new_mode: int = NEW_FOLDER_MODE,
    ) -> None:
        self.fd: int = fd
        self._base = base
        self.new_owner: tuple[int, int] = owner
        self.new_mode: int = new_mode
        self._time_ns = time_ns
        self._resolved: dict[tuple[str, str], str] = {}
        self._looked_at: set[str] = set()  # what `_resolved` relies on
        self._hidden: set[str] = set()  # what the layers below have there is not to be seen
        self._folders: dict[str, int] = {}
        self._times: list[tuple[str, int]] = []
        self.size_bytes: int = 0
        self.entries: int = 0

    # ----------------------------------------------------------------- looking

    def lookup(self, path: str) -> os.stat_result | None:
        """Return the status of a path that has no links in it; None if nothing is there."""
        if not path:
            return os.fstat(self.fd)
        for root in self._roots(path):
            with suppress(FileNotFoundError, NotADirectoryError):
                return os.stat(path, dir_fd=root, follow_symlinks=False)
        return None

    def _roots(self, path: str) -> list[int]:
        """Return where a path may be: in the layer, and in those below unless it is hidden."""
        return [self.fd] if self._base < 0 or self._is_hidden(path) else [self.fd, self._base]

    def _is_hidden(self, path: str) -> bool:
        while path and self._hidden:
            if path in self._hidden:
                return True
            path = path.rpartition("/")[0]
        return False

    def _link(self, path: str) -> str:
        for root in self._roots(path):
            with suppress(OSError):
                return os.readlink(path, dir_fd=root)
        raise BuildError(f"/{path} is not a link any more")

    def resolve(self, path: str, root: str = "") -> str:
        """Return the same path without links.

        Args:
            root: What is ``/`` for a link; a path without links, at which `path` begins.

        Raises:
            BuildError: A link leads out of a `root` that is not the container's.
        """
        cached = self._resolved.get((root, path))
        if cached is not None:
            return cached
        top = root.split("/") if root else []
        done: list[str] = list(top)
        todo = [part for part in path.split("/") if part not in ("", ".")][len(top) :]
        above, _, leaf = path.rpartition("/")
        folder = self._resolved.get((root, above))
        if folder and todo and leaf not in ("", ".", ".."):
            # Trees are written from the top: only the last name is new.
            done, todo = folder.split("/"), [leaf]
        links = 0
        while todo:
            part = todo.pop(0)
            if part == "..":
                if len(done) > len(top):
                    done.pop()
                elif top:
                    raise BuildError(f"/{path}: a link on the way leads out of /{root}")
                continue
            current = "/".join([*done, part])
            self._looked_at.add(current)
            status = self.lookup(current)
            if status is None or not stat.S_ISLNK(status.st_mode):
                done.append(part)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise BuildError(f"/{path}: too many symbolic links in the image")
            target = self._link(current)
            if target.startswith("/"):
                done = list(top)
            todo = [name for name in target.split("/") if name not in ("", ".")] + todo
        resolved = "/".join(done)
        self._resolved[root, path] = resolved
        return resolved

    def _changed(self, path: str) -> None:
        """Resolve again what led through a path."""
        if path in self._looked_at:
            self._looked_at.clear()
            self._resolved.clear()

    def is_folder(self, path: str) -> bool:
        """Return whether there is a directory at a path, maybe behind links."""
        status = self.lookup(self.resolve(path))
        return status is not None and stat.S_ISDIR(status.st_mode)

    # ----------------------------------------------------------------- writing

    def folder(self, path: str) -> int:
        """Open the directory at a path without links; make it and its parents if necessary.

        The tree owns the descriptor, which stays open until many others were opened.
        """
        # A loop: a path has more directories than an interpreter recurses.
        missing: list[str] = []
        while path not in self._folders and not self._reopen(path):
            missing.append(path)
            path = path.rpartition("/")[0]
        fd = self._folders.pop(path)
        self._keep(path, fd)  # the last to be closed
        for path in reversed(missing):
            fd = self._make(path, fd)
            self._keep(path, fd)
        return fd

    def _reopen(self, path: str) -> bool:
        """Open a directory that the layer has; return whether it does."""
        try:
            self._folders[path] = self._open(path) if path else os.dup(self.fd)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _keep(self, path: str, fd: int) -> None:
        self._folders[path] = fd
        if len(self._folders) > _MAX_OPEN:
            os.close(self._folders.pop(next(iter(self._folders))))

    def _make(self, path: str, parent: int) -> int:
        try:
            os.mkdir(path.rpartition("/")[2], 0o755, dir_fd=parent)
        except FileExistsError:  # and is no directory
            raise BuildError(f"/{path} is not a directory in the image") from None
        self.entries += 1
        fd = self._open(path)
        self._like_below(path, fd)
        return fd

    def _open(self, path: str) -> int:
        return openat2(self.fd, path, FOLDER, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)

    def _like_below(self, path: str, fd: int) -> None:
        """Give a directory the attributes it has in the image; a new one is the owner's."""
        status = None
        if self._base >= 0:
            with suppress(FileNotFoundError, NotADirectoryError):
                status = os.stat(path, dir_fd=self._base, follow_symlinks=False)
        if status is None or self._is_hidden(path):
            if status is not None and path in self._hidden and stat.S_ISDIR(status.st_mode):
                os.setxattr(fd, _OPAQUE, b"y")
            _give(fd, self.new_owner, path)
            os.fchmod(fd, self.new_mode)
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
        """Make a directory with attributes of its own.

        Raises:
            BuildError: There is something else.
        """
        status = self.lookup(path)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            raise BuildError(f"/{path} of the image is not a directory: it cannot become one")
        fd = self.folder(path)
        if owner is not None:
            _give(fd, owner, path)
        if mode is not None:
            os.fchmod(fd, mode)
        time_ns = self._time_ns if self._time_ns is not None else mtime_ns
        if time_ns is not None:
            self._times.append((path, time_ns))
        return fd

    def remove(self, path: str) -> None:
        """Remove what is at a path without links, with all that is in it."""
        above, _, leaf = path.rpartition("/")
        status = self.lookup(path)
        if status is not None and stat.S_ISDIR(status.st_mode):
            self._forget_folders(path)
        remove(leaf, self.folder(above))  # unless only the layers below have it
        self._hidden.add(path)
        self._changed(path)

    def _forget_folders(self, path: str) -> None:
        """Close the directories at and below a path, whose times need not be set."""
        for folder in [name for name in self._folders if f"{name}/".startswith(f"{path}/")]:
            os.close(self._folders.pop(folder))
        self._times = [
            (folder, time_ns)
            for folder, time_ns in self._times
            if not f"{folder}/".startswith(f"{path}/")
        ]

    def _leaf(self, path: str) -> tuple[int, str]:
        """Remove the file at a path; return the directory and the name for a new one."""
        status = self.lookup(path)
        if status is not None and stat.S_ISDIR(status.st_mode):
            raise BuildError(f"/{path} is a directory in the image: a file cannot replace it")
        above, _, leaf = path.rpartition("/")
        parent = self.folder(self.resolve(above))
        if status is not None:
            with suppress(FileNotFoundError):  # it may be in a layer below
                os.unlink(leaf, dir_fd=parent)
            if stat.S_ISLNK(status.st_mode):
                self._changed(path)
        self.entries += 1
        return parent, leaf

    def make_file(
        self,
        path: str,
        mode: int,
        owner: tuple[int, int],
        mtime_ns: int,
        fill: Fill,
        dress: Fill | None = None,
    ) -> None:
        """Make a file; `fill` writes it, and `dress` adds what a change of owner would drop."""
        parent, leaf = self._leaf(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(leaf, flags, 0o600, dir_fd=parent)
        try:
            fill(fd)
            self.size_bytes += os.fstat(fd).st_size
            # Owner before mode: chown(2) drops set-id bits.
            _give(fd, owner, path)
            os.fchmod(fd, mode)
            if dress is not None:
                dress(fd)
            time_ns = mtime_ns if self._time_ns is None else self._time_ns
            os.utime(fd, ns=(time_ns, time_ns))
        finally:
            os.close(fd)

    def make_link(self, path: str, target: str, owner: tuple[int, int], mtime_ns: int) -> None:
        """Make a symbolic link."""
        parent, leaf = self._leaf(path)
        self._changed(path)
        os.symlink(target, leaf, dir_fd=parent)
        _give(leaf, owner, path, parent)
        time_ns = mtime_ns if self._time_ns is None else self._time_ns
        os.utime(leaf, ns=(time_ns, time_ns), dir_fd=parent, follow_symlinks=False)

    def make_hard_link(self, path: str, target: str) -> None:
        """Make another name of a file, which is copied up if only the layers below have it."""
        above, _, name = target.rpartition("/")
        source = self.folder(self.resolve(above))
        if _status_in(source, name) is None:
            self._copy_up(path, target)
        parent, leaf = self._leaf(path)
        source = self.folder(self.resolve(above))  # it may have been closed
        os.link(name, leaf, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

    def _copy_up(self, path: str, target: str) -> None:
        """Make the file that a hard link needs as the layers below have it, as overlayfs does."""
        status = self.lookup(target)
        if status is None or stat.S_ISDIR(status.st_mode):
            raise BuildError(
                f"/{path} is a hard link to /{target}, which is not there or a directory"
            )
        owner = status.st_uid, status.st_gid
        if stat.S_ISLNK(status.st_mode):
            self.make_link(target, self._link(target), owner, status.st_mtime_ns)
            return
        source = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._base)
        try:
            self.make_file(
                target,
                stat.S_IMODE(status.st_mode),
                owner,
                status.st_mtime_ns,
                lambda fd: copy_data(source, fd),
                lambda fd: copy_xattrs(source, fd),
            )
        finally:
            os.close(source)

    def make_fifo(self, path: str, mode: int, owner: tuple[int, int], mtime_ns: int) -> None:
        """Make a named pipe."""
        parent, leaf = self._leaf(path)
        os.mkfifo(leaf, mode, dir_fd=parent)
        _give(leaf, owner, path, parent)
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


def _status_in(folder: int, leaf: str) -> os.stat_result | None:
    with suppress(FileNotFoundError):
        return os.stat(leaf, dir_fd=folder, follow_symlinks=False)
    return None


def _give(target: int | str, owner: tuple[int, int], path: str, parent: int | None = None) -> None:
    """Change the owner of a new file; see `nodes.set_owner`.

    Raises:
        BuildError: The run has no such ids.
    """
    try:
        set_owner(target, owner, parent)
    except OwnerError as error:
        raise BuildError(f"/{path} {error}, or use --chown", path=path) from None


def copy_data(source: int, target: int) -> None:
    """Copy the contents of one open file to another."""
    offset = 0
    while moved := os.sendfile(target, source, offset, _CHUNK_BYTES):
        offset += moved


def copy_attributes(source: int, target: int, status: os.stat_result) -> None:
    """Copy owner, mode and extended attributes of one open file to another."""
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    copy_xattrs(source, target)


def copy_xattrs(source: int, target: int) -> None:
    """Copy the extended attributes that mean something on other file systems as well."""
    for name in os.listxattr(source):
        if not name.startswith(_NOT_COPIED):
            with suppress(OSError):  # a file system without them
                os.setxattr(target, name, os.getxattr(source, name))
