"""The working directory of a program: made where it is missing, entered before the user changes.

Both as Docker does: an image or a caller may name a directory that nobody has made, and one that
only root may enter.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from pytest_containers.linux.mount import AT_FDCWD
from pytest_containers.linux.numbers import NR
from pytest_containers.linux.program import Program

_EEXIST = 17


def add_make(program: Program, process: Mapping[str, Any]) -> None:
    """Append what makes it and the directories above it, as root with mode 0755.

    The child is in the container's root by now, so that the kernel resolves links inside of it.
    """
    folders = _path(process).strip("/").split("/")
    for depth in range(1, len(folders) + 1):
        path = "/" + "/".join(folders[:depth])
        if path != "/":
            program.add(
                ("make working directory", path),
                NR["mkdirat"],
                AT_FDCWD,
                path.encode(),
                0o755,
                ignore=(_EEXIST,),
            )


def add_enter(program: Program, process: Mapping[str, Any]) -> None:
    """Append the change of directory."""
    path = _path(process)
    program.add(("working directory", path), NR["chdir"], path.encode())


def _path(process: Mapping[str, Any]) -> str:
    return "/" + posixpath.normpath(process.get("cwd") or "/").lstrip("/")
