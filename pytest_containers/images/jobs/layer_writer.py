"""The writer of a layer: what an archive says of the layers below becomes what overlayfs reads."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from pytest_containers.linux.files import open_in_root
from pytest_containers.model.errors import ContainersError, ImageError
from pytest_containers.model.harmless import shown
from pytest_containers.runtime.copying import nodes
from pytest_containers.runtime.copying.nodes import FileAttributes, Fill
from pytest_containers.runtime.copying.tar import CHARACTER, DIRECTORY, Member
from pytest_containers.runtime.copying.whiteouts import OPAQUE_XATTR, is_whiteout, make_whiteout
from pytest_containers.runtime.copying.writer import TreeWriter

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
# Has overlayfs look for whiteouts in a directory that no other layer has (ovl_get_inode in the
# kernel); without it, listing the directory shows names that cannot be opened.
_WHITEOUTS_XATTR = "user.overlay.origin"
_MAX_ENTRIES = 10_000_000
_MAX_BYTES = 1 << 40
_FOLDER = os.O_RDONLY | os.O_DIRECTORY


class LayerWriter(TreeWriter):
    """A writer that applies members to a new directory.

    Links on the way are followed as if the directory were ``/``, wherever they come from.

    Args:
        single: Only one id exists, so all files are its own.

    Attributes:
        hidden: Paths of which the layers below are not to be seen.
        unlisted: Directories that are used and have no entry of their own.
        devices: ``(path, kind, major, minor)`` of device nodes, whose place a socket takes.
        size_bytes, entries: What was written.
    """

    error: type[ContainersError] = ImageError

    def __init__(self, root: int, *, single: bool, name: str) -> None:
        super().__init__(root, name=name)
        self._single = single
        # Whether a directory may hand its group down to what is made in it.
        self._setgid = False
        self.hidden: set[str] = set()
        self.unlisted: set[str] = set()
        self.devices: list[tuple[str, str, int, int]] = []
        self.size_bytes: int = 0
        self.entries: int = 0

    def write(self, member: Member, pieces: Iterator[memoryview]) -> None:
        """Apply one member; see `TreeWriter.write`."""
        self.entries += 1
        if self.entries > _MAX_ENTRIES:
            raise self.refusal(f"it has more than {_MAX_ENTRIES} members; it is hostile")
        super().write(member, pieces)

    def write_at(self, path: str, member: Member, pieces: Iterator[memoryview]) -> None:
        """Make a member, or note what it hides of the layers below."""
        folder, _, leaf = path.rpartition("/")
        if not leaf.startswith(_WHITEOUT):
            super().write_at(path, member, pieces)
            return
        parent = self.parent_of(folder, member)
        if leaf == _OPAQUE:
            os.setxattr(parent, OPAQUE_XATTR, b"y")
        else:
            self._write_whiteout(parent, leaf.removeprefix(_WHITEOUT), folder)

    def attributes(self, member: Member) -> FileAttributes:
        """Return all of a member's, but the owner where there is only one."""
        owner = None if self._single else (member.uid, member.gid)
        return FileAttributes(member.mode, member.mtime_ns, owner, member.xattrs)

    def write_root(self, member: Member) -> None:
        """Give the layer's directory the attributes of its entry."""
        if member.kind == DIRECTORY:
            attributes = self.attributes(member)
            nodes.dress_directory(self.root, attributes._replace(xattrs=None))
            self.keep_time("", self.root, member.mtime_ns)

    def write_file(self, parent: int, leaf: str, member: Member, fill: Fill) -> None:
        """Make a file; mostly nothing is left to be changed of what container root creates."""
        self.size_bytes += member.stored
        if self.size_bytes > _MAX_BYTES:
            raise self.refusal(f"it holds more than {_MAX_BYTES} bytes; it is hostile")
        as_created = not (member.uid or member.gid or self._setgid)
        nodes.make_file(parent, leaf, self.attributes(member), fill, as_created=as_created)

    def write_device(self, parent: int, leaf: str, path: str, member: Member) -> None:
        """Make a socket, which cannot be opened; where it can be had, the start of a container
        puts the device on it.
        """
        nodes.make_socket(parent, leaf, self.attributes(member))
        kind = "c" if member.kind == CHARACTER else "b"
        self.devices.append((path, kind, *member.device))

    def directory_made(self, path: str, fd: int, *, is_new: bool) -> None:
        """Note that a directory is listed; one in place of a hidden one shows only its own."""
        self._setgid = self._setgid or bool(os.fstat(fd).st_mode & stat.S_ISGID)
        if path in self.hidden:
            os.setxattr(fd, OPAQUE_XATTR, b"y")
        self.unlisted.discard(path)

    # ----------------------------------------------------------- parents

    def open_parent(self, folder: str, member: Member) -> int:
        """Open a directory; those that the archive uses and does not list are made."""
        try:
            try:
                return open_in_root(self.root, folder or ".", _FOLDER)
            except (FileNotFoundError, NotADirectoryError):
                self._make_unlisted(folder, member.mtime_ns)
                return open_in_root(self.root, folder, _FOLDER)
        except OSError as error:
            raise self.refusal(f"{shown(folder)}: {error.strerror}") from None

    def _make_unlisted(self, folder: str, mtime_ns: int) -> None:
        """Make directories without entries of their own, as old as what is in them."""
        above = os.dup(self.root)
        path = ""
        try:
            for leaf in folder.split("/"):
                path = f"{path}/{leaf}".lstrip("/")
                if path in self.hidden and is_whiteout(above, leaf):
                    os.unlink(leaf, dir_fd=above)
                try:
                    os.mkdir(leaf, 0o755, dir_fd=above)
                    is_new = True
                except FileExistsError:
                    is_new = False
                self._reveal(above, leaf, path)
                fd = open_in_root(self.root, path, _FOLDER)
                if is_new:
                    self.unlisted.add(path)
                    self.keep_time(path, fd, mtime_ns)
                os.close(above)
                above = fd
        finally:
            os.close(above)

    # ---------------------------------------------------------- whiteouts

    def _write_whiteout(self, parent: int, leaf: str, folder: str) -> None:
        """Hide `leaf` of the layers below. What this layer has under that name stays."""
        if leaf in ("", ".", "..") or "/" in leaf:
            raise self.refusal(f"whiteout of {leaf!r} in {folder!r} is not valid")
        path = f"{folder}/{leaf}".lstrip("/")
        self.hidden.add(path)
        try:
            make_whiteout(parent, leaf)
            os.setxattr(parent, _WHITEOUTS_XATTR, b"")
        except FileExistsError:
            self._reveal(parent, leaf, path)

    def _reveal(self, parent: int, leaf: str, path: str) -> None:
        """Have a directory in place of a hidden one show only its own entries."""
        if path not in self.hidden:
            return
        with suppress(NotADirectoryError):
            flags = _FOLDER | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(leaf, flags, dir_fd=parent)
            try:
                os.setxattr(fd, OPAQUE_XATTR, b"y")
            finally:
                os.close(fd)
