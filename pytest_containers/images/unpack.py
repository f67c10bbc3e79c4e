"""Apply a layer's tar to a directory, as root of the run's user namespace.

Runs as a job (`Inside.call`) in a bare interpreter: the standard library and `linux` only. The
archive is hostile until proven otherwise: every path is resolved below the directory
(RESOLVE_IN_ROOT), nothing is followed that the archive planted, and what it claims to be is
checked by digest before anybody uses it.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import shutil
import stat
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import IO, Any

from pytest_containers.errors import ImageError
from pytest_containers.linux.files import open_in_root, remove

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_CHUNK_BYTES = 1 << 20
_MAX_NAME_BYTES = 4095
_XATTR = "SCHILY.xattr."
_KEPT_XATTRS = ("user.", "security.capability")
_DROPPED_XATTRS = ("user.overlay.",)  # they would speak to overlayfs in the archive's name


def _import_zstd() -> Any:
    for name in ("compression.zstd", "backports.zstd"):
        with suppress(ImportError):
            return import_module(name)
    return None


# All imports happen with the module's: later nothing outside of the run may be readable.
_zstd_module = _import_zstd()


def unpack_layer(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Unpack an archive into the new directory ``tree``.

    Args:
        args: ``offset``, ``size`` (-1: to the end): the part of the file; ``digest`` of that
            part and ``diff_id`` of the tar, or null where not known; ``single``: only one id
            exists, so all files are its own; ``name``: what the archive is called in errors.
        fds: The file (or a pipe, with offset 0 and size -1), and the directory for ``tree``.

    Returns:
        ``diff_id``, ``size_bytes`` of the contents, ``skipped``: device files left out.
    """
    archive_fd, parent_fd = fds
    os.mkdir("tree", 0o755, dir_fd=parent_fd)
    root = os.open("tree", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent_fd)
    name = args["name"]
    raw = _Part(archive_fd, args["offset"], args["size"])
    try:
        stream = _Hashing(_decompressed(raw, name))
        unpacker = _Unpacker(root, single=args["single"], name=name)
        with tarfile.open(
            fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape"
        ) as tar:
            for member in tar:
                unpacker.apply(tar, member)
        unpacker.finish()
        stream.drain()
        raw.drain()
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ImageError(f"{name}: the archive is broken or truncated: {error}") from None
    except OSError as error:
        if error.errno is not None and not isinstance(error, BlockingIOError):
            raise ImageError(f"{name}: {error.filename or 'unpack'}: {error.strerror}") from None
        raise ImageError(f"{name}: the archive is broken or truncated: {error}") from None
    except Exception as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name}: the archive is broken or truncated: {error}") from None
    diff_id = f"sha256:{stream.hexdigest()}"
    _check(name, "digest", args["digest"], f"sha256:{raw.hexdigest()}")
    _check(name, "diff_id", args["diff_id"], diff_id)
    return {"diff_id": diff_id, "size_bytes": unpacker.size_bytes, "skipped": unpacker.skipped}


