"""Who container root is: the maps of the run's user namespace (user_namespaces(7)).

Three modes, of which the first that is permitted is taken:

host root
    Started by root with CAP_SYS_ADMIN: container ids are root's subordinate range, or a fixed
    high one. Nothing in a container is anybody on the host; directories enter idmapped.
range
    Container root is the caller, 1… are the caller's subordinate ids (newuidmap(1)). For root
    without CAP_SYS_ADMIN, or where file systems have no idmapped mounts (the overlay that is the
    root of a container), container ids are the ids of this machine, as in Docker.
single
    Container root is the caller and there is no other id.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pytest_containers.linux.filesystems import without_idmapped_mounts
from pytest_containers.linux.mount import AT_FDCWD, open_tree
from pytest_containers.runtime import newuidmap
from pytest_containers.runtime.newuidmap import Refusal

FIXED_START, RANGE_SIZE = 100_000, 65_536
SUBUID, SUBGID = "/etc/subuid", "/etc/subgid"
_FEWEST_IDS = 1000
_MOST_RANGES = 340  # lines of a map (user_namespaces(7))
_MOST_BYTES = 4095  # a map is written at once, and in less than a page (user_namespaces(7))
_NO_ID = 2**32 - 1
Range = tuple[int, int]
"""``(first id, how many)``"""
Map = tuple[tuple[int, int, int], ...]
"""``(first id inside, first id outside, how many)``, as in ``/proc/PID/uid_map``."""

_NO_IDS = Refusal(
    "the user has no subordinate ids in /etc/subuid and /etc/subgid",
    "give this account subordinate ids",
)


class Identity(NamedTuple):
    """The maps of a run.

    Attributes:
        mode: ``"root"``, ``"range"`` or ``"single"``.
        reason: Why it is not a better mode: a clause, empty where it is the best.
        privileged: True if the launcher may change mounts and networks of the host.
    """

    mode: str
    uid_map: Map
    gid_map: Map
    reason: str = ""
    privileged: bool = False

    def has_user(self, uid: int) -> bool:
        """True if a user of this machine has a number in the run's containers."""
        return any(0 <= uid - outside < count for _, outside, count in self.uid_map)

    @property
    def id_map_class(self) -> str:
        """Equal for equal owners of unpacked files on disk."""
        if self.mode == "single":
            return f"single-{self.uid_map[0][1]}-{self.gid_map[0][1]}"
        parts = [f"{inside}_{outside}_{count}" for inside, outside, count in self.uid_map]
        if self.gid_map != self.uid_map:
            parts += [f"g{inside}_{outside}_{count}" for inside, outside, count in self.gid_map]
        name = "-".join(parts)
        if len(name) <= 100:
            return name
        return f"maps-{_digest(name)}"  # it names a directory, and there may be many ranges


def _digest(maps: str) -> str:
    """Return FNV-1a of 128 bits. The supervisor, whose root is empty, cannot import hashlib."""
    value = 0x6C62272E07BB014262B821756295C58D
    for byte in maps.encode():
        value = (value ^ byte) * 0x1000000000000000000013B % 2**128
    return f"{value:032x}"


def choose(mode: str = "auto", home: str = "") -> Identity:
    """Return the best identity that this process may have.

    Args:
        mode: ``"auto"``, or a mode, to get a lesser one than possible.
        home: The image store.

    Raises:
        OSError: This cannot be known now, such as for want of descriptors.
    """
    uid, gid = os.geteuid(), os.getegid()
    reason = ""
    if uid == 0 and mode in ("auto", "root"):
        privileged, lacking = may_open_trees(), "root without CAP_SYS_ADMIN"
        if privileged:
            lacking = _without_idmapped_mounts(home) if mode == "auto" else ""
            if not lacking:
                return _host_root()
        # Root of a container: its ids are all there are, or all that its file system can show.
        uids, gids = _own_ids("uid"), _own_ids("gid")
        if uids > 1 and gids > 1:
            return Identity("range", ((0, 0, uids),), ((0, 0, gids),), lacking, privileged)
    if mode in ("auto", "range"):
        if uid == 0:
            uid_ranges, gid_ranges = _ranges_of_root()
            return Identity("range", _mapped(uid_ranges, 0), _mapped(gid_ranges, 0))
        uid_ranges = subordinate(SUBUID, uid)
        gid_ranges = subordinate(SUBGID, uid)
        refusal = _certain_refusal(uid_ranges, gid_ranges)
        if refusal is None:
            return Identity("range", _mapped(uid_ranges, uid), _mapped(gid_ranges, gid))
        reason = refusal.reason
    return single(reason)


