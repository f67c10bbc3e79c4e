"""The one writer of trees: it makes the members of an archive below a directory.

Layers of images, archives in ADD, copies into containers and copies out of them are all written
here. Names and hard links pass one set of checks (`inside`, `link_target`), parents are opened
below the tree's root by the kernel's own rules (openat2(2)), and the last part of a name is never
followed. What differs between the four is in subclasses: where parents come from, which attributes
are taken over, and what is done about something in the way.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator
from contextlib import suppress

from pytest_containers.linux.files import (
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    open_in_root,
    openat2,
    remove,
)
from pytest_containers.model.errors import ContainersError
from pytest_containers.runtime.copying import nodes
from pytest_containers.runtime.copying.nodes import FileAttributes, Fill, OwnerError
from pytest_containers.runtime.copying.tar import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    FILE,
    LINK,
    SYMLINK,
    Member,
)

MAX_PATH_BYTES = 4095
"""The longest path that a system call takes (PATH_MAX counts the NUL)."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY


class MemberNameError(ValueError):
    """A member's name or link may not be used; the message is a sentence about the member."""


class OutsideError(MemberNameError):
    """It leads out of the tree."""


def inside(name: str) -> str:
    """Return the path of a member below the root of its tree, without ``.`` and ``..``.

    ``x/../y`` is ``y`` whatever ``x`` is, and an absolute name begins at the root, as for Docker.

    Raises:
        OutsideError: It has more ``..`` than there are directories.
        MemberNameError: No file can be called so.
    """
    if "\0" in name:
        raise MemberNameError(f"the name of member {name!r} contains NUL")
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            if not parts:
                raise OutsideError(f"member {name!r} leads out of the archive; it is hostile")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    path = "/".join(parts)
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise MemberNameError(
            f"member {name[:40]!r}…: its path is longer than {MAX_PATH_BYTES} bytes"
        )
    return path


def link_target(path: str, linkname: str) -> str:
    """Return the path that the hard link at `path` is another name of.

    It counts from the root of the tree. A name such as ``../../x``, which stays inside when it is
    read from the link's own directory, begins at the root, where dockerd ends up with it as well.

    Raises:
        OutsideError: It leads out of the tree both ways.
        MemberNameError: No file can be called so.
    """
    try:
        return inside(linkname)
    except OutsideError:
        try:
            inside(f"{posixpath.dirname(path)}/{linkname}")
        except OutsideError:
            raise OutsideError(
                f"{path!r} is a hard link to {linkname!r}, which leads out of the archive; it is "
                "hostile"
            ) from None
        return inside(posixpath.normpath(f"/{linkname}"))


