"""Files of a container, which are files of this machine elsewhere."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from pytest_containers.engines.process.trees import copy_tree
from pytest_containers.engines.process.view import FileView
from pytest_containers.model.errors import ContainersError, hide_frames

__tracebackhide__ = hide_frames


def _error(name: str, path: str, error: OSError) -> ContainersError:
    return ContainersError(
        f"{path} in container {name!r}: {error.strerror}", errno=error.errno, path=path
    )


def read(view: FileView, name: str, path: str) -> bytes:
    """Return the contents of a regular file."""
    try:
        place = view.resolved(path)
        # What is no regular file, a FIFO for example, could be waited for without end.
        fd = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ContainersError(
                    f"{path} in container {name!r} is not a regular file", path=path
                )
            return file.read()
    except OSError as error:
        raise _error(name, path, error) from error


def write(view: FileView, name: str, path: str, data: bytes, mode: int) -> None:
    """Write a file."""
    try:
        place = view.resolved(path, write=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        is_new = not os.path.lexists(place)
        with open(os.open(place, flags, mode), "wb") as file:
            file.write(data)
            if is_new:
                os.fchmod(file.fileno(), mode)
    except OSError as error:
        raise _error(name, path, error) from error


def copy_in(view: FileView, name: str, source: Path, target: str) -> None:
    """Copy a file or directory of the machine; see `Container.copy_in`."""
    try:
        if os.path.isdir(view.resolved(target, write=True)):
            target = f"{target.rstrip('/')}/{source.resolve().name}"
        place = view.resolved(target, write=True)
        if source.is_dir():
            copy_tree(os.fspath(source), place, owners=False)
        else:
            shutil.copy(source, place)
    except OSError as error:
        raise _error(name, target, error) from error


def copy_out(view: FileView, name: str, source: str, target: Path) -> None:
    """Copy a file or directory of the container; see `Container.copy_out`."""
    try:
        folder = view.resolved(os.path.dirname(source.rstrip("/")) or "/")
        place = os.path.join(folder, os.path.basename(source.rstrip("/")))
        os.lstat(place)
        if target.is_dir():
            target = target / os.path.basename(source.rstrip("/"))
        if os.path.islink(place):
            os.symlink(os.readlink(place), target)
        elif os.path.isdir(place):
            copy_tree(place, os.fspath(target), owners=False)
        else:
            shutil.copy(place, target)
    except OSError as error:
        raise _error(name, source, error) from error
