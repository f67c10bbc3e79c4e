"""The same job for what is copied from an image: it looks there itself.

Apart, since all that it needs is imported before it is root of the run.
"""

from __future__ import annotations

import itertools
import os
import posixpath
import stat
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pytest_containers.builder.context import Context, Selected, excluding
from pytest_containers.builder.dockerfile.ignore import Patterns
from pytest_containers.builder.filedigests import FileDigests
from pytest_containers.builder.jobs import write
from pytest_containers.builder.jobs.tree import FOLDER, copy_data, copy_xattrs
from pytest_containers.builder.jobs.write import Writer

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def write_layer(args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Write a layer of files from an image (`write.write_layer`)."""
    return write.write_layer(args, fds, take)


def take(writer: Writer, item: dict[str, Any], root: int) -> None:
    """Write what an item names in an image.

    Raises:
        BuildError: It is not there.
    """
    here = Path(f"/proc/self/fd/{root}")
    context = Context(here, Patterns(()), FileDigests(None, here), name=item["what"])
    exclude = excluding(item["exclude"])
    selections = [
        context.select(source, exclude=exclude, parents=item["parents"]) for source in item["from"]
    ]
    into = item["into"] or any(len(selection) > 1 for selection in selections)
    several = not into and sum(map(len, selections)) > 1
    for selected in itertools.chain.from_iterable(selections):
        place = writer.place(
            item["to"],
            selected.below,
            into,
            selected.name,
            selected.top.is_folder,
            several=several,
        )
        _take_one(writer, place, selected, root)


def _take_one(writer: Writer, place: str, selected: Selected, root: int) -> None:
    links: dict[tuple[int, int], str] = {}
    cut = len(selected.top.path) + 1 if selected.top.path else 0
    entries = selected.entries if selected.top.is_folder else [selected.top]
    for entry in entries:
        writer.at = posixpath.join(place, entry.path[cut:]) if entry.path[cut:] else place
        status = os.stat(entry.path, dir_fd=root, follow_symlinks=False)
        owner = writer.owner or (status.st_uid, status.st_gid)
        if entry.is_folder:
            mode = writer.mode(entry.mode, folder=True)
            target = writer.tree.make_folder(writer.at, mode, owner, entry.mtime_ns)
            with _opened(root, entry.path, FOLDER) as source:
                copy_xattrs(source, target)
        elif stat.S_ISLNK(entry.mode):
            writer.tree.make_link(writer.at, entry.target, owner, entry.mtime_ns)
        elif stat.S_ISFIFO(entry.mode):
            mode = writer.mode(entry.mode, folder=False)
            writer.tree.make_fifo(writer.at, mode, owner, entry.mtime_ns)
        elif stat.S_ISREG(entry.mode):
            identity = (status.st_dev, status.st_ino)
            if status.st_nlink > 1 and identity in links:
                writer.tree.make_hard_link(writer.at, links[identity])
                continue
            links[identity] = writer.at
            mode = writer.mode(entry.mode, folder=False)
            with _opened(root, entry.path, _FILE) as source:
                writer.tree.make_file(
                    writer.at,
                    mode,
                    owner,
                    entry.mtime_ns,
                    partial(copy_data, source),
                    partial(copy_xattrs, source),
                )


class _opened:
    """An open file below a root, closed at the end of the context."""

    def __init__(self, root: int, path: str, flags: int) -> None:
        self._fd = os.open(path or ".", flags, dir_fd=root)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)