class TreeWriter:
    """Makes members below a directory, in the order of the archive.

    Args:
        root: A descriptor of the directory; it stays the caller's.
        name: What the archive is called in errors.
        top: Where below the root its own root is.
    """

    error: type[ContainersError] = ContainersError
    """The class of the errors that are raised about the archive."""

    def __init__(self, root: int, *, name: str, top: str = "") -> None:
        self.root: int = root
        self.name: str = name
        self._top = top
        self._parent: tuple[str, int] | None = None
        # Time and inode of each directory: set at the end, unless something else is there then.
        self._directories: dict[str, tuple[int, int]] = {}
        self._makers: dict[int, Callable[[int, str, str, Member, Iterator[memoryview]], None]] = {
            FILE: self._file,
            LINK: self._link,
            SYMLINK: self._symlink,
            DIRECTORY: self._directory,
            FIFO: self._fifo,
            CHARACTER: self._device,
            BLOCK_DEVICE: self._device,
        }

    # --------------------------------------------------- what subclasses decide

    def attributes(self, member: Member) -> FileAttributes:
        """Return what is taken over from a member: here mode and time, but not its owner."""
        return FileAttributes(member.mode, member.mtime_ns)

    def open_parent(self, folder: str, member: Member) -> int:
        """Open the directory that a member goes into; no link on the way is followed.

        Returns:
            A descriptor of the caller's.
        """
        return openat2(
            self.root, folder or ".", _FOLDER, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
        )

    def clear(self, parent: int, leaf: str, member: Member) -> None:
        """Remove what has a member's name."""
        remove(leaf, parent)

    def write_root(self, member: Member) -> None:
        """Take the entry of the archive's own root, which is there."""

    def write_file(self, parent: int, leaf: str, member: Member, fill: Fill) -> None:
        """Make a file."""
        nodes.make_file(parent, leaf, self.attributes(member), fill)

    def write_device(self, parent: int, leaf: str, path: str, member: Member) -> None:
        """Make what stands for a device, which no user namespace may make."""

    def directory_made(self, path: str, fd: int, *, is_new: bool) -> None:
        """Take note of a directory that was made for a member, or is used for it."""

    # ----------------------------------------------------------------- writing

    def write(self, member: Member, pieces: Iterator[memoryview]) -> None:
        """Make one member.

        Args:
            pieces: What is stored of a file.

        Raises:
            ContainersError: Its name, link or owner is refused; of the class `error`.
            OSError: It cannot be made; named after its path.
        """
        try:
            path = inside(member.name)
        except MemberNameError as error:
            raise self.refusal(str(error)) from None
        path = f"{self._top}/{path}".strip("/")
        if not path:
            try:
                self.write_root(member)
            except OwnerError as error:
                raise self.refusal(f"{member.name!r} {error}") from None
            return
        self.write_at(path, member, pieces)

    def write_at(self, path: str, member: Member, pieces: Iterator[memoryview]) -> None:
        """Make a member at a path that was checked."""
        folder, _, leaf = path.rpartition("/")
        parent = self.parent_of(folder, member)
        make = self._makers[member.kind]
        try:
            try:
                make(parent, leaf, path, member, pieces)
            except FileExistsError:
                self.clear(parent, leaf, member)
                make(parent, leaf, path, member, pieces)
        except OwnerError as error:
            raise self.refusal(f"{member.name!r} {error}") from None
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None

    def finish(self) -> None:
        """Set the times of directories, which changed as they were filled."""
        for path, (mtime_ns, inode) in self._directories.items():
            with suppress(OSError):
                fd = open_in_root(self.root, path or ".", _FOLDER | os.O_NOFOLLOW)
                try:
                    if os.fstat(fd).st_ino == inode:
                        nodes.set_time(fd, mtime_ns)
                finally:
                    os.close(fd)

    def close(self) -> None:
        """Close what is open; idempotent."""
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    def refusal(self, sentence: str) -> ContainersError:
        """Return an error about the archive."""
        return self.error(f"{self.name}: {sentence}")

    def keep_time(self, path: str, fd: int, mtime_ns: int | None) -> None:
        """Have a directory's time set at the end."""
        if mtime_ns is not None:
            self._directories[path] = (mtime_ns, os.fstat(fd).st_ino)

    def parent_of(self, folder: str, member: Member) -> int:
        """Return a descriptor of the directory that a member goes into; it stays the writer's."""
        if self._parent is None or self._parent[0] != folder:
            fd = self.open_parent(folder, member)
            self.close()
            self._parent = (folder, fd)
        return self._parent[1]

    # ------------------------------------------------------------------- kinds

    def _file(
        self, parent: int, leaf: str, _: str, member: Member, pieces: Iterator[memoryview]
    ) -> None:
        self.write_file(parent, leaf, member, lambda fd: write_data(fd, member, pieces))

    def _directory(
        self, parent: int, leaf: str, path: str, member: Member, _: Iterator[memoryview]
    ) -> None:
        fd, is_new = nodes.make_directory(parent, leaf)
        try:
            attributes = self.attributes(member)
            nodes.dress_directory(fd, attributes)
            self.directory_made(path, fd, is_new=is_new)
            self.keep_time(path, fd, attributes.mtime_ns)
        finally:
            os.close(fd)

    def _symlink(
        self, parent: int, leaf: str, _: str, member: Member, __: Iterator[memoryview]
    ) -> None:
        if "\0" in member.linkname:
            raise self.refusal(f"the link of member {member.name!r} contains NUL")
        nodes.make_symlink(parent, leaf, member.linkname, self.attributes(member))

    def _link(
        self, parent: int, leaf: str, path: str, member: Member, _: Iterator[memoryview]
    ) -> None:
        try:
            target = link_target(path.removeprefix(self._top).lstrip("/"), member.linkname)
        except MemberNameError as error:
            raise self.refusal(str(error)) from None
        target = f"{self._top}/{target}".strip("/")
        folder, name = posixpath.split(target)
        try:
            source = self.open_link_source(folder)
            try:
                os.link(name, leaf, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(source)
        except (FileNotFoundError, NotADirectoryError):
            raise self.refusal(
                f"{member.name!r} is a hard link to {member.linkname!r}, which is not in the "
                "archive before it"
            ) from None

    def open_link_source(self, folder: str) -> int:
        """Open the directory of a hard link's target; a descriptor of the caller's."""
        return open_in_root(self.root, folder or ".", _FOLDER)

    def _fifo(
        self, parent: int, leaf: str, _: str, member: Member, __: Iterator[memoryview]
    ) -> None:
        nodes.make_fifo(parent, leaf, self.attributes(member))

    def _device(
        self, parent: int, leaf: str, path: str, member: Member, _: Iterator[memoryview]
    ) -> None:
        self.write_device(parent, leaf, path, member)


def write_data(fd: int, member: Member, pieces: Iterator[memoryview]) -> None:
    """Write what is stored of a file to a descriptor; holes stay holes."""
    if member.sparse is not None:
        _write_sparse(fd, member, member.sparse, pieces)
        return
    for piece in pieces:
        while piece:
            piece = piece[os.write(fd, piece) :]


def _write_sparse(
    fd: int, member: Member, parts: list[tuple[int, int]], pieces: Iterator[memoryview]
) -> None:
    piece = memoryview(b"")
    for offset, length in parts:
        while length:
            piece = piece or next(pieces)
            written = os.pwrite(fd, piece[:length], offset)
            piece = piece[written:]
            offset, length = offset + written, length - written
    os.ftruncate(fd, member.size)
