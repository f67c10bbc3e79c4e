"""Trees of the host as detached mounts whose files have ids of containers."""

from __future__ import annotations

import errno
import os
import re
from typing import NamedTuple

from pytest_containers.linux import mount
from pytest_containers.runtime.wire.faults import FaultError, tree_refused
from pytest_containers.runtime.wire.operations.host import HostTree, OpenedTree

_NOT_MAPPED = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)
"""What mount_setattr(2) has for a tree in which a file system has no idmapped mounts."""


class MountPoint(NamedTuple):
    """A line of ``/proc/self/mountinfo`` (proc(5)).

    Attributes:
        parent: The number of the mount that it is on.
    """

    number: int
    parent: int
    path: str
    fstype: str


def open_host_tree(tree: HostTree, userns_fd: int, fds: list[int]) -> OpenedTree:
    """Make a detached mount of a tree, and append it to `fds`.

    Mounts below it come along. Where not all of them have idmapped mounts, each is a mount of its
    own and follows in `fds`.

    Args:
        tree: What is asked for.
        userns_fd: The user namespace to map its owners to.
        fds: Owned by the caller.

    Raises:
        FaultError: It cannot be had.
    """
    fds.append(_open(tree.path, recursive=tree.recursive))
    directory = os.path.isdir(f"/proc/self/fd/{fds[-1]}")
    if _prepare(fds[-1], tree, userns_fd):
        return OpenedTree(directory=directory)
    below = mounts_below(tree.path) if tree.recursive and directory else []
    if not below:
        # Such as /proc: its files show as those of user nobody.
        return OpenedTree(directory=directory)
    return _open_one_by_one(tree, below, userns_fd, fds)


def _open(path: str, *, recursive: bool) -> int:
    try:
        return mount.open_tree(path, recursive=recursive)
    except OSError as error:
        raise tree_refused(path, error, recursive=recursive) from None


def _prepare(fd: int, tree: HostTree, userns_fd: int) -> bool:
    """Give the mounts of a tree their attributes; returns True if their owners are mapped.

    They leave the peer groups of the host's mounts: what a container mounts or unmounts there
    would be mounted and unmounted on the host.
    """
    if tree.idmapped:
        mapped = tree.attributes | mount.MOUNT_ATTR_IDMAP
        try:
            mount.set_attributes(
                fd, add=mapped, propagation=mount.MS_PRIVATE, userns_fd=userns_fd, recursive=True
            )
            return True
        except OSError as error:
            if error.errno not in _NOT_MAPPED:
                raise tree_refused(tree.path, error, recursive=tree.recursive) from None
    mount.set_attributes(fd, add=tree.attributes, propagation=mount.MS_PRIVATE, recursive=True)
    return not tree.idmapped


def _open_one_by_one(
    tree: HostTree, below: list[MountPoint], userns_fd: int, fds: list[int]
) -> OpenedTree:
    """Replace the last of `fds` by a mount of the tree alone and mounts of those below."""
    try:
        top = _open(tree.path, recursive=False)
    except FaultError:  # the mounts below cannot be taken off it: all stays as it is
        return OpenedTree(directory=True, notes=["its files show as those of user nobody"])
    os.close(fds.pop())
    fds.append(top)
    unmapped = [] if _prepare(top, tree, userns_fd) else [tree.path]
    prefix, places, notes = tree.path.rstrip("/"), [], []
    for point in below:
        try:
            fds.append(_open(point.path, recursive=False))
        except FaultError as error:
            notes.append(f"{point.path} is not there: {error.fault.message}")
            continue
        places.append(point.path[len(prefix) + 1 :])
        if not _prepare(fds[-1], tree, userns_fd):
            unmapped.append(f"{point.path} ({point.fstype})")
    if unmapped:
        notes.append(
            f"files of {', '.join(unmapped)} show as those of user nobody: "
            "these file systems have no idmapped mounts"
        )
    return OpenedTree(directory=True, below=places, notes=notes)


def mounts_below(path: str) -> list[MountPoint]:
    """Return the mounts below a directory that are not hidden by others, those above first."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = {point.number: point for point in map(_parse, file)}
    top = {point.path: point.number for point in points.values()}  # of a stack, the last line

    def is_visible(point: MountPoint) -> bool:
        while top[point.path] == point.number:
            parent = points.get(point.parent)
            if parent is None or parent is point:
                return True
            point = parent
        return False

    prefix = f"{path.rstrip('/')}/"
    below = [
        point
        for point in points.values()
        if point.path.startswith(prefix) and point.path != prefix and is_visible(point)
    ]
    return sorted(below, key=lambda point: point.path.count("/"))


def _parse(line: str) -> MountPoint:
    fields = line.split(" ")
    path = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
    return MountPoint(int(fields[0]), int(fields[1]), path, fields[fields.index("-") + 1])
