"""Apply a layer's tar to a directory, as root of the run's user namespace.

Runs as a job (`Inside.call`) in a bare interpreter. The archive is hostile until proven otherwise:
every path is resolved below the directory (RESOLVE_IN_ROOT), nothing is followed that the archive
planted, and what it claims to be is checked by digest before anybody uses it.

Two threads share the work: one reads, decompresses and hashes, the other makes files. All of that
happens in C or in the kernel, without the interpreter's lock.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import stat
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from pytest_containers.errors import ImageError
from pytest_containers.images import tar as tars
from pytest_containers.images.decompress import CompressionError, decompressed
from pytest_containers.images.tar import Member, TarError
from pytest_containers.linux.files import empty, open_in_root, remove, sync_filesystem

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_OPAQUE_XATTR = "user.overlay.opaque"
_MAX_NAME_BYTES = 4095
_MAX_ENTRIES = 10_000_000
_MAX_BYTES = 1 << 40
_CHUNK_BYTES = 1 << 17
_PIECES_AHEAD = 6
_ARRIVED = struct.Struct("<Q")
# They would speak to overlayfs in the archive's name, or are this machine's own to decide.
_DROPPED_XATTRS = ("user.overlay.", "trusted.overlay.", "security.selinux")


def unpack_layer(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Unpack an archive into the new directory ``tree``.

    Args:
        args: ``offset``, ``size`` (-1: to the end): the part of the file; ``digest`` of that
            part and ``diff_id`` of the tar, or null where not known; ``hashed``: whether the
            part's digest is wanted also when it is not known; ``single``: only one id
            exists, so all files are its own; ``name``: what the archive is called in errors.
        fds: The file (or a pipe, with offset 0 and size -1), the directory for ``tree``, and
            where the file is still being written a pipe that tells how many bytes are there
            (8 bytes little-endian each time; its end before `size` of them is a failure).

    Returns:
        ``digest`` of the part (null unless hashed), ``diff_id``, ``size_bytes`` of the contents,
        ``entries``, ``devices``: how many device files became placeholders, ``unlisted``:
        directories that are used and have no entry of their own.
    """
    archive_fd, parent_fd, *arrivals = fds
    os.umask(0)
    os.mkdir("tree", 0o755, dir_fd=parent_fd)
    root = os.open("tree", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent_fd)
    name = args["name"]
    hashed = args["hashed"] or args["digest"] is not None
    part = Part(archive_fd, args["offset"], args["size"], *arrivals, hashed=hashed)
    stream = Ahead(decompressed(part.read, _CHUNK_BYTES))
    unpacker = _Unpacker(root, single=args["single"], name=name)
    try:
        reader = tars.Reader(iter(stream))
        for member in reader:
            unpacker.apply(reader, member)
        unpacker.finish()
        reader.drain()
        part.drain()
    except (TarError, CompressionError, EOFError) as error:
        raise ImageError(f"{name}: the archive is broken or truncated: {error}") from None
    except OSError as error:
        raise ImageError(
            f"{name}: {error.filename or 'unpack'}: {error.strerror}", errno=error.errno
        ) from None
    finally:
        stream.close()
    digest = part.digest()
    _check(name, "digest", args["digest"], digest)
    _check(name, "diff_id", args["diff_id"], stream.digest())
    return {
        "digest": digest,
        "diff_id": stream.digest(),
        "size_bytes": unpacker.size_bytes,
        "entries": unpacker.entries,
        "unlisted": sorted(unpacker.unlisted),
        "devices": unpacker.devices,
    }


