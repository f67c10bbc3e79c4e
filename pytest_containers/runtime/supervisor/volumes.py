"""Volumes: file systems that outlive containers and are dropped with their fixture."""

from __future__ import annotations

import os

from pytest_containers.linux import mount
from pytest_containers.runtime.messages import FaultError
from pytest_containers.runtime.supervisor.root import RunRoot


class Volume:
    """A tmpfs that several containers may mount, at the same time or after each other."""

    def __init__(self, root: RunRoot, number: str, size_bytes: int | None) -> None:
        self.id = number
        self._root = root
        options = [("mode", "0755"), *root.tmpfs_options]
        if size_bytes is not None:
            options.append(("size", str(size_bytes)))
        self._path = root.place(mount.new_mount("tmpfs", options), "volumes")

    def clone(self) -> int:
        """A detached mount of it.

        Raises:
            FaultError: It was removed.
        """
        if not self._path:
            raise FaultError("StartError", f"volume {self.id} was removed")
        return mount.open_tree(self._path)

    def read_only(self) -> int:
        """The same, read-only as a file system: no remount in a container makes it writable."""
        fd = self.clone()
        mount.set_attributes(fd, add=mount.MOUNT_ATTR_RDONLY)
        return fd

    def close(self) -> None:
        """Let go of it; containers that mount it keep it until they end."""
        if self._path:
            mount.umount(self._path)
            os.rmdir(self._path)
            self._path = ""
