"""The receiving end of a copy between a host and a container."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from pytest_containers.linux.files import open_in_root
from pytest_containers.runtime.copying.nodes import FileAttributes
from pytest_containers.runtime.copying.tar import DIRECTORY, Member, Reader
from pytest_containers.runtime.copying.writer import TreeWriter

_CHUNK_BYTES = 1 << 17
_FOLDER = os.O_RDONLY | os.O_DIRECTORY


class CopyWriter(TreeWriter):
    """A writer of copies below a directory, whose files belong to their creator.

    A directory is merged into one that is there, a file replaces another; neither takes the place
    of the other, as with ``docker cp``. No link on the way is followed.

    Args:
        top: Its name in the directory.
        mode_mask: The permission bits that are taken over.
        directory_mode: Bits that each directory gets.
    """

    def __init__(
        self, root: int, *, name: str, top: str, mode_mask: int = 0o7777, directory_mode: int = 0
    ) -> None:
        super().__init__(root, name=name, top=top)
        self._mode_mask = mode_mask
        self._directory_mode = directory_mode

    def attributes(self, member: Member) -> FileAttributes:
        """Return mode and time of a member."""
        extra = self._directory_mode if member.kind == DIRECTORY else 0
        return FileAttributes(member.mode & self._mode_mask | extra, member.mtime_ns)

    def clear(self, parent: int, leaf: str, member: Member) -> None:
        """Remove a file that has a member's name.

        Raises:
            OSError: Either is a directory.
        """
        status = os.stat(leaf, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            raise OSError(errno.EISDIR, "a directory is there, which a file does not replace")
        if member.kind == DIRECTORY:
            raise OSError(errno.ENOTDIR, "a file is there, which a directory does not replace")
        os.unlink(leaf, dir_fd=parent)


def write_copy(pipe: int, writer: CopyWriter) -> None:
    """Make the tree that comes as a tar through a pipe, and read it to its end.

    Raises:
        TarError: The stream broke off.
        ContainersError, OSError: See `TreeWriter.write`.
    """
    reader = Reader(_pieces(pipe))
    try:
        for member in reader:
            writer.write(member, reader.data())
        writer.finish()
        # A tar ends before its padding does, and the other side still writes that.
        reader.drain()
    finally:
        writer.close()


def _pieces(pipe: int) -> Iterator[bytes]:
    while piece := os.read(pipe, _CHUNK_BYTES):
        yield piece


def open_target(root: int, path: str, name: str) -> tuple[int, str]:
    """Open the directory that a copy is made in; a descriptor of the caller's.

    Args:
        root: What is ``/`` for the path and its links.
        name: What the copy is called where the path is a directory.

    Returns:
        The directory, and the name of the copy in it.

    Raises:
        OSError: There is no such directory; named after its path.
    """
    try:
        return open_in_root(root, path, _FOLDER), name
    except NotADirectoryError:
        pass
    except FileNotFoundError:
        if path.endswith("/"):
            raise
    above, _, leaf = path.rstrip("/").rpartition("/")
    return open_in_root(root, above or "/", _FOLDER), leaf


def sentence_of(error: OSError) -> str:
    """Return what the kernel says of a path, with the path in front."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason
