"""What a build needs of an engine: functions in the run's user namespace, and programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from pytest_containers.images.image import Image
from pytest_containers.model.build import BuildNetwork
from pytest_containers.runtime.wire.operations.job import Job


class ImageMount(NamedTuple):
    """A part of an image's files; what is written to it is dropped with the step."""

    target: str
    image: Image
    source: str = "/"
    read_only: bool = True


class FolderMount(NamedTuple):
    """A directory of the store whose files have the ids of containers."""

    target: str
    path: Path
    read_only: bool = False


class FileMount(NamedTuple):
    """A file that is only in memory."""

    target: str
    data: bytes
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


class SocketMount(NamedTuple):
    """A socket of the caller's."""

    target: str
    path: Path


class MemoryMount(NamedTuple):
    """An empty file system in memory."""

    target: str
    size_bytes: int | None = None


StepMount = ImageMount | FolderMount | FileMount | SocketMount | MemoryMount


class BuildProgram(NamedTuple):
    """The program of a RUN.

    Attributes:
        args: The command line.
        env: All of its environment.
        user, scratch, scratch_size_bytes: As those of `ContainerSpec`.
    """

    args: Sequence[str]
    env: Mapping[str, str]
    user: str
    workdir: str
    network: BuildNetwork
    mounts: Sequence[StepMount] = ()
    scratch: Literal["tmpfs", "disk"] = "tmpfs"
    scratch_size_bytes: int | None = None


class BuildProcess(Protocol):
    """A program of a build that was started."""

    def output(self) -> Iterator[bytes]:
        """Yield its output, as it comes, until its end."""

    def wait(self) -> int:
        """Wait for its end, and return its exit code."""

    def freeze(
        self, parent: int, without: Sequence[str], latest_ns: int | None, base: Image
    ) -> dict[str, Any]:
        """Copy what it wrote to ``tree`` in the directory `parent` (`images.freeze`)."""


class Runtime(Protocol):
    """An engine, as builds use it."""

    def call(
        self,
        job: Job[Any, Any],
        args: Mapping[str, Any],
        fds: Sequence[int],
        views: Sequence[Image],
    ) -> dict[str, Any]:
        """Run a job (`images.Inside`); the roots of images come behind its descriptors."""

    def start(self, image: Image, program: BuildProgram) -> AbstractContextManager[BuildProcess]:
        """Start a program in a container of an image; it is removed when the context ends."""

    def explain_network(self) -> str:
        """Return a line if ``default`` is less isolated here than it could be; else nothing."""

    def stop(self) -> None:
        """End all programs that run: another part of the build has failed."""
