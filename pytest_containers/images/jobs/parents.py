"""Directories that a layer uses and does not list: they are what they are in the layers below.

A layer is unpacked on its own, once for all images, so such a directory gets ordinary owners and
modes, and would show them in place of those below (``/tmp`` that only its owner can write to).
Where that makes a difference, a layer of nothing but those directories goes on top.

Runs as a job (`Inside.call`) in a bare interpreter.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import Any

from pytest_containers.linux.files import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HERE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
_OPAQUE_XATTR = "user.overlay.opaque"


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
    count = 0
    new = "\0"  # a directory that the layers below do not have; nor do they have what is in it
    for path in sorted(unlisted, key=lambda path: path.split("/")):
        if path.startswith(f"{new}/"):
            continue
        status = _effective(path, unlisted, layers)
        if status is None:
            new = path
            continue
        if _is_ordinary(status, single=args["single"]):
            continue
        _make(root, path, unlisted, layers, single=args["single"])
        count += 1
    return {"made": count}


def _effective(path: str, unlisted: set[str], layers: Sequence[int]) -> os.stat_result | None:
    """Return the directory as it must look: of the first layer that lists it, if it shows."""
    for number, layer in enumerate(layers):
        is_listed = number > 0 or path not in unlisted
        status = _status(layer, path)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            return None
        if status is not None and is_listed:
            return status
        if _hides(layer, path):
            return None
    return None


def _status(layer: int, path: str) -> os.stat_result | None:
    try:
        fd = openat2(layer, path, os.O_PATH | os.O_NOFOLLOW, resolve=_HERE)
    except OSError:  # not there, or below something else
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _hides(layer: int, path: str) -> bool:
    """True if what the layers below have at `path` is hidden by something above it here."""
    parts = path.split("/")
    for depth in range(1, len(parts)):
        try:
            fd = openat2(layer, "/".join(parts[:depth]), _FOLDER, resolve=_HERE)
        except FileNotFoundError:
            return False
        except OSError:  # a file, a link or a whiteout
            return True
        try:
            if os.getxattr(fd, _OPAQUE_XATTR) == b"y":
                return True
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise
        finally:
            os.close(fd)
    return False


def _is_ordinary(status: os.stat_result, *, single: bool) -> bool:
    owned = single or (status.st_uid, status.st_gid) == (0, 0)
    return owned and stat.S_IMODE(status.st_mode) == 0o755


def _make(root: int, path: str, unlisted: set[str], layers: Sequence[int], *, single: bool) -> None:
    """Make a directory and those above it, each as it must look."""
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        directory = "/".join(parts[:depth])
        try:
            os.mkdir(directory, 0o755, dir_fd=root)
        except FileExistsError:
            continue
        status = _effective(directory, unlisted, layers) or _status(layers[0], directory)
        if status is None:
            continue
        fd = openat2(root, directory, _FOLDER, resolve=_HERE)
        try:
            if not single:
                os.fchown(fd, status.st_uid, status.st_gid)
            os.fchmod(fd, stat.S_IMODE(status.st_mode))
            os.utime(fd, ns=(status.st_mtime_ns, status.st_mtime_ns))
        finally:
            os.close(fd)
