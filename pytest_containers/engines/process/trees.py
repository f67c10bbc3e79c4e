"""Copies of directory trees: what makes the files of a container its own."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import subprocess
import threading
from pathlib import Path

from pytest_containers.linux.files import data_parts

_WHITEOUT_DEVICE = 0
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_MOST_LEVELS = 400
"""Of nested directories: paths are named as a whole, and the interpreter recurses."""
_MOST_TEXT_BYTES = 1 << 20
_CP, _RM = shutil.which("cp"), shutil.which("rm")


def copy_tree(source: str, target: str, *, owners: bool) -> None:
    """Copy a directory to a new or existing one, over what it has; sockets are left out.

    Args:
        owners: Copy owners too, which takes root.
    """
    os.makedirs(target, exist_ok=True)
    _copy_folder(source, target, owners, 0)


def _copy_folder(source: str, target: str, owners: bool, depth: int) -> None:
    if depth > _MOST_LEVELS:
        raise OSError(
            errno.ENAMETOOLONG, f"more than {_MOST_LEVELS} directories are nested", source[-80:]
        )
    with os.scandir(source) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            kind, place = stat.S_IFMT(status.st_mode), f"{target}/{entry.name}"
            if kind == stat.S_IFREG:
                _copy_file(entry.path, place, status)
            elif kind == stat.S_IFDIR:
                if os.path.islink(place):
                    os.unlink(place)  # it could lead anywhere
                with contextlib.suppress(FileExistsError):
                    os.mkdir(place, 0o700)
                _copy_folder(entry.path, place, owners, depth + 1)
            elif kind == stat.S_IFLNK:
                _make_way(place)
                os.symlink(os.readlink(entry.path), place)
            elif kind == stat.S_IFIFO:
                _make_way(place)
                os.mkfifo(place)
            else:
                continue
            if owners:
                os.chown(place, status.st_uid, status.st_gid, follow_symlinks=False)
                if kind != stat.S_IFLNK and status.st_mode & 0o6000:
                    os.chmod(place, stat.S_IMODE(status.st_mode))  # chown clears setuid
            if kind == stat.S_IFDIR:
                os.chmod(place, stat.S_IMODE(status.st_mode))


def _make_way(place: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if os.path.isdir(place) and not os.path.islink(place):
            shutil.rmtree(place)
        else:
            os.unlink(place)


def _copy_file(source: str, target: str, status: os.stat_result) -> None:
    # Whatever has the name by now: a link may lead out, and a pipe must not be waited for.
    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(reader).st_mode):
            raise OSError(errno.ESTALE, "it became something else while it was copied", source)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        mode = stat.S_IMODE(status.st_mode)
        try:
            writer = os.open(target, flags, mode)
        except (IsADirectoryError, OSError):
            _make_way(target)
            writer = os.open(target, flags, mode)
        try:
            for offset, length in data_parts(reader, status.st_size):
                _copy_part(reader, writer, offset, length)
            os.ftruncate(writer, status.st_size)
            os.fchmod(writer, mode)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_part(reader: int, writer: int, offset: int, left: int) -> None:
    os.lseek(reader, offset, os.SEEK_SET)
    os.lseek(writer, offset, os.SEEK_SET)
    while left > 0:
        try:
            count = os.copy_file_range(reader, writer, left)
        except OSError:  # not within one file system
            count = os.sendfile(writer, reader, None, left)
        if count == 0:
            break
        left -= count


def copy_beside(source: str, target: str, *, owners: bool) -> None:
    """Copy a directory to a new one as `copy_tree` does, in another process if there is cp(1).

    The test process goes on meanwhile, whose interpreter lock a copy would take again and again.
    """
    if _CP is None:
        copy_tree(source, target, owners=owners)
        return
    done = subprocess.run(
        [_CP, "-a" if owners else "-dR", "--preserve=mode,timestamps", source, target],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise OSError(errno.EIO, os.strerror(errno.EIO), target)


def remove_beside(folder: str) -> None:
    """Delete a directory in another process, if there is rm(1)."""
    if _RM is not None:
        with contextlib.suppress(OSError):  # no process can be made: it is deleted here
            subprocess.run(
                [_RM, "-rf", folder],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
    shutil.rmtree(folder, ignore_errors=True)


def replace_in_files(folder: str, old: str, new: str) -> None:
    """Replace a path in the small regular files of a directory, where no name goes on after it."""
    pattern = re.compile(re.escape(old.encode()) + rb"(?![\w.-])")
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where, name)
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_TEXT_BYTES:
                continue
            data = path.read_bytes()
            changed = pattern.sub(new.encode(), data)
            if changed != data:
                path.chmod(stat.S_IMODE(status.st_mode) | stat.S_IWUSR)
                path.write_bytes(changed)
                path.chmod(stat.S_IMODE(status.st_mode))


def merge_layer(layer: str, target: str) -> None:
    """Copy a layer of an image over those below, with whiteouts and opaque directories."""
    for folder, folders, files in os.walk(layer):
        inside = os.path.relpath(folder, layer)
        place = os.path.normpath(f"{target}/{inside}")
        if inside != "." and _is_opaque(folder) and os.path.isdir(place):
            for name in os.listdir(place):
                _make_way(f"{place}/{name}")
        for name in (*folders, *files):
            status = os.lstat(f"{folder}/{name}")
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == _WHITEOUT_DEVICE:
                _make_way(f"{place}/{name}")
        os.makedirs(place, exist_ok=True)
        for name in folders:
            if not os.path.islink(f"{folder}/{name}"):
                _make_folder_of(f"{place}/{name}")
    copy_tree(layer, target, owners=True)


def _make_folder_of(place: str) -> None:
    """Remove what a directory of a layer replaces: also a link to one, which could lead out."""
    if os.path.lexists(place) and (os.path.islink(place) or not os.path.isdir(place)):
        os.unlink(place)


def _is_opaque(folder: str) -> bool:
    for name in _OPAQUE:
        with contextlib.suppress(OSError):
            if os.getxattr(folder, name) == b"y":
                return True
    return False


class Spares:
    """Copies of trees that are made ahead, one for each source, on a thread.

    Args:
        folder: Where they are made.
        owners: As for `copy_tree`.
    """

    def __init__(self, folder: Path, *, owners: bool) -> None:
        self._folder = folder
        self._owners = owners
        self._lock = threading.Lock()
        self._ready: dict[str, list[str]] = {}
        self._copied: dict[str, threading.Thread] = {}
        self._number = 0
        self._is_closed = False

    def take(self, source: str, target: str) -> None:
        """Make `target` a copy of `source`, and begin the next one."""
        with self._lock:
            ready = self._ready.get(source)
            spare = ready.pop() if ready else None
        if spare is None:
            copy_tree(source, target, owners=self._owners)
        else:
            os.rename(spare, target)

    def prepare(self, source: str) -> None:
        """Begin to make a copy ahead, unless there is one."""
        with self._lock:
            if self._is_closed or self._ready.get(source) or source in self._copied:
                return
            self._number += 1
            spare = f"{self._folder}/spare-{self._number}"
            thread = threading.Thread(
                target=self._copy, args=(source, spare), name="copy ahead", daemon=True
            )
            self._copied[source] = thread
        thread.start()

    def _copy(self, source: str, spare: str) -> None:
        try:
            copy_beside(source, spare, owners=self._owners)
        except OSError:  # no room, or the source is gone: it is copied when it is needed
            shutil.rmtree(spare, ignore_errors=True)
            spare = ""
        with self._lock:
            del self._copied[source]
            if spare and not self._is_closed:
                self._ready.setdefault(source, []).append(spare)

    def close(self) -> None:
        """Make no copies any more, and wait for the one that is being made."""
        with self._lock:
            self._is_closed = True
            threads = list(self._copied.values())
        for thread in threads:
            thread.join()
