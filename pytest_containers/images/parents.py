"""Directories that a layer uses and does not list: they are what they are in the layers below.

A layer is unpacked on its own, once for all images, so such a directory gets ordinary owners and
modes, and would show them in place of those below (``/tmp`` that only its owner can write to).
Where that makes a difference, a layer of nothing but those directories goes on top.

Runs as a job (`Inside.call`) in a bare interpreter.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Any

from pytest_containers.linux.files import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make_parents(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Make ``tree`` with the directories that differ.

    Args:
        args: ``unlisted``: paths; ``single``: only one id exists, so owners do not differ.
        fds: The directory for ``tree``; the layer; the layers below it, top first.

    Returns:
        ``made``: how many differ.
    """
    target, *layers = fds
    os.umask(0)
    os.mkdir("tree", 0o755, dir_fd=target)
    root = os.open("tree", _FOLDER, dir_fd=target)
    unlisted = set(args["unlisted"])
    made = 0
    for path in sorted(unlisted):
        status = _effective(path, unlisted, layers)
        if status is None or _is_ordinary(status, single=args["single"]):
            continue
        _make(root, path, unlisted, layers, single=args["single"])
        made += 1
    return {"made": made}


def _effective(path: str, unlisted: set[str], layers: Sequence[int]) -> os.stat_result | None:
    """The directory as it must look: of the first layer that lists it."""
    for layer in layers[1:] if path in unlisted else layers:
        status = _status(layer, path)
        if status is not None:
            return status if stat.S_ISDIR(status.st_mode) else None
    return None


def _status(layer: int, path: str) -> os.stat_result | None:
    try:
        flags = os.O_PATH | os.O_NOFOLLOW
        fd = openat2(layer, path, flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    except OSError:  # not there, or below something else
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _is_ordinary(status: os.stat_result, *, single: bool) -> bool:
    owned = single or (status.st_uid, status.st_gid) == (0, 0)
    return owned and stat.S_IMODE(status.st_mode) == 0o755


def _make(root: int, path: str, unlisted: set[str], layers: Sequence[int], *, single: bool) -> None:
    """Make a directory and those above it, each as it must look."""
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        at = "/".join(parts[:depth])
        try:
            os.mkdir(at, 0o755, dir_fd=root)
        except FileExistsError:
            continue
        status = _effective(at, unlisted, layers) or _status(layers[0], at)
        if status is None:
            continue
        fd = openat2(root, at, _FOLDER, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        try:
            if not single:
                os.fchown(fd, status.st_uid, status.st_gid)
            os.fchmod(fd, stat.S_IMODE(status.st_mode))
            os.utime(fd, ns=(status.st_mtime_ns, status.st_mtime_ns))
        finally:
            os.close(fd)
