"""The writer of an archive in ADD: its members become files of a new layer."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator

from pytest_containers.builder.jobs.modes import Change
from pytest_containers.builder.jobs.tree import Tree
from pytest_containers.model.errors import BuildError, ContainersError
from pytest_containers.runtime.copying import nodes
from pytest_containers.runtime.copying.tar import (
    DIRECTORY,
    FIFO,
    FILE,
    LINK,
    SYMLINK,
    Member,
    Reader,
    TarError,
)
from pytest_containers.runtime.copying.writer import (
    MemberNameError,
    TreeWriter,
    link_target,
    write_data,
)

_CHUNK_BYTES = 1 << 17


class ArchiveWriter(TreeWriter):
    """A writer of members into a layer, with the layers below showing through.

    A member replaces what is in its way. Links on the way are followed as if the destination were
    ``/``, and may not lead out of it.

    Args:
        tree: The layer.
        place: The destination, a path without links.
        name: What the archive is called.
        owner: Of everything; None leaves it to the archive.
        change_mode: What ``--chmod`` does, or None.

    Attributes:
        path: What is being written.
        devices: Members that were left out: no user namespace may make devices.
    """

    error: type[ContainersError] = BuildError

    def __init__(
        self,
        tree: Tree,
        place: str,
        *,
        name: str,
        owner: tuple[int, int] | None,
        change_mode: Change | None,
    ) -> None:
        super().__init__(tree.fd, name=f"the archive {name}")
        self._tree = tree
        self._place = place
        self._owner = owner
        self._change_mode = change_mode
        self.path: str = place
        self.devices: list[str] = []

    def unpack(self, pipe: int) -> None:
        """Make all members of the tar that comes through a pipe.

        Raises:
            BuildError: It is broken or hostile.
            OSError: Something cannot be made (`path`).
        """
        reader = Reader(_pieces(pipe))
        try:
            for member in reader:
                self.write(member, reader.data())
            reader.drain()
        except TarError as error:
            raise self.refusal(f"it is broken: {error}") from None

    def write_at(self, path: str, member: Member, pieces: Iterator[memoryview]) -> None:
        """Make a member at a path below the destination."""
        kind, tree = member.kind, self._tree
        if kind not in (FILE, DIRECTORY, SYMLINK, LINK, FIFO):
            self.devices.append(path)
            return
        self.path = self._behind_links(path)
        status = tree.lookup(self.path)
        if status is not None and not (stat.S_ISDIR(status.st_mode) and kind == DIRECTORY):
            tree.remove(self.path)
        owner = self._owner or (member.uid, member.gid)
        mode = self._mode(member)
        if kind == DIRECTORY:
            fd = tree.make_folder(self.path, mode, owner, member.mtime_ns)
            nodes.set_xattrs(fd, member.xattrs)
        elif kind == SYMLINK:
            tree.make_link(self.path, member.linkname, owner, member.mtime_ns)
        elif kind == LINK:
            tree.make_hard_link(self.path, self._behind_links(self._target(path, member)))
        elif kind == FIFO:
            tree.make_fifo(self.path, mode, owner, member.mtime_ns)
        else:
            tree.make_file(
                self.path,
                mode,
                owner,
                member.mtime_ns,
                lambda fd: write_data(fd, member, pieces),
                lambda fd: nodes.set_xattrs(fd, member.xattrs),
            )

    def _mode(self, member: Member) -> int:
        if self._change_mode is None:
            return member.mode
        return self._change_mode(member.mode, member.kind == DIRECTORY)

    def _target(self, path: str, member: Member) -> str:
        try:
            return link_target(path, member.linkname)
        except MemberNameError as error:
            raise self.refusal(str(error)) from None

    def _behind_links(self, path: str) -> str:
        """Return a member's place: links on the way stay below the destination."""
        folder, leaf = posixpath.split(path)
        above = self._tree.resolve(posixpath.join(self._place, folder), self._place)
        return posixpath.join(above, leaf)


def _pieces(pipe: int) -> Iterator[bytes]:
    while piece := os.read(pipe, _CHUNK_BYTES):
        yield piece
