"""The files of a container, as its handle gives them to tests."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_containers.engines.process import files, snapshots
from pytest_containers.engines.process.refusals import refuse
from pytest_containers.model.arguments import NUMBER, SECRET_TEXT, TEXT, check, require
from pytest_containers.model.errors import hide_frames

if TYPE_CHECKING:
    from pytest_containers.engines.process.core import ProcessCore
    from pytest_containers.engines.process.view import FileView
    from pytest_containers.images.image import Image

__tracebackhide__ = hide_frames


class ContainerFiles(ABC):
    """The part of a container that reads, writes and copies its files.

    Attributes:
        name, image: See the contract.
        view: Its files.
    """

    name: str
    image: Image
    view: FileView
    _core: ProcessCore

    @abstractmethod
    def _live(self) -> None:
        """Raise if the container was removed."""

    @abstractmethod
    def stopped(self) -> AbstractContextManager[None]:
        """Keep its processes from writing during the body."""

    def read_bytes(self, path: str) -> bytes:
        """Return the contents of a file in the container, also after its end."""
        require("file of a container", "path", path, TEXT)
        self._live()
        return files.read(self.view, self.name, path)

    def read_text(self, path: str) -> str:
        """Return the contents of a file as a string, decoded from UTF-8."""
        return self.read_bytes(path).decode()

    def write_bytes(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a file as root of the container; overwrite an existing one."""
        require("file of a container", "path", path, TEXT)
        require("file of a container", "mode", mode, NUMBER)
        check("write_bytes()", data=data)
        self._live()
        files.write(self.view, self.name, path, data, mode)

    def write_text(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a string to a file, encoded in UTF-8; see `write_bytes`."""
        require("write_text()", "text", text, SECRET_TEXT)
        self.write_bytes(path, text.encode(), mode=mode)

    def copy_in(self, source: str | os.PathLike[str], target: str) -> None:
        """Copy a file or directory of the host into the container, like ``docker cp``."""
        check("copy_in()", source=source, target=target)
        self._live()
        files.copy_in(self.view, self.name, Path(source), target)

    def copy_out(self, source: str, target: str | os.PathLike[str]) -> None:
        """Copy a file or directory of the container to the host, like ``docker cp``."""
        require("copy_out()", "source", source, TEXT)
        self._live()
        files.copy_out(self.view, self.name, source, Path(target))

    def commit(
        self,
        name: str,
        *,
        changes: Mapping[str, Any] | None = None,
        message: str = "",
        author: str = "",
    ) -> Image:
        """Is refused: its images are no layers; see `snapshot`."""
        raise refuse("commit()", "its snapshots are copies without layers")

    def snapshot(self, name: str | None = None) -> Image:
        """Return its current files as an image for other containers, also after its end."""
        check("snapshot()", name=name)
        self._live()
        return snapshots.snapshot(self._core, self.image, self.view.root, self.stopped(), name)

    def freeze(self, parent: int) -> dict[str, Any]:
        """Copy its files to a new directory ``tree`` below `parent` (a descriptor)."""
        self._live()
        return snapshots.freeze(self._core, self.view.root, self.stopped(), self.name, parent)
