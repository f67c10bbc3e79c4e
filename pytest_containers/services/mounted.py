"""Mounts that mean something to a server: scripts of its first start, and files like private keys.

A private key must belong to the user of the server. A mounted file of the caller belongs to root
of the container, though, and no mode makes a key of root readable for, say, `postgres` and
acceptable to it. So binds with such files are replaced by copies in a layer.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pytest_containers.model.container import Container
from pytest_containers.model.errors import SpecError, hide_frames
from pytest_containers.model.image import Image
from pytest_containers.model.mounts import (
    Bind,
    Mount,
    VolumeMount,
    anchored,
    normal_target,
    parse_mounts,
)
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.steps import maker_of, run_step
from pytest_containers.state.facts import Inputs
from pytest_containers.state.warm import Stage

__tracebackhide__ = hide_frames

INIT_SCRIPTS = "/docker-entrypoint-initdb.d"
_MOST_FILES, _MOST_BYTES = 100, 1 << 20


class ServerMounts:
    """The mounts of a service, by what becomes of them.

    Args:
        mounts: The option ``mounts`` of the service.
        folder: The directory that relative sources start from.
        user: The user of the server; empty is root, who may read everything.

    Attributes:
        mounted: The mounts of the server.
        stored: Those of containers whose files are stored: no volumes, which are others in each
            run.
        copied: Binds with files that only their owner may read, whose copies belong to `user`.
        scripts: Sources of scripts for the first start.
    """

    def __init__(self, mounts: Sequence[Mount | str], folder: Path, user: str) -> None:
        parsed = anchored(parse_mounts(mounts), folder) if mounts else ()
        targets = [normal_target(mount.target) for mount in parsed]
        self.copied: list[Bind] = []
        self.mounted: list[Mount] = []
        for mount in parsed:
            # A copy below another mount would be written to the host.
            alone = not any(below(mount.target, target) for target in targets)
            if user and alone and isinstance(mount, Bind) and _is_private(mount):
                self.copied.append(mount)
            else:
                self.mounted.append(mount)
        self.stored: list[Mount] = [
            mount for mount in self.mounted if not isinstance(mount, VolumeMount)
        ]
        self.scripts: list[str] = [
            os.path.abspath(mount.source)
            for mount in parsed
            if isinstance(mount, Bind)
            and within(mount.target, INIT_SCRIPTS)
            and os.path.exists(mount.source)  # the start of the container tells what is missing
        ]

    def free(self, folders: Sequence[str]) -> list[str]:
        """Return the directories that no stage has mounted: the host's keep their owners."""
        taken = {normal_target(mount.target) for mount in self.stored}
        # /var/run is a link to /run.
        taken |= {target.removeprefix("/var") for target in taken if within(target, "/var/run")}
        return [
            folder
            for folder in folders
            if folder not in taken and folder.removeprefix("/var") not in taken
        ]

    def below(self, folder: str) -> list[str]:
        """Return the targets at or below a directory of the container."""
        mounts = [*self.mounted, *self.copied]
        return [mount.target for mount in mounts if within(mount.target, folder)]


def copies(spec: ContainerSpec, binds: Sequence[Bind], user: str, folder: Path) -> Stage:
    """Return the stage that copies the sources of binds, as files of the server.

    Args:
        spec: A container without mounts.
        user: The owner of the copies.
        folder: The directory that relative sources start from.
    """
    return Stage(
        "mounted keys",
        spec,
        lambda container: _copy(container, binds, user),
        {"the mounts": repr([(bind.target, user) for bind in binds])},
        traced=False,
        inputs=Inputs([bind.source for bind in binds], folder),
    )


def _copy(container: Container, binds: Sequence[Bind], user: str) -> None:
    maker = maker_of(container, user)
    for bind in binds:
        target = normal_target(bind.target)
        make_room = 'rm -rf "$1"; mkdir -p "$2"'
        folder = posixpath.dirname(target)
        run_step(container, f"mount {target}", ["sh", "-ec", make_room, "sh", target, folder])
        container.copy_in(os.path.realpath(bind.source), target)
        run_step(container, f"mount {target}", ["chown", "-hR", user, target], user=maker)


def check_data(kind: type[Any], mounts: Sequence[Mount | str], data: Sequence[str]) -> None:
    """Raise for a mount that hides the data of a server.

    Args:
        data: The directory of the data, and those above it that have nothing else.

    Raises:
        SpecError: A mount is there.
    """
    for mount in parse_mounts(mounts) if mounts else ():
        if normal_target(mount.target) in data:
            raise SpecError(
                f"{kind.__name__}: a mount at {mount.target} would hide the data of the server, "
                "which is stored once, and changed in memory by each test; leave it out, and use "
                "seed= or the image of a snapshot() for data to begin with",
                option="mounts",
            )


def outside_volumes(image: Image, data: str, own: str) -> str:
    """Return where the server of an image has its data.

    Args:
        data: Where the image has them.
        own: Where they are instead, if each start would copy what is in a volume of the image.
    """
    may_make = image.config.user in ("", "0", "root")
    if may_make and image.volumes_apart:
        return own if any(within(data, volume) for volume in image.config.volumes) else data
    return data


def within(path: str, folder: str) -> bool:
    """Return True if a path in the container is a directory or below it."""
    return normal_target(path) == folder or below(path, folder)


def below(path: str, folder: str) -> bool:
    """Return True if a path in the container is below a directory."""
    return normal_target(path).startswith(f"{folder}/")


def _is_private(bind: Bind) -> bool:
    """Return True if only the caller may use the source: a file, or a small directory with one.

    A directory that others may not enter counts if it is mounted read-only: into another, programs
    of root may write for the host.
    """
    private, count, size_bytes = False, 0, 0
    for path in _entries(os.path.realpath(bind.source)):
        try:
            status = os.stat(path)
        except OSError:
            return False  # the start of the container tells the reason
        if stat.S_ISDIR(status.st_mode):
            private = private or (bind.read_only and status.st_mode & 0o005 != 0o005)
            continue
        count, size_bytes = count + 1, size_bytes + status.st_size
        if not stat.S_ISREG(status.st_mode) or count > _MOST_FILES or size_bytes > _MOST_BYTES:
            return False
        private = private or not status.st_mode & 0o004
    return private


def _entries(source: str) -> Iterator[str]:
    yield source
    for folder, folders, names in os.walk(source):
        for name in (*folders, *names):
            yield os.path.join(folder, name)
