"""Descriptions of mounts, frozen and validated."""

from __future__ import annotations

import dataclasses
import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_containers.model.arguments import check
from pytest_containers.model.errors import SpecError, hide_frames

__tracebackhide__ = hide_frames


@dataclass(frozen=True, slots=True)
class Bind:
    """A bind mount: a directory or file of the host at `target` in the container.

    Files keep their owners; those of the caller belong to root in the container. Mounts below
    `source` are included.

    Attributes:
        source: A path of the host. A relative path is relative to the file of the test or fixture;
            for an `Engine` without pytest, to the working directory.
        target: An absolute path, which is made if necessary.
        read_only: Nothing in the container can write to it, even with all capabilities.
    """

    source: str | os.PathLike[str]
    target: str
    read_only: bool = False

    def __post_init__(self) -> None:
        check("Bind", source=self.source, target=self.target, read_only=self.read_only)
        _check_target(self.target)


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """A new in-memory file system at `target`.

    Attributes:
        target: An absolute path, which is made if necessary.
        size_bytes: Its size limit; None is half of the memory.
        mode: The mode of its root directory; None is that of the directory at `target`, else
            0o1777.
        uid, gid: Its owner; None is that of the directory at `target`, else container root.
        exec: False forbids the execution of programs on it.
    """

    target: str
    size_bytes: int | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    exec: bool = True

    def __post_init__(self) -> None:
        check(
            "Tmpfs",
            target=self.target,
            size_bytes=self.size_bytes,
            mode=self.mode,
            uid=self.uid,
            gid=self.gid,
            exec=self.exec,
        )
        _check_target(self.target)


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """A volume at `target`; see `volume_fixture` and `Engine.create_volume`."""

    volume: Any
    target: str
    read_only: bool = False

    def __post_init__(self) -> None:
        check("VolumeMount", volume=self.volume, target=self.target, read_only=self.read_only)
        _check_target(self.target)


Mount = Bind | Tmpfs | VolumeMount


def parse_mount(value: Mount | str) -> Mount:
    """Parse ``"./data:/data"`` or ``"/srv/data:/data:ro"`` (as in Docker); return a mount as it is.

    Raises:
        SpecError: The value is neither.
    """
    if isinstance(value, Bind | Tmpfs | VolumeMount):
        return value
    if not isinstance(value, str):
        raise SpecError(
            f"mounts: {value!r} is not a mount; write './data:/data:ro', or a Bind, Tmpfs or "
            "VolumeMount",
            option="mounts",
        )
    source, _, rest = value.partition(":")
    target, _, option = rest.partition(":")
    if not source or not target or option not in ("", "ro", "rw"):
        raise SpecError(
            f"mount {value!r} is not understood; write 'SOURCE:TARGET' or 'SOURCE:TARGET:ro'",
            option="mounts",
        )
    if not source.startswith(("/", ".")):
        raise SpecError(
            f"mount {value!r}: {source!r} would be a named volume in Docker; write "
            f"'./{value}' for a directory, or VolumeMount(volume, {target!r})",
            option="mounts",
        )
    return Bind(source, target, read_only=option == "ro")


def parse_mounts(values: Sequence[Mount | str]) -> tuple[Mount, ...]:
    """Return all mounts of a container.

    Raises:
        SpecError: A value is not a mount, or two mounts have the same target.
    """
    mounts: dict[str, Mount] = {}
    for value in values:
        mount = parse_mount(value)
        target = normal_target(mount.target)
        if target in mounts:
            raise SpecError(
                f"mount target {target!r} is there twice: for {mounts[target]} and {mount}; only "
                "one of them would be seen",
                option="mounts",
            )
        mounts[target] = mount
    return tuple(mounts.values())


def anchored(mounts: tuple[Mount, ...], folder: Path) -> tuple[Mount, ...]:
    """Return mounts whose relative sources are those below `folder`; the same if none is."""
    if not any(isinstance(mount, Bind) and not os.path.isabs(mount.source) for mount in mounts):
        return mounts
    return tuple(
        dataclasses.replace(mount, source=os.fspath(folder / mount.source))
        if isinstance(mount, Bind)
        else mount
        for mount in mounts
    )


def normal_target(path: str) -> str:
    """Return an absolute path without ``.``, ``..``, doubled or trailing slashes."""
    return "/" + posixpath.normpath(path).lstrip("/")


def _check_target(target: str) -> None:
    if not target.startswith("/") or "\0" in target:
        raise SpecError(f"mount target {target!r} is not an absolute path", option="mounts")
