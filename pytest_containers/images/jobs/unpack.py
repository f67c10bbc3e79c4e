"""Apply a layer's tar to a directory, as root of the run's user namespace.

Runs as a job (`Inside.call`) in a bare interpreter. The archive is hostile until proven otherwise:
every path is resolved below the directory (RESOLVE_IN_ROOT), nothing is followed that the archive
planted, and what it claims to be is checked by digest before anybody uses it.

Two threads share the work: one reads, decompresses and hashes, the other makes files. All of that
happens in C or in the kernel, without the interpreter's lock.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from pytest_containers.images.decompress import CompressionError, decompressed
from pytest_containers.images.jobs.layer_writer import LayerWriter
from pytest_containers.images.jobs.stream import CHUNK_BYTES, Ahead, StreamPart
from pytest_containers.linux.files import empty, sync_filesystem
from pytest_containers.model.errors import ImageError
from pytest_containers.model.harmless import shown
from pytest_containers.runtime.copying.tar import Reader, TarError


def unpack_layer(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Unpack an archive into the new directory ``tree``.

    Args:
        args: ``offset``, ``size`` (-1: to the end): the part of the file; ``digest`` of that
            part and ``diff_id`` of the tar, or null where not known; ``hashed``: whether the
            part's digest is wanted also when it is not known; ``single``: only one id
            exists, so all files are its own; ``name``: what the archive is called in errors.
        fds: The file (or a pipe, with offset 0 and size -1), the directory for ``tree``, a pipe
            that is readable once the work is given up, and where the file is still being written
            a pipe that tells how many bytes are there (8 bytes little-endian each time; its end
            before `size` of them is a failure).

    Returns:
        ``digest`` of the part (null unless hashed), ``diff_id``, ``size_bytes`` of the contents,
        ``entries``, ``devices``: ``[path, kind, major, minor]`` of those that became placeholders,
        ``unlisted``: directories that are used and have no entry of their own, unless they are
        made anew.
    """
    archive_fd, parent_fd, stopped, *arrivals = fds
    os.umask(0)
    os.mkdir("tree", 0o755, dir_fd=parent_fd)
    root = os.open("tree", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent_fd)
    name = args["name"]
    hashed = args["hashed"] or args["digest"] is not None
    part = StreamPart(
        archive_fd, args["offset"], args["size"], *arrivals, stopped=stopped, hashed=hashed
    )
    stream = Ahead(decompressed(part.read, CHUNK_BYTES))
    writer = LayerWriter(root, single=args["single"], name=name)
    try:
        reader = Reader(iter(stream))
        for member in reader:
            writer.write(member, reader.data())
        writer.finish()
        reader.drain()
        part.drain()
    except (TarError, CompressionError, EOFError) as error:
        raise ImageError(f"{name}: the archive is broken or truncated: {error}") from None
    except OSError as error:
        raise ImageError(
            f"{name}: {shown(str(error.filename or 'unpack'))}: {error.strerror}",
            errno=error.errno,
        ) from None
    finally:
        stream.close()
        writer.close()
        os.close(root)
    digest = part.digest()
    _check(name, "digest", args["digest"], digest)
    _check(name, "diff_id", args["diff_id"], stream.digest())
    return {
        "digest": digest,
        "diff_id": stream.digest(),
        "size_bytes": writer.size_bytes,
        "entries": writer.entries,
        "unlisted": sorted(writer.unlisted - writer.hidden),
        "devices": writer.devices,
    }


def settle(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Return when all written data of the file system of `fds[0]` is on the disk."""
    sync_filesystem(fds[0])
    return {}


def remove_tree(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Delete all in the directory `fds[0]`: some of it may belong to subordinate ids."""
    (fd,) = fds
    empty(fd)
    return {}


def _check(name: str, label: str, expected: str | None, actual: str | None) -> None:
    if expected is not None and expected != actual:
        raise ImageError(
            f"{name}: its {label} is {actual} instead of {expected}; the archive is damaged or not "
            "what it claims",
            expected=expected,
            actual=actual,
        )
