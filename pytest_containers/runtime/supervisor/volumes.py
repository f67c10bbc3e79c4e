"""Volumes: file systems that outlive containers and are dropped with their fixture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from pytest_containers.linux import mount
from pytest_containers.runtime.supervisor.root import RunRoot
from pytest_containers.runtime.wire.faults import FaultError


class File(NamedTuple):
    """A file that a volume begins with."""

    name: str
    data: bytes
    mode: int
    uid: int
    gid: int


class RunVolume:
    """A tmpfs that several containers may mount, at the same time or after each other."""

    def __init__(
        self, root: RunRoot, number: str, size_bytes: int | None, files: Sequence[File] = ()
    ) -> None:
        self.id = number
        self._root = root
        self._path = root.place(root.new_tmpfs(size_bytes), "volumes")
        for file in files:
            self._add(file)

    def _add(self, file: File) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(f"{self._path}/{file.name}", flags, 0o600)
        with open(fd, "wb") as opened:
            opened.write(file.data)
            os.fchown(fd, file.uid, file.gid)
            os.fchmod(fd, file.mode)

    def clone(self, name: str = "", *, read_only: bool = False) -> int:
        """Make a detached mount of it, or of one of its files.

        Raises:
            FaultError: It was removed.
        """
        if not self._path:
            raise FaultError("StartError", f"volume {self.id} was removed")
        fd = mount.open_tree(f"{self._path}/{name}" if name else self._path)
        if read_only:
            mount.set_attributes(fd, add=mount.MOUNT_ATTR_RDONLY)
        return fd

    def close(self) -> None:
        """Let go of it; containers that mount it keep it until they end."""
        if self._path:
            mount.umount(self._path)
            os.rmdir(self._path)
            self._path = ""
