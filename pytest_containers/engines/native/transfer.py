"""Copies between host and container: this process's end of the tar streams.

The other end is a job in the run's user namespace (`runtime.inside.archive`), which can read and
write what belongs to any user of the container. Here, everything is the caller's.
"""

from __future__ import annotations

import os
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

from pytest_containers.errors import ContainersError, hide_frames
from pytest_containers.runtime.client import Client

__tracebackhide__ = hide_frames

_MODULE = "pytest_containers.runtime.inside.archive"


def copy_in(client: Client, container_id: str, name: str, source: Path, target: str) -> None:
    """See `Container.copy_in`."""
    doing = f"copy of {source} to {target} in container {name!r}"
    if not os.path.lexists(source):
        raise ContainersError(f"{doing}: {source} does not exist", path=str(source))
    reader, writer = os.pipe2(os.O_CLOEXEC)
    failures: list[BaseException] = []

    def pack() -> None:
        with (
            open(writer, "wb") as file,
            tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            tar.add(source, arcname=".")

    thread = _in_thread(pack, failures)
    try:
        args = {"path": target, "name": source.resolve().name}
        _job(client, container_id, "unpack", args, reader, doing)
    finally:
        os.close(reader)
        thread.join()
    _raise(failures, doing)


def copy_out(client: Client, container_id: str, name: str, source: str, target: Path) -> None:
    """See `Container.copy_out`."""
    doing = f"copy of {source} in container {name!r} to {target}"
    into = target.is_dir()
    goal = target / Path(source).name if into else target
    if not goal.parent.is_dir():
        raise ContainersError(f"{doing}: {goal.parent} is not a directory", path=str(goal.parent))
    reader, writer = os.pipe2(os.O_CLOEXEC)
    failures: list[BaseException] = []

    def unpack() -> None:
        with open(reader, "rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
            for member in tar:
                _extract(tar, member, goal)
            # A tar ends before its padding does, and the other side still writes that.
            while file.read(1 << 16):
                pass

    thread = _in_thread(unpack, failures)
    try:
        _job(client, container_id, "pack", {"path": source}, writer, doing)
    finally:
        os.close(writer)
        thread.join()
    _raise(failures, doing)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, goal: Path) -> None:
    """Make one member below `goal`. The names come from a container: they are not trusted."""
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    path = goal.joinpath(*parts)
    if ".." in parts or any(parent.is_symlink() for parent in _between(goal, path)):
        raise ContainersError(f"{member.name!r} leads out of the copy")
    if member.isdir():
        if path.is_symlink() or not path.is_dir():
            path.mkdir()
        path.chmod(member.mode & 0o777 | 0o700)
        return
    if path.is_symlink() or path.exists():
        path.unlink()
    if member.issym():
        path.symlink_to(member.linkname)
    elif member.islnk():
        linked = [part for part in member.linkname.split("/") if part not in ("", ".", "..")]
        path.hardlink_to(goal.joinpath(*linked))
    elif member.isreg():
        source = tar.extractfile(member)
        assert source is not None
        with open(path, "xb") as file:
            while data := source.read(1 << 20):
                file.write(data)
        path.chmod(member.mode & 0o777)
        os.utime(path, (member.mtime, member.mtime))


def _between(goal: Path, path: Path) -> list[Path]:
    """Directories from `goal` down to the one that holds `path`."""
    return [parent for parent in path.parents if parent == goal or goal in parent.parents]


def _in_thread(work: Callable[[], None], failures: list[BaseException]) -> threading.Thread:
    def run() -> None:
        try:
            work()
        except (OSError, tarfile.TarError, ContainersError) as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def _job(
    client: Client, container_id: str, function: str, args: dict[str, str], fd: int, doing: str
) -> None:
    search_path = [path for path in sys.path if path]
    try:
        client.call(
            "job", function=f"{_MODULE}:{function}", args=args, container=container_id,
            search_path=search_path, fds=[fd],
        )  # fmt: skip
    except ContainersError as error:
        raise ContainersError(f"{doing}: {error.message}", **error.data) from None


def _raise(failures: list[BaseException], doing: str) -> None:
    if failures and not isinstance(failures[0], BrokenPipeError):
        raise ContainersError(f"{doing}: {failures[0]}") from failures[0]