def single(reason: str = "") -> Identity:
    """Return the identity that every process may have."""
    return Identity("single", ((0, os.geteuid(), 1),), ((0, os.getegid(), 1),), reason)


def _certain_refusal(uid_ranges: Sequence[Range], gid_ranges: Sequence[Range]) -> Refusal | None:
    refusal = newuidmap.certain_refusal(user_name(os.geteuid()))
    if (uid_ranges and gid_ranges) or refusal is newuidmap.NO_PRIVILEGES:
        return refusal
    return _NO_IDS


def is_certain(identity: Identity) -> bool:
    """True if no refusal of its maps is to be expected; else only a run can tell.

    Processes of a run name the layers of an image by the map without asking the run, which would
    cost each of them the wait for its start.
    """
    if identity.mode == "single":
        return True
    if os.geteuid() == 0:
        return not newuidmap.missing_capabilities("CapEff", newuidmap.FOR_ROOT)
    return newuidmap.is_certain()


def after_refusal(identity: Identity, error: OSError) -> Identity | None:
    """Return the identity to go on with when the maps of `identity` were refused, or None."""
    if identity.mode == "single" or is_certain(identity):
        return None
    return single(refusal_of_maps(error).reason)


def refusal_of_maps(error: OSError | None = None) -> Refusal:
    """Return why maps of this process were refused that `choose` had thought possible.

    Args:
        error: What `write_maps` raised, if it is known.
    """
    if os.geteuid() != 0:
        return newuidmap.likely_refusal(error)
    missing = newuidmap.missing_capabilities("CapEff", newuidmap.FOR_ROOT)
    return Refusal(
        f"root may not map ids without {' and '.join(missing) or 'more privileges'}",
        f"start the container with {newuidmap.add_flags(missing)}",
    )


def why_single() -> Refusal:
    """Return why a run of this process has a single id, and all that has to be done about it."""
    uid = os.geteuid()
    if uid == 0:
        return refusal_of_maps()
    refusal = _certain_refusal(subordinate(SUBUID, uid), subordinate(SUBGID, uid))
    if refusal is None:
        return refusal_of_maps()
    if refusal is _NO_IDS and newuidmap.find("newuidmap") and not newuidmap.is_certain():
        return Refusal(refusal.reason, f"{refusal.remedy}, and {refusal_of_maps().remedy}")
    return refusal


def subordinate(path: str, uid: int) -> list[Range]:
    """Return the ranges that a file in the form of subuid(5) gives to a user, in its order.

    They do not overlap, and exist in this user namespace. None where they are too few to be of
    use: programs want the ids of ``/etc/passwd``.
    """
    names = {str(uid), user_name(uid)}
    own_map = _own_map("gid" if path == SUBGID else "uid")
    ranges: list[Range] = []
    for owner, ids in _given(path):
        if owner in names and len(ranges) < _MOST_RANGES:
            ranges += [piece for piece in cut(ids, ranges) if _is_within(piece, own_map)]
    return ranges if sum(count for _, count in ranges) >= _FEWEST_IDS else []


def cut(ids: Range, taken: Sequence[Range]) -> list[Range]:
    """Return what is left of `ids` without ranges; the kernel refuses maps that overlap."""
    pieces = [ids]
    for first, count in taken:
        pieces = [
            (start, end - start)
            for low, size in pieces
            for start, end in ((low, min(low + size, first)), (max(low, first + count), low + size))
            if start < end
        ]
    return pieces


def free_range(count: int = RANGE_SIZE) -> Range:
    """Return ids from `FIXED_START` on that neither file gives to anybody."""
    taken = sorted(ids for path in (SUBUID, SUBGID) for _, ids in _given(path))
    start = FIXED_START
    for first, size in taken:
        if first >= start + count:
            break
        start = max(start, first + size)
    return start, count


def spare_ranges() -> list[Range]:
    """Return ids that may be given to this account; empty if this user namespace has none.

    In containers whose ids end early (rootless Podman) these are all but the account's own.
    """
    ids = free_range()
    if _covers("uid", *ids) and _covers("gid", *ids):
        return [ids]
    own = [(os.geteuid(), 1), (os.getegid(), 1)]
    last = min(_own_ids("uid"), _own_ids("gid"))
    spare = cut((1, last - 1), own) if last > 1 else []
    return spare if sum(count for _, count in spare) >= _FEWEST_IDS else []


