"""Who container root is: the maps of the run's user namespace (user_namespaces(7)).

Three modes, of which the first that is permitted is taken:

host root
    Started by root with CAP_SYS_ADMIN: container ids are root's subordinate range, or a fixed
    high one. Nothing in a container is anybody on the host; directories enter idmapped.
range
    Container root is the caller, 1… are the caller's subordinate ids (newuidmap(1)).
single
    Container root is the caller and there is no other id.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from pytest_containers.linux.mount import AT_FDCWD, open_tree

FIXED_START, RANGE_SIZE = 100_000, 65_536
Map = tuple[tuple[int, int, int], ...]
"""``(first id inside, first id outside, how many)``, as in ``/proc/PID/uid_map``."""


class Identity(NamedTuple):
    """The maps of a run.

    Attributes:
        mode: ``"root"``, ``"range"`` or ``"single"``.
        reason: Why it is not a better mode: a clause, empty where it is the best.
    """

    mode: str
    uid_map: Map
    gid_map: Map
    reason: str = ""

    @property
    def id_map_class(self) -> str:
        """Equal for equal owners of unpacked files on disk."""
        if self.mode == "single":
            return f"single-{self.uid_map[0][1]}-{self.gid_map[0][1]}"
        parts = [f"{inside}_{outside}_{count}" for inside, outside, count in self.uid_map]
        if self.gid_map != self.uid_map:
            parts += [f"g{inside}_{outside}_{count}" for inside, outside, count in self.gid_map]
        return "-".join(parts)


def choose(wanted: str = "auto") -> Identity:
    """The best identity that this process may have.

    Args:
        wanted: A mode, to get a lesser one than possible; ``"auto"``.
    """
    uid, gid = os.geteuid(), os.getegid()
    reason = ""
    if uid == 0 and wanted in ("auto", "root"):
        if may_open_trees():
            return _host_root()
        # Root of an unprivileged container: its ids are all there are.
        uids, gids = _own_ids("uid"), _own_ids("gid")
        if uids > 1 and gids > 1:
            return Identity("range", ((0, 0, uids),), ((0, 0, gids),), "root without CAP_SYS_ADMIN")
    if wanted in ("auto", "range"):
        if uid == 0:
            start = FIXED_START
            high = ((0, 0, 1), (1, start, RANGE_SIZE - 1))
            return Identity("range", high, high)
        uids_of = subordinate("/etc/subuid", uid)
        gids_of = subordinate("/etc/subgid", uid)
        if uids_of and gids_of and _has_newuidmap():
            return Identity("range", ((0, uid, 1), (1, *uids_of)), ((0, gid, 1), (1, *gids_of)))
        reason = (
            "newuidmap is not installed (apt install uidmap)"
            if uids_of and gids_of
            else "the user has no subordinate ids in /etc/subuid and /etc/subgid"
        )
    return Identity("single", ((0, uid, 1),), ((0, gid, 1),), reason)


def subordinate(path: str, uid: int) -> tuple[int, int] | None:
    """``(start, count)`` of the first range of 1000 ids or more that a user has, or None."""
    names = {str(uid), _user_name(uid)}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split(":")
        if (
            len(fields) == 3
            and fields[0] in names
            and fields[1].isdecimal()
            and fields[2].isdecimal()
        ):
            start, count = int(fields[1]), min(int(fields[2]), RANGE_SIZE)
            if count >= 1000:
                return start, count
    return None


def may_open_trees() -> bool:
    """Whether this process may copy mounts: CAP_SYS_ADMIN where it counts."""
    try:
        os.close(open_tree("/", AT_FDCWD))
    except OSError:
        return False
    return True


def _host_root() -> Identity:
    uids = subordinate("/etc/subuid", 0) or (FIXED_START, RANGE_SIZE)
    gids = subordinate("/etc/subgid", 0) or (FIXED_START, RANGE_SIZE)
    if not (_covers("uid", *uids) and _covers("gid", *gids)):
        uids, gids = (0, _own_ids("uid")), (0, _own_ids("gid"))
    return Identity("root", ((0, *uids),), ((0, *gids),))


def _own_map(kind: str) -> list[list[int]]:
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        return [[int(field) for field in line.split()] for line in file]


def _own_ids(kind: str) -> int:
    """How many ids from 0 on exist in our own user namespace, at most `RANGE_SIZE`."""
    counts = [count for inside, _, count in _own_map(kind) if inside == 0]
    return min(counts[0], RANGE_SIZE) if counts else 0


def _covers(kind: str, start: int, count: int) -> bool:
    return any(
        inside <= start and start + count <= inside + size for inside, _, size in _own_map(kind)
    )


def _user_name(uid: int) -> str:
    # pwd(3) may ask the network; the tools that use these files read /etc/passwd first as well.
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _has_newuidmap() -> bool:
    return all(find(name) for name in ("newuidmap", "newgidmap"))


def find(program: str) -> str | None:
    """A program's path: the scrubbed environment has no PATH, so the usual places."""
    for folder in ("/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin", "/usr/sbin"):
        path = f"{folder}/{program}"
        if os.access(path, os.X_OK):
            return path
    return None


def write_maps(pid: int, identity: Identity) -> None:
    """Give the new user namespace of process `pid` its maps.

    Raises:
        OSError: Refused; its file name says what.
    """
    if identity.mode == "range" and os.geteuid() != 0:
        for program, ranges in (("newuidmap", identity.uid_map), ("newgidmap", identity.gid_map)):
            _run([find(program) or program, str(pid), *(str(n) for row in ranges for n in row)])
        return
    if identity.mode == "single":
        _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/gid_map", _text(identity.gid_map))
    _write(f"/proc/{pid}/uid_map", _text(identity.uid_map))


def _text(ranges: Map) -> str:
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in ranges)


def _write(path: str, text: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
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
        said = os.read(reader, 4096).decode(errors="replace").strip()
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    if status:
        raise OSError(1, said or f"exit status {status}", os.path.basename(arguments[0]))
