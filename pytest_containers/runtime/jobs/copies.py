"""Trees in and out of a container's root, as tar streams through pipes.

Paths are resolved below the root's descriptor, whatever links the container planted
(CVE-2018-15664, CVE-2019-10152), and no program of the container's is run for it (CVE-2019-14271).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pytest_containers.linux.files import open_in_root
from pytest_containers.model.errors import ContainersError
from pytest_containers.runtime.copying.packer import pack_tree
from pytest_containers.runtime.copying.receive import (
    CopyWriter,
    open_target,
    sentence_of,
    write_copy,
)
from pytest_containers.runtime.jobs import Nothing, PackTree, UnpackTree


def pack(args: PackTree, fds: Sequence[int]) -> Nothing:
    """Write the file or tree at ``args.path`` as a tar to `fds[1]`; `fds[0]` is the root."""
    root, pipe = fds
    with _in_words(), open(pipe, "wb") as file:
        pack_tree(open_in_root(root, args.path, os.O_PATH), file)
    return Nothing()


def unpack(args: UnpackTree, fds: Sequence[int]) -> Nothing:
    """Make the tree that comes as a tar through `fds[1]` at ``args.path``; `fds[0]` is the root.

    If ``args.path`` is a directory, the tree goes into it as ``args.name``.
    """
    root, pipe = fds
    os.umask(0)
    with _in_words():
        folder, name = open_target(root, args.path, args.name)
        write_copy(pipe, CopyWriter(folder, name="the copy", top=name))
    return Nothing()


@contextmanager
def _in_words() -> Iterator[None]:
    """Raise what the kernel refuses as a sentence that goes behind what is being copied."""
    try:
        yield
    except OSError as error:
        raise ContainersError(sentence_of(error), errno=error.errno) from None
