"""Masked and read-only paths.

The usual ones, below ``/proc`` and ``/sys``, are mounted on before the change of root, by names
that are known not to be links. All others, which the caller chose, follow after the caller's own
mounts, when the kernel itself resolves them inside the new root.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pytest_containers.linux.mount import (
    AT_FDCWD,
    AT_RECURSIVE,
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_SYMLINKS,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
)
from pytest_containers.linux.numbers import NR
from pytest_containers.linux.program import Program, Result
from pytest_containers.runtime.plan.become_user import Machine
from pytest_containers.runtime.plan.oci import Config

_NOT_THERE = (2, 20)  # ENOENT, ENOTDIR
_READ_ONLY = struct.pack("=4Q", MOUNT_ATTR_RDONLY, 0, 0, 0)  # struct mount_attr

ChosenMask = tuple[str, bool]
"""A masked path of the caller's choice, and True if it is a directory."""


def add_usual_masks(program: Program, config: Config, machine: Machine) -> None:
    """Append the mounts over usual paths, while the new root is the working directory."""
    linux = config.linux
    chosen = {*config.chosen_masks, *config.chosen_readonly_paths}
    for path in linux.get("maskedPaths") or ():
        if path in chosen or path not in machine.masked:
            continue
        source = b"/none" if machine.masked[path] else b"/dev/null"
        program.add(
            ("mask", path),
            NR["mount"],
            source,
            path.lstrip("/").encode(),
            None,
            MS_BIND,
            None,
        )
    safe = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY
    for path in linux.get("readonlyPaths") or ():
        if path in chosen or path not in machine.readonly:
            continue
        target = path.lstrip("/").encode()
        program.add(("protect", path), NR["mount"], target, target, None, MS_BIND | MS_REC, None)
        program.add(
            ("protect", path), NR["mount"], None, target, None, MS_BIND | MS_REMOUNT | safe, None
        )


def open_sources(program: Program, masks: Sequence[ChosenMask]) -> list[int]:
    """Append the steps that open what masks the caller's paths, in the run's root.

    Returns:
        For each mask the step whose result is the descriptor of a detached mount.
    """
    return [
        program.add(
            ("open the mask of", path),
            NR["open_tree"],
            AT_FDCWD,
            b"/none" if directory else b"/dev/null",
            OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC,
        )
        for path, directory in masks
    ]


def add_chosen_masks(
    program: Program, config: Config, masks: Sequence[ChosenMask], sources: Sequence[int]
) -> None:
    """Append the caller's masks and read-only paths, after its mounts.

    A path that is not there is left out. One of another kind than it was found to be is an error
    of the kernel (EINVAL), not a path that stays visible.
    """
    for (path, _), source in zip(masks, sources, strict=True):
        program.add(
            ("mask", path),
            NR["move_mount"],
            Result(source),
            b"",
            AT_FDCWD,
            path.encode(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS,
            ignore=_NOT_THERE,
        )
    for path in config.chosen_readonly_paths:
        target = path.encode()
        program.add(
            ("protect", path),
            NR["mount"],
            target,
            target,
            None,
            MS_BIND | MS_REC,
            None,
            ignore=_NOT_THERE,
        )
        program.add(
            ("protect", path),
            NR["mount_setattr"],
            AT_FDCWD,
            target,
            AT_RECURSIVE,
            _READ_ONLY,
            len(_READ_ONLY),
            ignore=_NOT_THERE,
        )