def settle(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Return when all that was written to the file system of `fds[0]` is on the disk."""
    sync_filesystem(fds[0])
    return {}


def remove_tree(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Delete what is in the directory `fds[0]`: some of it may belong to subordinate ids."""
    (fd,) = fds
    empty(fd)
    return {}


def _check(name: str, what: str, expected: str | None, actual: str | None) -> None:
    if expected is not None and expected != actual:
        raise ImageError(
            f"{name}: its {what} is {actual} instead of {expected}; the archive is damaged or not "
            "what it claims",
            expected=expected,
            actual=actual,
        )


class Part:
    """A part of a file, or what comes through a pipe; hashed as it is read if that is wanted.

    Args:
        fd: The file.
        size: -1 for a pipe.
        arrivals: Tells how much of a file that is being written is there.
    """

    def __init__(
        self, fd: int, offset: int, size: int, arrivals: int = -1, *, hashed: bool
    ) -> None:
        self._fd = fd
        self._at = offset
        self._left = size
        self._piped = size < 0
        self._arrivals = arrivals
        self._arrived = 0 if arrivals >= 0 else size
        self._hash = hashlib.sha256() if hashed else None

    def read(self, size: int) -> bytes:
        """Some bytes, at most `size`; none at the end."""
        if self._piped:
            data = os.read(self._fd, size)
        elif not self._left:
            return b""
        else:
            if not self._arrived:
                self._wait()
            data = os.pread(self._fd, min(size, self._left, self._arrived), self._at)
            if not data:
                raise EOFError("the file ends too early")
            self._at += len(data)
            self._left -= len(data)
            self._arrived -= len(data)
        if self._hash is not None:
            self._hash.update(data)
        return data

    def _wait(self) -> None:
        """Return when there is more; what is told counts from the start of the part."""
        told = os.read(self._arrivals, 1 << 12)
        if not told:
            raise EOFError("it did not arrive whole")
        while len(told) % _ARRIVED.size:
            told += os.read(self._arrivals, 1)
        (there,) = _ARRIVED.unpack(told[-_ARRIVED.size :])
        self._arrived = there - self._at
        if not self._arrived:
            self._wait()

    def drain(self) -> None:
        """Read to the end."""
        while self.read(_CHUNK_BYTES):
            pass

    def digest(self) -> str | None:
        """Of what was read."""
        return None if self._hash is None else f"sha256:{self._hash.hexdigest()}"


class Ahead:
    """Pieces of a stream, made and hashed by a thread that is some pieces ahead."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._hash = hashlib.sha256()
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_PIECES_AHEAD)
        self._closed = False
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self._thread.start()

    def _fill(self) -> None:
        last: bytes | BaseException = b""
        try:
            for piece in self._pieces:
                self._hash.update(piece)
                if not self._put(piece):
                    return
        except BaseException as error:  # noqa: BLE001 - raised where the pieces are taken
            last = error
        self._put(last)

    def _put(self, item: bytes | BaseException) -> bool:
        while not self._closed:
            with suppress(queue.Full):
                self._queue.put(item, timeout=0.1)
                return True
        return False

    def __iter__(self) -> Iterator[bytes]:
        while True:
            item = self._queue.get()
            if isinstance(item, BaseException):
                raise item
            if not item:
                return
            yield item

    def digest(self) -> str:
        """Of all pieces, once they were taken."""
        return f"sha256:{self._hash.hexdigest()}"

    def close(self) -> None:
        """Give up what was not taken."""
        self._closed = True


class _Unpacker:
    """Applies members to a directory, in the order of the archive."""

    def __init__(self, root: int, *, single: bool, name: str) -> None:
        self._root = root
        self._single = single
        self._name = name
        self._parent = ("", os.dup(root))
        # Time and inode of each directory: set at the end, unless something else is there then.
        self._folders: dict[str, tuple[int, int]] = {}
        self._hidden: set[str] = set()
        self.unlisted: set[str] = set()
        self._setgid = False
        self.size_bytes = 0
        self.entries = 0
        self.devices = 0

    def apply(self, reader: tars.Reader, member: Member) -> None:
        """Apply one member."""
        self.entries += 1
        if self.entries > _MAX_ENTRIES:
            raise ImageError(
                f"{self._name}: it has more than {_MAX_ENTRIES} members; it is hostile"
            )
        path = self._clean(member.name)
        folder, _, leaf = path.rpartition("/")
        if not leaf:
            self._own_root(member)
            return
        parent = self._open_parent(folder, member.mtime_ns)
        if leaf.startswith(_WHITEOUT):
            if leaf == _OPAQUE:
                os.setxattr(parent, _OPAQUE_XATTR, b"y")
            else:
                self._whiteout(parent, leaf.removeprefix(_WHITEOUT), folder)
            return
        try:
            self._make(reader, member, parent, leaf, path)
        except FileExistsError:
            remove(leaf, parent)
            self._make(reader, member, parent, leaf, path)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None

    def finish(self) -> None:
        """Times of directories, after all that was made in them; deepest first is not needed."""
        for path, (mtime_ns, inode) in self._folders.items():
            with suppress(OSError):
                fd = open_in_root(self._root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    if os.fstat(fd).st_ino == inode:
                        _set_times(fd, mtime_ns)
                finally:
                    os.close(fd)

    def _clean(self, name: str) -> str:
        if "\0" in name or len(os.fsencode(name)) > _MAX_NAME_BYTES:
            raise ImageError(f"{self._name}: a member's name is too long or contains NUL")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise ImageError(
                f"{self._name}: member {name!r} leads out of the archive; it is hostile"
            )
        return "/".join(parts)

    def _open_parent(self, folder: str, mtime_ns: int) -> int:
        if self._parent[0] == folder:
            return self._parent[1]
        try:
            try:
                fd = open_in_root(self._root, folder or ".", os.O_RDONLY | os.O_DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):
                self._make_folders(folder, mtime_ns)
                fd = open_in_root(self._root, folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise ImageError(f"{self._name}: {folder}: {error.strerror}") from None
        os.close(self._parent[1])
        self._parent = (folder, fd)
        return fd

    def _make_folders(self, folder: str, mtime_ns: int) -> None:
        """Directories that the archive uses and does not list, as old as what is in them."""
        above = os.dup(self._root)
        path = ""
        try:
            for leaf in folder.split("/"):
                path = f"{path}/{leaf}".lstrip("/")
                if path in self._hidden and _is_whiteout(above, leaf):
                    os.unlink(leaf, dir_fd=above)
                try:
                    os.mkdir(leaf, 0o755, dir_fd=above)
                    made = True
                except FileExistsError:
                    made = False
                self._reveal(above, leaf, path)
                fd = open_in_root(self._root, path, os.O_RDONLY | os.O_DIRECTORY)
                if made:
                    self.unlisted.add(path)
                    self._folders[path] = (mtime_ns, os.fstat(fd).st_ino)
                os.close(above)
                above = fd
        finally:
            os.close(above)

    def _own_root(self, member: Member) -> None:
        if member.kind == tars.DIRECTORY:
            self._chown(self._root, member)
            os.fchmod(self._root, member.mode)
            self._folders["."] = (member.mtime_ns, os.fstat(self._root).st_ino)

    def _whiteout(self, parent: int, leaf: str, folder: str) -> None:
        """Hide `leaf` of the layers below. What this layer has under that name stays."""
        if leaf in ("", ".", "..") or "/" in leaf:
            raise ImageError(f"{self._name}: whiteout of {leaf!r} in {folder!r} is not valid")
        path = f"{folder}/{leaf}".lstrip("/")
        self._hidden.add(path)
        try:
            os.mknod(leaf, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
        except FileExistsError:
            self._reveal(parent, leaf, path)

    def _reveal(self, parent: int, leaf: str, path: str) -> None:
        """A directory where a hidden one is below: only its own entries count."""
        if path not in self._hidden:
            return
        with suppress(NotADirectoryError):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(leaf, flags, dir_fd=parent)
            try:
                os.setxattr(fd, _OPAQUE_XATTR, b"y")
            finally:
                os.close(fd)

    def _make(self, reader: tars.Reader, member: Member, parent: int, leaf: str, path: str) -> None:
        kind = member.kind
        if kind == tars.FILE:
            self._file(reader, member, parent, leaf)
        elif kind == tars.DIRECTORY:
            self._folder(member, parent, leaf, path)
        elif kind == tars.SYMLINK:
            os.symlink(member.linkname, leaf, dir_fd=parent)
            self._finish_at(parent, leaf, member)
        elif kind == tars.LINK:
            self._link(member, parent, leaf)
        elif kind == tars.FIFO:
            os.mkfifo(leaf, member.mode, dir_fd=parent)
            self._finish_at(parent, leaf, member)
            os.chmod(leaf, member.mode, dir_fd=parent)
        else:
            # A user namespace may not make devices, and /dev is the container's own.
            self.devices += 1
            self._file(reader, member, parent, leaf)

    def _file(self, reader: tars.Reader, member: Member, parent: int, leaf: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(leaf, flags, member.mode & 0o777, dir_fd=parent)
        try:
            self.size_bytes += member.stored
            if self.size_bytes > _MAX_BYTES:
                raise ImageError(
                    f"{self._name}: it holds more than {_MAX_BYTES} bytes; it is hostile"
                )
            if member.sparse is not None:
                _write_sparse(fd, reader, member)
            else:
                for piece in reader.data():
                    while piece:
                        piece = piece[os.write(fd, piece) :]
            # Made by container root, with no mask: mostly nothing is left to be changed.
            if member.uid or member.gid or self._setgid:
                self._chown(fd, member)
            if member.mode & 0o7000:
                os.fchmod(fd, member.mode)
            if member.xattrs:
                self._xattrs(fd, member)
            _set_times(fd, member.mtime_ns)
        finally:
            os.close(fd)

    def _folder(self, member: Member, parent: int, leaf: str, path: str) -> None:
        with suppress(FileExistsError):
            os.mkdir(leaf, 0o700, dir_fd=parent)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(leaf, flags, dir_fd=parent)
        except NotADirectoryError:
            raise FileExistsError from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise FileExistsError from None
            raise
        try:
            self._chown(fd, member)
            os.fchmod(fd, member.mode)
            self._setgid = self._setgid or bool(member.mode & stat.S_ISGID)
            if member.xattrs:
                self._xattrs(fd, member)
            if path in self._hidden:
                os.setxattr(fd, _OPAQUE_XATTR, b"y")
            self.unlisted.discard(path)
            self._folders[path] = (member.mtime_ns, os.fstat(fd).st_ino)
        finally:
            os.close(fd)

    def _link(self, member: Member, parent: int, leaf: str) -> None:
        target = self._clean(member.linkname)
        folder, _, name = target.rpartition("/")
        try:
            source = open_in_root(self._root, folder or ".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.link(name, leaf, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(source)
        except FileNotFoundError:
            raise ImageError(
                f"{self._name}: {member.name!r} is a hard link to {member.linkname!r}, "
                "which is not in the archive"
            ) from None

    def _chown(self, fd: int, member: Member) -> None:
        if not self._single:
            try:
                os.fchown(fd, member.uid, member.gid)
            except (OSError, OverflowError) as error:
                raise self._no_such_id(member, error) from None

    def _finish_at(self, parent: int, leaf: str, member: Member) -> None:
        """Owner and time of what cannot be opened."""
        if not self._single:
            try:
                os.chown(leaf, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
            except (OSError, OverflowError) as error:
                raise self._no_such_id(member, error) from None
        with suppress(OverflowError):
            times = (member.mtime_ns, member.mtime_ns)
            os.utime(leaf, ns=times, dir_fd=parent, follow_symlinks=False)

    def _no_such_id(self, member: Member, error: Exception) -> Exception:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            return error
        return ImageError(
            f"{self._name}: {member.name!r} belongs to {member.uid}:{member.gid}, and this "
            "account has no such subordinate id; give it a larger range in /etc/subuid and "
            "/etc/subgid"
        )

    def _xattrs(self, fd: int, member: Member) -> None:
        for name, value in (member.xattrs or {}).items():
            if name.startswith(_DROPPED_XATTRS):
                continue
            try:
                os.setxattr(fd, name, value)
            except (OSError, ValueError) as error:
                # With a single id file capabilities mean nothing; some file systems have none.
                # What a namespace may not set, is not for the archive to demand.
                allowed = (errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL, errno.ERANGE)
                if isinstance(error, OSError) and error.errno not in allowed:
                    raise


def _is_whiteout(parent: int, leaf: str) -> bool:
    with suppress(FileNotFoundError):
        return stat.S_ISCHR(os.stat(leaf, dir_fd=parent, follow_symlinks=False).st_mode)
    return False


def _write_sparse(fd: int, reader: tars.Reader, member: Member) -> None:
    pieces = reader.data()
    piece = memoryview(b"")
    for offset, length in member.sparse or ():
        while length:
            piece = piece or next(pieces)
            written = os.pwrite(fd, piece[:length], offset)
            piece = piece[written:]
            offset, length = offset + written, length - written
    os.ftruncate(fd, member.size)


def _set_times(fd: int, mtime_ns: int) -> None:
    with suppress(OverflowError):
        os.utime(fd, ns=(mtime_ns, mtime_ns))
