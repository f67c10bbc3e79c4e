"""Files of a container, which are files of this machine elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_containers.engines.copies import CopyThread, goal_of, host_writer, raise_first
from pytest_containers.engines.process import opening
from pytest_containers.engines.process.view import FileView
from pytest_containers.model.errors import ContainersError, hide_frames
from pytest_containers.runtime.copying.packer import pack_tree
from pytest_containers.runtime.copying.receive import CopyWriter, write_copy
from pytest_containers.runtime.copying.tar import TarError

__tracebackhide__ = hide_frames


def _error(name: str, path: str, error: OSError) -> ContainersError:
    return ContainersError(
        f"{path} in container {name!r}: {error.strerror}", errno=error.errno, path=path
    )


def read(view: FileView, name: str, path: str) -> bytes:
    """Return the contents of a regular file."""
    try:
        with (
            view.folder_of(view.resolved(path)) as (folder, leaf),
            open(opening.open_file(folder, leaf, os.O_RDONLY), "rb") as file,
        ):
            return file.read()
    except OSError as error:
        raise _error(name, path, error) from error


def write(view: FileView, name: str, path: str, data: bytes, mode: int) -> None:
    """Write a file."""
    flags = os.O_WRONLY | os.O_CREAT
    try:
        with view.folder_of(view.resolved(path, write=True)) as (folder, leaf):
            try:
                fd, is_new = opening.open_file(folder, leaf, flags | os.O_EXCL, mode), True
            except FileExistsError:
                fd, is_new = opening.open_file(folder, leaf, flags | os.O_TRUNC, mode), False
            with open(fd, "wb") as file:
                file.write(data)
                if is_new:
                    os.fchmod(file.fileno(), mode)
    except OSError as error:
        raise _error(name, path, error) from error


def copy_in(view: FileView, name: str, source: Path, target: str) -> None:
    """Copy a file or directory of the machine; see `Container.copy_in`."""
    doing = f"copy of {source} to {target} in container {name!r}"
    try:
        if os.path.isdir(view.resolved(target, write=True)):
            target = f"{target.rstrip('/')}/{source.resolve().name}"
        place = view.resolved(target, write=True)
        with _opened(None, os.fspath(source)) as top, view.folder_of(place) as (folder, leaf):
            _copy(top, CopyWriter(folder, name="the copy", top=leaf), doing)
    except OSError as error:
        raise _error(name, target, error) from error


def copy_out(view: FileView, name: str, source: str, target: Path) -> None:
    """Copy a file or directory of the container; see `Container.copy_out`."""
    doing = f"copy of {source} in container {name!r} to {target}"
    goal = goal_of(source, target, doing)
    try:
        above = view.resolved(os.path.dirname(source.rstrip("/")) or "/")
        place = os.path.join(above, os.path.basename(source.rstrip("/")))
        with (
            view.folder_of(place) as (folder, leaf),
            _opened(folder, leaf) as top,
            host_writer(goal) as writer,
        ):
            _copy(top, writer, doing)
    except OSError as error:
        raise _error(name, source, error) from error


@contextmanager
def _opened(folder: int | None, leaf: str) -> Iterator[int]:
    """Open a file or directory to be copied; a link is copied as a link."""
    fd = os.open(leaf, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def _copy(top: int, writer: CopyWriter, doing: str) -> None:
    """Copy a tree by descriptors, which programs cannot lead elsewhere meanwhile.

    Raises:
        ContainersError: A part cannot be read or written.
    """
    reader, pipe = os.pipe2(os.O_CLOEXEC)

    def pack() -> None:
        with open(pipe, "wb") as file:
            pack_tree(top, file)

    packing = CopyThread(pack)
    failure: Exception | None = None
    try:
        write_copy(reader, writer)
    except (OSError, TarError, ContainersError) as error:
        failure = error
    finally:
        os.close(reader)
    raise_first(doing, packing.failure(), failure)