def remove_tree(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Delete what is in the directory `fds[0]`: some of it may belong to subordinate ids."""
    (fd,) = fds
    for entry in os.scandir(fd):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.name, dir_fd=fd)
        else:
            os.unlink(entry.name, dir_fd=fd)
    return {}


def _check(name: str, what: str, expected: str | None, actual: str) -> None:
    if expected is not None and expected != actual:
        raise ImageError(
            f"{name}: its {what} is {actual} instead of {expected}; the archive is damaged or not "
            "what it claims",
            expected=expected,
            actual=actual,
        )


class _Part:
    """A part of a file as a stream, hashed as it is read."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._at = offset
        self._left = size
        self._seekable = size >= 0
        self._hash = hashlib.sha256()
        self._ahead = b""

    def read(self, size: int = -1) -> bytes:
        if self._ahead:
            size = len(self._ahead) if size < 0 else size
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        return self._read(_CHUNK_BYTES if size < 0 else size)

    def _read(self, size: int) -> bytes:
        if self._seekable:
            data = os.pread(self._fd, min(size, self._left), self._at)
            self._at += len(data)
            self._left -= len(data)
            if not data and self._left > 0:
                raise EOFError("the file ends too early")
        else:
            data = os.read(self._fd, size)
        self._hash.update(data)
        return data

    def peek(self, size: int) -> bytes:
        while len(self._ahead) < size:
            more = self._read(size - len(self._ahead))
            if not more:
                break
            self._ahead += more
        return self._ahead[:size]

    def drain(self) -> None:
        while self.read(_CHUNK_BYTES):
            pass

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    @property
    def closed(self) -> bool:
        return False


class _Hashing(io.RawIOBase):
    """A stream that hashes what is read from it."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self._source = source
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._source.read(size)
        self._hash.update(data)
        return data

    def drain(self) -> None:
        while self.read(_CHUNK_BYTES):
            pass

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _decompressed(part: _Part, name: str) -> Any:
    """By its first bytes: gzip, bzip2, xz, or a plain tar."""
    magic = part.peek(6)
    stream: Any = part
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=stream, mode="rb")
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(stream)
    if magic.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(stream)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        return _zstd(stream, name)
    return part


def _zstd(stream: IO[bytes], name: str) -> Any:
    if _zstd_module is not None:
        return _zstd_module.ZstdFile(stream)
    raise ImageError(
        f"{name}: the layer is compressed with zstd, which this Python does not know; "
        "pip install backports.zstd"
    )


class _Unpacker:
    """Applies members to a directory, in the order of the archive."""

    def __init__(self, root: int, *, single: bool, name: str) -> None:
        self._root = root
        self._single = single
        self._name = name
        self._parent = ("", os.dup(root))
        self._folders: dict[str, tarfile.TarInfo] = {}
        self._made: set[str] = set()
        self.size_bytes = 0
        self.skipped = 0

    def apply(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Apply one member."""
        path = self._clean(member.name)
        folder, _, leaf = path.rpartition("/")
        if not leaf:
            self._own_root(member)
            return
        parent = self._open_parent(folder)
        if leaf == _OPAQUE:
            os.setxattr(parent, "user.overlay.opaque", b"y")
            return
        if leaf.startswith(_WHITEOUT):
            self._whiteout(parent, leaf.removeprefix(_WHITEOUT), folder)
            return
        if not (member.isdir() and _is_directory(parent, leaf)):
            self._remove(parent, leaf, path)
        self._make(tar, member, parent, leaf)
        self._made.add(path)
        if member.isdir():
            self._folders[path] = member
        elif not member.islnk() and _exists(parent, leaf):
            self._set_times(parent, leaf, member)

    def finish(self) -> None:
        """Times of directories, after all that was made in them."""
        for path, member in self._folders.items():
            with suppress(FileNotFoundError):
                folder, _, leaf = path.rpartition("/")
                self._set_times(self._open_parent(folder), leaf, member)

    def _clean(self, name: str) -> str:
        if "\0" in name or len(os.fsencode(name)) > _MAX_NAME_BYTES:
            raise ImageError(f"{self._name}: a member's name is too long or contains NUL")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise ImageError(
                f"{self._name}: member {name!r} leads out of the archive; it is hostile"
            )
        return "/".join(parts)

    def _open_parent(self, folder: str) -> int:
        if self._parent[0] == folder:
            return self._parent[1]
        try:
            fd = open_in_root(self._root, folder or ".", os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            above, _, leaf = folder.rpartition("/")
            parent = self._open_parent(above)
            with suppress(FileExistsError):
                os.mkdir(leaf, 0o755, dir_fd=parent)
            fd = open_in_root(self._root, folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise ImageError(f"{self._name}: {folder}: {error.strerror}") from None
        os.close(self._parent[1])
        self._parent = (folder, fd)
        return fd

    def _forget_parent(self) -> None:
        os.close(self._parent[1])
        self._parent = ("", os.dup(self._root))

    def _own_root(self, member: tarfile.TarInfo) -> None:
        if member.isdir():
            self._chown(self._root, member)
            os.fchmod(self._root, stat.S_IMODE(member.mode))

    def _remove(self, parent: int, leaf: str, path: str) -> None:
        if not remove(leaf, parent):
            return
        gone = [one for one in self._folders if one == path or one.startswith(f"{path}/")]
        for one in gone:
            del self._folders[one]

    def _whiteout(self, parent: int, leaf: str, folder: str) -> None:
        """Hide `leaf` of the layers below. What this layer has under that name stays."""
        if leaf in ("", ".", "..") or "/" in leaf:
            raise ImageError(f"{self._name}: whiteout of {leaf!r} in {folder!r} is not valid")
        if f"{folder}/{leaf}".lstrip("/") in self._made:
            return
        with suppress(FileExistsError):
            os.mknod(leaf, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)

    def _make(self, tar: tarfile.TarFile, member: tarfile.TarInfo, parent: int, leaf: str) -> None:
        mode = stat.S_IMODE(member.mode)
        if member.isreg():
            self._file(tar, member, parent, leaf, mode)
        elif member.isdir():
            self._folder(member, parent, leaf, mode)
        elif member.issym():
            os.symlink(member.linkname, leaf, dir_fd=parent)
            self._lchown(parent, leaf, member)
        elif member.islnk():
            self._link(member, parent, leaf)
        elif member.isfifo():
            os.mkfifo(leaf, mode, dir_fd=parent)
            self._lchown(parent, leaf, member)
            os.chmod(leaf, mode, dir_fd=parent)
        else:
            self.skipped += 1  # devices: a user namespace may not make them, and /dev is our own

    def _file(
        self, tar: tarfile.TarFile, member: tarfile.TarInfo, parent: int, leaf: str, mode: int
    ) -> None:
        source = tar.extractfile(member)
        assert source is not None
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(leaf, flags, 0o600, dir_fd=parent)
        try:
            left = member.size
            while left:
                data = source.read(min(left, _CHUNK_BYTES))
                if not data:
                    raise EOFError(f"{member.name} ends too early")
                left -= len(data)
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            self.size_bytes += member.size
            self._chown(fd, member)
            os.fchmod(fd, mode)
            self._xattrs(fd, member)
        finally:
            os.close(fd)

    def _folder(self, member: tarfile.TarInfo, parent: int, leaf: str, mode: int) -> None:
        with suppress(FileExistsError):
            os.mkdir(leaf, 0o700, dir_fd=parent)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(leaf, flags, dir_fd=parent)
        try:
            self._chown(fd, member)
            os.fchmod(fd, mode)
            self._xattrs(fd, member)
        finally:
            os.close(fd)

    def _link(self, member: tarfile.TarInfo, parent: int, leaf: str) -> None:
        target = self._clean(member.linkname)
        folder, _, name = target.rpartition("/")
        keep = os.dup(parent)
        try:
            source = open_in_root(self._root, folder or ".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.link(name, leaf, src_dir_fd=source, dst_dir_fd=keep, follow_symlinks=False)
            finally:
                os.close(source)
        except FileNotFoundError:
            raise ImageError(
                f"{self._name}: {member.name!r} is a hard link to {member.linkname!r}, "
                "which is not in the archive"
            ) from None
        finally:
            os.close(keep)

    def _chown(self, fd: int, member: tarfile.TarInfo) -> None:
        if not self._single:
            self._owning(member, lambda: os.fchown(fd, member.uid, member.gid))

    def _lchown(self, parent: int, leaf: str, member: tarfile.TarInfo) -> None:
        if not self._single:
            self._owning(
                member,
                lambda: os.chown(
                    leaf, member.uid, member.gid, dir_fd=parent, follow_symlinks=False
                ),
            )

    def _owning(self, member: tarfile.TarInfo, chown: Any) -> None:
        try:
            chown()
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise ImageError(
                f"{self._name}: {member.name!r} belongs to {member.uid}:{member.gid}, and this "
                "account has no such subordinate id; give it a larger range in /etc/subuid and "
                "/etc/subgid"
            ) from None

    def _xattrs(self, fd: int, member: tarfile.TarInfo) -> None:
        for key, value in member.pax_headers.items():
            name = key.removeprefix(_XATTR)
            if name == key or name.startswith(_DROPPED_XATTRS) or not name.startswith(_KEPT_XATTRS):
                continue
            data = value.encode("utf-8", "surrogateescape")
            try:
                os.setxattr(fd, name, data)
            except OSError as error:
                # With a single id file capabilities mean nothing; some file systems have none.
                if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                    raise

    def _set_times(self, parent: int, leaf: str, member: tarfile.TarInfo) -> None:
        when = int(member.mtime * 1_000_000_000)
        with suppress(OverflowError):
            os.utime(leaf, ns=(when, when), dir_fd=parent, follow_symlinks=False)


def _is_directory(parent: int, leaf: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(leaf, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _exists(parent: int, leaf: str) -> bool:
    try:
        os.stat(leaf, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
