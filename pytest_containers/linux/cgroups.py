"""The control groups of a process, of both versions (cgroups(7))."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_UNLIMITED_BYTES = 1 << 62
"""Version 1 says "no limit" with a number near 2^63, rounded to pages."""


class Hierarchy(NamedTuple):
    """A tree of cgroups, and where in it a process is.

    Attributes:
        version: 1 or 2.
        controllers: Of version 1: those of the hierarchy. Of version 2: those that the cgroup may
            hand to its children, or limit itself with.
        mount: Where the tree begins, as far as it is visible.
        path: The directory of the process's cgroup.
    """

    version: int
    controllers: frozenset[str]
    mount: str
    path: str


def hierarchies(pid: int | str = "self") -> list[Hierarchy]:
    """Return the hierarchies that are mounted here, with the cgroups of a process."""
    own = dict(_own_cgroups(pid))
    seen: dict[frozenset[str], Hierarchy] = {}
    for version, names, root, mount in _mounted():
        cgroup = own.get(names)
        if cgroup is None or names in seen:
            continue
        relative = os.path.relpath(cgroup, root)
        if relative.startswith(".."):
            continue  # outside of what is mounted here
        path = os.path.normpath(os.path.join(mount, relative))
        controllers = names if version == 1 else frozenset(read(path, "cgroup.controllers").split())
        seen[names] = Hierarchy(version, controllers, mount, path)
    return list(seen.values())


def _own_cgroups(pid: int | str) -> Iterator[tuple[frozenset[str], str]]:
    with open(f"/proc/{pid}/cgroup") as file:
        for line in file:
            _, names, cgroup = line.rstrip("\n").split(":", 2)
            yield frozenset(names.split(",") if names else ()), cgroup


def _mounted() -> Iterator[tuple[int, frozenset[str], str, str]]:
    """Version, controllers (none for version 2), root and place of each mounted hierarchy."""
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields, _, filesystem = line.rstrip("\n").partition(" - ")
            root, place = fields.split()[3:5]
            kind, _, options = filesystem.split()[:3]
            if kind == "cgroup2":
                yield 2, frozenset(), root, place
            elif kind == "cgroup":
                yield 1, frozenset(options.split(",")) - {"rw", "ro", "xattr"}, root, place


def read(folder: str, name: str) -> str:
    """Return what a file of a cgroup says; nothing if it is not there."""
    try:
        with open(f"{folder}/{name}") as file:
            return file.read()
    except OSError:
        return ""


def memory_limit_bytes(trees: Sequence[Hierarchy]) -> int | None:
    """Return the smallest memory limit that holds for a process; None without one."""
    limits = []
    for tree in trees:
        if tree.version == 1 and "memory" in tree.controllers:
            limits += [
                int(line.split()[1])
                for line in read(tree.path, "memory.stat").splitlines()
                if line.startswith("hierarchical_memory_limit ")
            ]
        elif tree.version == 2:
            limits += [
                int(limit)
                for folder in _upwards(tree)
                if (limit := read(folder, "memory.max").strip()).isdecimal()
            ]
    return min((limit for limit in limits if limit < _UNLIMITED_BYTES), default=None)


def _upwards(tree: Hierarchy) -> Iterator[str]:
    folder = tree.path
    while True:
        yield folder
        if folder == tree.mount:
            return
        folder = os.path.dirname(folder)
