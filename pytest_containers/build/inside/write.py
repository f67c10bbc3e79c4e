"""The job that writes the layer of a COPY, ADD or WORKDIR.

Runs as root of the run's user namespace (`Inside.call`). What the caller may read comes through
pipes; what is in images is read here, where every user's files can be.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
import tarfile
from collections.abc import Callable, Sequence
from typing import Any

from pytest_containers.build.inside.modes import Change, parse_chmod
from pytest_containers.build.inside.tree import FOLDER, Tree
from pytest_containers.errors import BuildError, ContainersError
from pytest_containers.images.pack import content_digest, tar_digest
from pytest_containers.runtime.messages import FaultError
from pytest_containers.runtime.plan.users import resolve

_CHUNK_BYTES = 1 << 20
_NUMBER = re.compile(r"[0-9]{1,10}\Z")  # int() refuses ², which str.isdigit takes
_MAX_ID = 2**32 - 2  # -1 is "leave it" (chown(2))
_NEW_FOLDER = 0o755
Take = Callable[["Writer", dict[str, Any], int], None]
"""Writes what an item names in the root behind a descriptor."""


def write_layer(
    args: dict[str, Any], fds: Sequence[int], take: Take | None = None
) -> dict[str, Any]:
    """Write the new directory ``tree`` in `fds[0]`.

    Args:
        args: ``base``, ``users``, ``source``: which of `fds` are the layers below as they show,
            the root whose users ``owner`` names, and the root that ``take`` reads from, or null.
            ``owner``: ``user[:group]``, or empty. ``chmod``. ``time_ns`` or null. ``single``:
            whether there are no users but root. ``root``, which
            may be missing: mode, user and group of the directory itself. ``items``, each with a
            ``kind``:

            - ``folder``: ``to``.
            - ``copy``: ``to``, ``into``, ``name``, ``below``, ``top`` and ``entries``, each
              ``[path, mode, size, mtime_ns, link target]``; contents come through
              `fds[item["fd"]]`.
            - ``take``: ``to``, ``into``, ``from`` (several), ``exclude``, ``parents`` (see
              `take`).
            - ``unpack``: ``to``; a tar comes through `fds[item["fd"]]`.

        take: Writes a ``take`` item.

    Returns:
        ``diff_id`` (empty when nothing was written), ``size_bytes``, ``entries``, and with a
        ``source`` also ``content``, a digest that leaves out times.

    Raises:
        BuildError: It cannot be done; with the path.
    """
    os.umask(0)
    base = -1 if args["base"] is None else fds[args["base"]]
    os.mkdir("tree", 0o755, dir_fd=fds[0])
    fd = os.open("tree", FOLDER, dir_fd=fds[0])
    os.fchmod(fd, 0o755)
    users = None if args["users"] is None else fds[args["users"]]
    owner = _owner(users, args["owner"])
    for uid, gid in (owner or (0, 0), tuple(args["root"][1:]) if "root" in args else (0, 0)):
        if args["single"] and (uid or gid):
            raise BuildError(
                f"owner {uid}:{gid}: this account has no subordinate ids, so there is only root; "
                "`pytest-containers setup` tells how to get some"
            )
    tree = Tree(fd, base, owner or (0, 0), args["time_ns"])
    writer = Writer(tree, owner, parse_chmod(args["chmod"]), single=args["single"])
    try:
        for item in args["items"]:
            if item["kind"] == "take":
                assert take is not None
                take(writer, item, fds[args["source"]])
            else:
                writer.write(item, fds)
        tree.finish()
    except ContainersError:
        raise
    except OSError as error:
        raise BuildError(
            f"/{writer.at}: {error.strerror or error}", errno=error.errno, path=writer.at
        ) from None
    if "root" in args:
        mode, uid, gid = args["root"]
        os.fchown(fd, uid, gid)
        os.fchmod(fd, mode)
    if not tree.entries:
        return {"diff_id": "", "size_bytes": 0, "entries": 0, "content": ""}
    return {
        "diff_id": tar_digest(fd), "size_bytes": tree.size_bytes, "entries": tree.entries,
        "content": content_digest(fd) if args["source"] is not None else "",
    }  # fmt: skip


def _owner(users: int | None, text: str) -> tuple[int, int] | None:
    """Ids for a ``--chown``; a number alone is also the group's."""
    if not text:
        return None
    user, _, group = text.partition(":")
    for part in (user, group):
        if part.isdecimal() and not (_NUMBER.match(part) and int(part) <= _MAX_ID):
            raise BuildError(f"--chown={text}: {part} is not an id: expected 0 to {_MAX_ID}")
    if user.isdecimal() and (group.isdecimal() or not group):
        return int(user), int(group or user)
    if users is None:
        raise BuildError(f"--chown={text}: there is no image below that has users; use numbers")
    try:
        found = resolve(users, text)
    except FaultError as error:
        raise BuildError(f"--chown={text}: {error.fault.message}") from None
    return found.uid, found.gid


