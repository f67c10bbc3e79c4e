"""The job that writes the layer of a COPY, ADD or WORKDIR.

Runs as root of the run's user namespace (`Inside.call`). What the caller may read comes through
pipes; what is in images is read here, where every user's files can be.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Callable, Sequence
from typing import Any

from pytest_containers.builder.jobs.add_archive import ArchiveWriter
from pytest_containers.builder.jobs.modes import NEW_FOLDER_MODE, Change, octal_mode, parse_chmod
from pytest_containers.builder.jobs.tree import FOLDER, Tree
from pytest_containers.images.jobs.pack import content_digest, tar_digest
from pytest_containers.model.errors import BuildError, ContainersError
from pytest_containers.runtime.copying.writer import MAX_PATH_BYTES
from pytest_containers.runtime.plan.users import resolve
from pytest_containers.runtime.wire.faults import FaultError

_CHUNK_BYTES = 1 << 20
_NUMBER = re.compile(r"[0-9]{1,10}\Z")  # int() refuses ², which str.isdigit takes
_MAX_TOLD = 3
_MAX_ID = 2**32 - 2  # -1 is "leave it" (chown(2))
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
        ``diff_id`` (empty when nothing was written), ``size_bytes``, ``entries``, ``note`` (a
        sentence to the user, or empty), and with a ``source`` also ``content``, a digest that
        leaves out times.

    Raises:
        BuildError: It cannot be done; with the path.
    """
    os.umask(0)
    base = -1 if args["base"] is None else fds[args["base"]]
    os.mkdir("tree", 0o755, dir_fd=fds[0])
    fd = os.open("tree", FOLDER, dir_fd=fds[0])
    os.fchmod(fd, 0o755)
    users = None if args["users"] is None else fds[args["users"]]
    owner, note = _owner(users, args["owner"])
    for uid, gid in (owner or (0, 0), tuple(args["root"][1:]) if "root" in args else (0, 0)):
        if args["single"] and (uid or gid):
            raise BuildError(
                f"owner {uid}:{gid}: this account has no subordinate ids, so there is only root; "
                "`pytest-containers setup` tells how to get some"
            )
    tree = Tree(fd, base, owner or (0, 0), args["time_ns"], octal_mode(args["chmod"]))
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
        raise _failed(writer.at, error) from None
    if "root" in args:
        mode, uid, gid = args["root"]
        os.fchown(fd, uid, gid)
        os.fchmod(fd, mode)
    note = "; ".join([note, *writer.notes] if note else writer.notes)
    if not tree.entries:
        return {"diff_id": "", "size_bytes": 0, "entries": 0, "content": "", "note": note}
    return {
        "diff_id": tar_digest(fd),
        "size_bytes": tree.size_bytes,
        "entries": tree.entries,
        "content": content_digest(fd) if args["source"] is not None else "",
        "note": note,
    }


def _failed(path: str, error: OSError) -> BuildError:
    cause = f"/{path}: {error.strerror or error}"
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        cause = f"/{path[:40]}…: its path is longer than {MAX_PATH_BYTES} bytes"
    return BuildError(cause, errno=error.errno, path=path)


def _owner(users: int | None, chown: str) -> tuple[tuple[int, int] | None, str]:
    """Return the ids for a ``--chown``, and what is to be said of them.

    A number alone is also the group's. A name that the image does not have is root, as in Docker.
    """
    if not chown:
        return None, ""
    user, _, group = chown.partition(":")
    for part in (user, group):
        if part.isdecimal() and not (_NUMBER.match(part) and int(part) <= _MAX_ID):
            raise BuildError(f"--chown={chown}: {part} is not an id: expected 0 to {_MAX_ID}")
    unknown: list[str] = []
    uid = gid = int(user) if _NUMBER.match(user) else 0
    if user and not _NUMBER.match(user):
        uid, gid = _look_up(users, chown, user, f"user {user!r}", unknown)
    if _NUMBER.match(group):
        gid = int(group)
    elif group:
        ids = _look_up(users, chown, f"0:{group}", f"group {group!r}", unknown)
        gid = gid if unknown[-1:] == [f"group {group!r}"] else ids[1]
    note = f"{' and '.join(unknown)} of {chown!r} not in the image: root's instead"
    return (uid, gid), note if unknown else ""


