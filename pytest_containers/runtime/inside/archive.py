"""Trees in and out of a container's root, as tar streams through pipes.

Paths are resolved below the root's descriptor, whatever links the container planted
(CVE-2018-15664, CVE-2019-10152), and no program of the container's is run for it (CVE-2019-14271).
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Sequence
from typing import Any

from pytest_containers.linux.files import open_in_root, remove

_CHUNK_BYTES = 1 << 20


def pack(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Write the file or tree at ``args["path"]`` as a tar to `fds[1]`; `fds[0]` is the root.

    Its members are named ``.`` and ``./…``; a single file is ``.`` alone.
    """
    root, pipe = fds
    path = args["path"]
    fd = _open(root, path, os.O_PATH)
    with (
        open(pipe, "wb") as file,
        tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        try:
            _add(tar, root, fd, path.rstrip("/") or "/", ".", {})
        finally:
            os.close(fd)
    return {}


def _add(
    tar: tarfile.TarFile,
    root: int,
    fd: int,
    path: str,
    name: str,
    seen: dict[tuple[int, int], str],
) -> None:
    status = os.fstat(fd)
    member = tarfile.TarInfo(name)
    member.mode = stat.S_IMODE(status.st_mode)
    member.uid, member.gid, member.mtime = status.st_uid, status.st_gid, status.st_mtime
    if stat.S_ISLNK(status.st_mode):
        member.type, member.linkname = tarfile.SYMTYPE, os.readlink("", dir_fd=fd)
        tar.addfile(member)
    elif stat.S_ISDIR(status.st_mode):
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        try:
            for entry in sorted(os.listdir(folder)):
                inner = os.open(entry, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                try:
                    _add(tar, root, inner, f"{path}/{entry}", f"{name}/{entry}", seen)
                finally:
                    os.close(inner)
        finally:
            os.close(folder)
    elif stat.S_ISREG(status.st_mode):
        identity = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and identity in seen:
            member.type, member.linkname = tarfile.LNKTYPE, seen[identity]
            tar.addfile(member)
            return
        seen[identity] = name
        # By descriptor: the name may be another's by now.
        with open(f"/proc/self/fd/{fd}", "rb") as source:
            member.size = status.st_size
            tar.addfile(member, source)
    # Sockets, pipes and devices mean nothing outside of the container.


def unpack(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Make the tree that comes as a tar through `fds[1]` at ``args["path"]``; `fds[0]` is the root.

    If ``args["path"]`` is a directory, the tree goes into it as ``args["name"]``.
    """
    root, pipe = fds
    folder, name = _target(root, args["path"], args["name"])
    try:
        with open(pipe, "rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
            for member in tar:
                _make(tar, member, folder, name)
            # A tar ends before its padding does, and the other side still writes that.
            while file.read(_CHUNK_BYTES):
                pass
    finally:
        os.close(folder)
    return {}


def _target(root: int, path: str, name: str) -> tuple[int, str]:
    """The directory to make the copy in, and its name there."""
    flags = os.O_RDONLY | os.O_DIRECTORY
    try:
        return open_in_root(root, path, flags), name
    except NotADirectoryError:
        pass
    except FileNotFoundError:
        if path.endswith("/"):
            raise
    above, _, leaf = path.rstrip("/").rpartition("/")
    return _open(root, above or "/", flags), leaf


def _open(root: int, path: str, flags: int) -> int:
    try:
        return open_in_root(root, path, flags)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _make(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: int, name: str) -> None:
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    path = "/".join([name, *parts])
    if ".." in parts:
        raise ValueError(f"{member.name!r} leads out of the archive")
    above, _, leaf = path.rpartition("/")
    # Below the new tree's own directory: what lies there was just made by us, or is refused.
    parent = open_in_root(folder, above or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        if member.isdir():
            _folder(parent, leaf)
        else:
            remove(leaf, parent)
            if member.issym():
                os.symlink(member.linkname, leaf, dir_fd=parent)
            elif member.isreg():
                _file(tar, member, parent, leaf)
    finally:
        os.close(parent)
    if not member.issym():
        _finish(folder, path, member)


def _folder(parent: int, leaf: str) -> None:
    try:
        os.mkdir(leaf, 0o755, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(leaf, dir_fd=parent, follow_symlinks=False).st_mode):
            raise


def _file(tar: tarfile.TarFile, member: tarfile.TarInfo, parent: int, leaf: str) -> None:
    source = tar.extractfile(member)
    assert source is not None
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(leaf, flags, 0o600, dir_fd=parent), "wb") as file:
        shutil.copyfileobj(source, file, _CHUNK_BYTES)


def _finish(folder: int, path: str, member: tarfile.TarInfo) -> None:
    fd = open_in_root(folder, path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.fchmod(fd, stat.S_IMODE(member.mode))
        os.utime(fd, ns=(int(member.mtime * 1e9),) * 2)
    finally:
        os.close(fd)