def _given(path: str) -> Iterator[tuple[str, Range]]:
    """Read the lines of a file in the form of subuid(5); others are left out, as newuidmap does."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        owner, _, ids = line.partition(":")
        start, _, count = ids.partition(":")
        if owner and start.isdecimal() and count.isdecimal():
            size = min(int(count), _NO_ID - int(start))
            if size > 0:
                yield owner, (int(start), size)


def _mapped(ranges: Sequence[Range], first: int | None = None) -> Map:
    """Lay ranges one after the other, from container id 0 on; as many as a map takes.

    Args:
        ranges: Of ids outside.
        first: The id outside that is container id 0, before all ranges.
    """
    if first is not None:
        own = (first, 1)
        ranges = [own, *(piece for ids in ranges for piece in cut(ids, [own]))]
    rows: list[tuple[int, int, int]] = []
    inside = 0
    for start, count in ranges:
        row = (inside, start, count)
        if len(_text((*rows, row))) > _MOST_BYTES:
            break
        rows.append(row)
        inside += count
    return tuple(rows)


def may_open_trees() -> bool:
    """Check whether this process may copy mounts: CAP_SYS_ADMIN where it counts.

    Raises:
        OSError: This cannot be known now, such as for want of descriptors.
    """
    try:
        os.close(open_tree("/", AT_FDCWD))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR):
            raise
        return False  # EPERM, or EINVAL: mounts below are locked
    return True


def _without_idmapped_mounts(home: str) -> str:
    """Return why files would show as those of user nobody if no container id were ours.

    Of programs, of files that tests make, and of the store. All processes of a run have to come to
    the same answer, so it is not about their own directories.
    """
    for path in filter(None, ("/usr", "/tmp", home)):
        if name := without_idmapped_mounts(path):
            return f"{name}, the file system of {path}, has no idmapped mounts here"
    return ""


def _host_root() -> Identity:
    uids, gids = _ranges_of_root()
    if not (
        all(_covers("uid", *ids) for ids in uids) and all(_covers("gid", *ids) for ids in gids)
    ):
        uids, gids = [(0, _own_ids("uid"))], [(0, _own_ids("gid"))]
    return Identity("root", _mapped(uids), _mapped(gids), privileged=True)


def _ranges_of_root() -> tuple[list[Range], list[Range]]:
    """Return root's own subordinate ranges, else a range that is free."""
    return subordinate(SUBUID, 0) or [free_range()], subordinate(SUBGID, 0) or [free_range()]


def _own_map(kind: str) -> list[list[int]]:
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        return [[int(field) for field in line.split()] for line in file]


def _own_ids(kind: str) -> int:
    """How many ids from 0 on exist in our own user namespace, at most `RANGE_SIZE`."""
    counts = [count for inside, _, count in _own_map(kind) if inside == 0]
    return min(counts[0], RANGE_SIZE) if counts else 0


def _covers(kind: str, start: int, count: int) -> bool:
    return _is_within((start, count), _own_map(kind))


def _is_within(ids: Range, own_map: list[list[int]]) -> bool:
    start, count = ids
    return any(inside <= start and start + count <= inside + size for inside, _, size in own_map)


def user_name(uid: int) -> str:
    # pwd(3) may ask the network; the tools that use these files read /etc/passwd first as well.
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def write_maps(pid: int, identity: Identity) -> None:
    """Give the new user namespace of process `pid` its maps.

    Raises:
        OSError: Refused; its file name says what.
    """
    if identity.mode == "range" and os.geteuid() != 0:
        for program, ranges in (("newuidmap", identity.uid_map), ("newgidmap", identity.gid_map)):
            _run(
                [
                    newuidmap.find(program) or program,
                    str(pid),
                    *(str(n) for row in ranges for n in row),
                ]
            )
        return
    if identity.mode == "single":
        _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/gid_map", _text(identity.gid_map))
    _write(f"/proc/{pid}/uid_map", _text(identity.uid_map))


def _text(ranges: Map) -> str:
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in ranges)


def _write(path: str, content: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, content.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"write {path}") from None


def _run(arguments: list[str]) -> None:
    """Run a program of the host; what it says on stderr becomes the error."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(
            arguments[0], arguments, {}, file_actions=[(os.POSIX_SPAWN_DUP2, writer, 2)]
        )
        os.close(writer)
        writer = -1
        output = os.read(reader, 4096).decode(errors="replace").strip()
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    if status:
        output = " ".join(output.split()) or f"exit status {status}"
        raise OSError(errno.EPERM, output, f"{os.path.basename(arguments[0])} ({output})")