def _look_up(
    users: int | None, chown: str, name: str, shown: str, unknown: list[str]
) -> tuple[int, int]:
    """Return the ids of a name; of one that the image does not have, those of root."""
    if users is None:
        raise BuildError(f"--chown={chown}: there is no image below that has users; use numbers")
    try:
        user = resolve(users, name)
    except FaultError:
        unknown.append(shown)
        return 0, 0
    return user.uid, user.gid


class Writer:
    """A writer of items.

    Attributes:
        tree: Where they are written.
        owner: Of everything; None leaves it.
        at: The path that is being written.
        notes: Sentences to the user.
    """

    def __init__(
        self, tree: Tree, owner: tuple[int, int] | None, chmod: Change | None, *, single: bool
    ) -> None:
        self.tree = tree
        self.owner = owner
        self._chmod = chmod
        self._single = single
        self.at: str = ""
        self.notes: list[str] = []

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
        """Make a directory at a path, maybe behind links; one that is there stays what it is."""
        self.at = self.tree.resolve(path)
        if not self.tree.is_folder(self.at):
            self.tree.make_folder(self.at, self.tree.new_mode, self.owner, None)
        return self.at

    def mode(self, mode: int, *, folder: bool) -> int:
        """Return permissions changed by ``--chmod``."""
        permissions = stat.S_IMODE(mode)
        return permissions if self._chmod is None else self._chmod(permissions, folder)

    # --------------------------------------------------------- from the caller

    def _copy(self, item: dict[str, Any], data: _Piped) -> None:
        place = self.place(
            item["to"],
            item["below"],
            item["into"],
            item["name"],
            item["top"],
            several=item.get("several", False),
        )
        owner = self.owner or (0, 0)
        devices: list[str] = []
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
            else:
                devices.append(posixpath.join(item["name"], path).rstrip("/"))
        self.notes += [_devices_note("the context", devices)] if devices else []

    def place(
        self,
        to: str,
        below: str,
        into: bool,
        name: str,
        is_folder: bool,
        *,
        several: bool = False,
    ) -> str:
        """Return where an item goes: a directory is merged into it, a file is called so.

        Args:
            several: The place is for more than one item, and can be no file.
        """
        goal = posixpath.join(to, below) if below else to
        if is_folder:
            return self._make_place(goal)
        if into or below or self.tree.is_folder(goal):
            return posixpath.join(self._make_place(goal), name)
        if several:
            raise BuildError(f"several sources need a directory as destination: write /{goal}/")
        above = self.tree.resolve(posixpath.dirname(goal.rstrip("/")))
        resolved = posixpath.join(above, posixpath.basename(goal.rstrip("/")))
        status = self.tree.lookup(resolved)
        if status is not None and stat.S_ISLNK(status.st_mode):
            return self.tree.resolve(resolved)  # writes go through links
        return resolved

    # --------------------------------------------------------- from an archive

    def _unpack(self, item: dict[str, Any], pipe: int) -> None:
        place = self._make_place(item["to"])
        new = self.tree.new_owner, self.tree.new_mode
        # Directories that the archive only implies are nobody's, and as always.
        self.tree.new_owner, self.tree.new_mode = (0, 0), NEW_FOLDER_MODE
        # Where there is only root, what is unpacked is root's, as in layers.
        owner = self.owner or ((0, 0) if self._single else None)
        archive = ArchiveWriter(
            self.tree, place, name=item["name"], owner=owner, change_mode=self._chmod
        )
        try:
            archive.unpack(pipe)
        finally:
            self.at = archive.path
            self.tree.new_owner, self.tree.new_mode = new
        if archive.devices:
            self.notes.append(_devices_note(archive.name, archive.devices))


def _devices_note(source: str, devices: Sequence[str]) -> str:
    """Return a sentence about devices of `source`, which were left out."""
    shown = ", ".join(devices[:_MAX_TOLD])
    rest = f" and {len(devices) - _MAX_TOLD} more" if devices[_MAX_TOLD:] else ""
    return f"device nodes of {source} are left out: {shown}{rest}"


class _Piped:
    """The contents of files, one after the other, from a pipe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def filler(self, size: int) -> Callable[[int], None]:
        """Return a function that writes the next `size` bytes."""

        def fill(fd: int) -> None:
            left = size
            while left:
                moved = os.splice(self._fd, fd, min(left, _CHUNK_BYTES))
                if not moved:
                    raise BuildError("the contents of a file broke off")
                left -= moved

        return fill