class Writer:
    """Writes items.

    Attributes:
        tree: Where they are written.
        owner: Of everything; None leaves it.
        at: The path that is being written.
    """

    def __init__(
        self, tree: Tree, owner: tuple[int, int] | None, chmod: Change | None, *, single: bool
    ) -> None:
        self.tree = tree
        self.owner = owner
        self._chmod = chmod
        self._single = single
        self.at: str = ""

    def write(self, item: dict[str, Any], fds: Sequence[int]) -> None:
        """Write one item."""
        kind = item["kind"]
        if kind == "folder":
            self._make_place(item["to"])
        elif kind == "copy":
            self._copy(item, _Piped(fds[item["fd"]]))
        else:
            self._unpack(item, fds[item["fd"]])

    def _make_place(self, path: str) -> str:
        """A directory at a path, maybe behind links; it stays what it is if it is there."""
        self.at = self.tree.resolve(path)
        if not self.tree.is_folder(self.at):
            self.tree.make_folder(self.at, _NEW_FOLDER, self.owner, None)
        return self.at

    def mode(self, mode: int, *, folder: bool) -> int:
        """Permissions as ``--chmod`` wants them."""
        permissions = stat.S_IMODE(mode)
        return permissions if self._chmod is None else self._chmod(permissions, folder)

    # --------------------------------------------------------- from the caller

    def _copy(self, item: dict[str, Any], data: _Piped) -> None:
        place = self.place(item["to"], item["below"], item["into"], item["name"], item["top"])
        owner = self.owner or (0, 0)
        for path, mode, size, mtime_ns, target in item["entries"]:
            self.at = posixpath.join(place, path) if path else place
            if stat.S_ISDIR(mode):
                self.tree.make_folder(self.at, self.mode(mode, folder=True), owner, mtime_ns)
            elif stat.S_ISLNK(mode):
                self.tree.make_link(self.at, target, owner, mtime_ns)
            elif stat.S_ISFIFO(mode):
                self.tree.make_fifo(self.at, self.mode(mode, folder=False), owner, mtime_ns)
            elif stat.S_ISREG(mode):
                permissions = self.mode(mode, folder=False)
                self.tree.make_file(self.at, permissions, owner, mtime_ns, data.filler(size))

    def place(self, to: str, below: str, into: bool, name: str, is_folder: bool) -> str:
        """Where an item goes: a directory is merged into it, a file is called so."""
        goal = posixpath.join(to, below) if below else to
        if is_folder:
            return self._make_place(goal)
        if into or below or self.tree.is_folder(goal):
            return posixpath.join(self._make_place(goal), name)
        above = self.tree.resolve(posixpath.dirname(goal.rstrip("/")))
        resolved = posixpath.join(above, posixpath.basename(goal.rstrip("/")))
        status = self.tree.lookup(resolved)
        if status is not None and stat.S_ISLNK(status.st_mode):
            return self.tree.resolve(resolved)  # writes go through links
        return resolved

    # --------------------------------------------------------- from an archive

    def _unpack(self, item: dict[str, Any], pipe: int) -> None:
        place = self._make_place(item["to"])
        try:
            with (
                open(pipe, "rb", closefd=False) as file,
                tarfile.open(fileobj=file, mode="r|", errors="surrogateescape") as tar,
            ):
                for member in tar:
                    self._unpack_one(place, tar, member)
        except tarfile.TarError as error:
            raise BuildError(f"the archive {item['name']} is broken: {error}") from None

    def _unpack_one(self, place: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = _inside(member.name)
        if not path:
            return
        self.at = self._where(place, path)
        # Where there is only root, what is unpacked is root's, as in layers.
        owner = self.owner or ((0, 0) if self._single else (member.uid, member.gid))
        mtime_ns = int(member.mtime * 10**9)
        if member.isdir():
            self.tree.make_folder(self.at, self.mode(member.mode, folder=True), owner, mtime_ns)
        elif member.issym():
            self.tree.make_link(self.at, member.linkname, owner, mtime_ns)
        elif member.islnk():
            self.tree.make_hard_link(self.at, self._where(place, _inside(member.linkname)))
        elif member.isfifo():
            mode = self.mode(member.mode, folder=False)
            self.tree.make_fifo(self.at, mode, owner, mtime_ns)
        elif member.isreg():
            source = tar.extractfile(member)
            assert source is not None

            def fill(fd: int) -> None:
                while data := source.read(_CHUNK_BYTES):
                    _write(fd, data)

            mode = self.mode(member.mode, folder=False)
            self.tree.make_file(self.at, mode, owner, mtime_ns, fill)
        # Devices are left out: no user namespace may make them, and /dev is the container's own.

    def _where(self, place: str, path: str) -> str:
        """A member's place: directories on the way may be links of the image."""
        above, leaf = posixpath.split(path)
        return posixpath.join(self.tree.resolve(posixpath.join(place, above)), leaf)


def _inside(name: str) -> str:
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            raise BuildError(f"the archive has a member {name!r}, which leads out of it")
        if part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


class _Piped:
    """Contents of files, one after the other, from a pipe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def filler(self, size: int) -> Callable[[int], None]:
        """Writes the next `size` bytes."""

        def fill(fd: int) -> None:
            left = size
            while left:
                moved = os.splice(self._fd, fd, min(left, _CHUNK_BYTES))
                if not moved:
                    raise BuildError("the contents of a file broke off")
                left -= moved

        return fill


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
