"""Files of a container: the archives of Docker's API, and programs where these do not reach."""

from __future__ import annotations

import base64
import contextlib
import errno
import io
import json
import os
import posixpath
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pytest_containers.engines.copies import goal_of, host_writer
from pytest_containers.engines.docker.api import DaemonRefusal
from pytest_containers.model.errors import ContainersError, NotRunningError, hide_frames
from pytest_containers.model.spec import Tmpfs, normal_target
from pytest_containers.runtime.copying.receive import sentence_of
from pytest_containers.runtime.copying.tar import FILE, LINK, Member, Reader, TarError

if TYPE_CHECKING:
    from pytest_containers.engines.docker.handle import DockerHandle

__tracebackhide__ = hide_frames

_KERNEL = ("/proc", "/sys", "/dev")
_MAX_LINKS, _CHUNK_BYTES = 40, 1 << 17
_LINK = 0o1 << 27  # of Go's file modes
_FOLDER = 0o1 << 31


def is_hidden(container: DockerHandle, path: str) -> bool:
    """Return True for a path on a mount that archives of the daemon do not show."""
    mounts = [mount.target for mount in container.spec.parsed_mounts if isinstance(mount, Tmpfs)]
    normal = normal_target(path)
    return any(f"{normal}/".startswith(f"{normal_target(one)}/") for one in (*_KERNEL, *mounts))


def _missing(container: DockerHandle, path: str) -> ContainersError:
    return ContainersError(
        f"file {path} in container {container.name!r}: it does not exist",
        errno=errno.ENOENT,
        path=path,
    )


def stat(container: DockerHandle, path: str) -> dict[str, Any] | None:
    """Return what the daemon says of a file: name, mode, linkTarget; None if there is none."""

    def head(client: Any) -> dict[str, Any]:
        url = client._url("/containers/{0}/archive", container.id)
        response = client.head(url, params={"path": path}, timeout=client.timeout)
        client._raise_for_status(response)
        facts = json.loads(base64.b64decode(response.headers["X-Docker-Container-Path-Stat"]))
        if not isinstance(facts, dict) or not isinstance(facts.get("mode"), int):
            raise ValueError("the daemon does not tell what it is")
        return facts

    try:
        found = container.core.api.call(f"file {path} in container {container.name!r}", head)
    except DaemonRefusal as error:
        if error.status == 404:
            _raise_if_gone(container, error)
            return None
        raise
    return found


def _raise_if_gone(container: DockerHandle, error: DaemonRefusal) -> None:
    if "such container" in error.explanation.lower():
        raise NotRunningError(f"container {container.name!r} was removed")


def resolved(container: DockerHandle, path: str) -> tuple[str, dict[str, Any] | None]:
    """Follow links at the end of a path; return the path and what the daemon says of it."""
    for _ in range(_MAX_LINKS):
        facts = stat(container, path)
        if facts is None or not facts["mode"] & _LINK:
            return path, facts
        path = posixpath.join(posixpath.dirname(path), str(facts.get("linkTarget") or ""))
    raise ContainersError(
        f"file {path} in container {container.name!r}: too many links", errno=errno.ELOOP
    )


def read_bytes(container: DockerHandle, path: str) -> bytes:
    """Return the contents of a file; see `Container.read_bytes`."""
    if is_hidden(container, path):
        return _read_by_program(container, path)
    path, facts = resolved(container, path)
    if facts is None:
        raise _missing(container, path)
    if facts["mode"] & _FOLDER:
        raise ContainersError(
            f"file {path} in container {container.name!r}: it is a directory",
            errno=errno.EISDIR,
            path=path,
        )
    doing = f"file {path} in container {container.name!r}"
    with _fetched(container, path) as reader, _in_words(doing):
        member = next(reader, None)
        if member is None or member.kind != FILE:
            raise ContainersError(
                f"{doing}: it is not a regular file", errno=errno.EINVAL, path=path
            )
        return b"".join(reader.data())


def _read_by_program(container: DockerHandle, path: str) -> bytes:
    result = container.exec(["cat", "--", path], user="0")
    if result.returncode:
        words = result.stderr.decode(errors="replace").lower()
        if "no such file" in words or "can't open" in words:
            raise _missing(container, path)
        raise ContainersError(f"file {path} in container {container.name!r}: {words.strip()}")
    data: bytes = result.stdout
    return data


@contextlib.contextmanager
def _fetched(container: DockerHandle, path: str) -> Iterator[Reader]:
    """Yield an archive of a file or directory."""
    with tempfile.SpooledTemporaryFile(8 << 20) as file:

        def fetch(client: Any) -> None:
            parts, _ = client.get_archive(container.id, path)
            for part in parts:
                file.write(part)

        try:
            container.core.api.call(f"file {path} in container {container.name!r}", fetch)
        except DaemonRefusal as error:
            if error.status != 404:
                raise
            _raise_if_gone(container, error)
            raise _missing(container, path) from None
        file.seek(0)
        yield Reader(iter(lambda: file.read(_CHUNK_BYTES), b""))


@contextlib.contextmanager
def _in_words(doing: str) -> Iterator[None]:
    try:
        yield
    except (OSError, TarError, ContainersError) as error:
        if isinstance(error, ContainersError) and error.message.startswith(doing):
            raise
        words = sentence_of(error) if isinstance(error, OSError) else str(error)
        raise ContainersError(f"{doing}: {words}") from error


def _put(container: DockerHandle, folder: str, archive: IO[bytes], doing: str) -> None:
    try:
        container.core.api.call(
            doing, lambda client: client.put_archive(container.id, folder, archive)
        )
    except DaemonRefusal as error:
        _raise_if_gone(container, error)
        number = errno.ENOENT if error.status == 404 else None
        words = error.explanation
        if "read-only" in words or "rootfs is marked" in words:
            number = errno.EROFS
        raise ContainersError(f"{doing}: {words}", errno=number) from None


def write_bytes(container: DockerHandle, path: str, data: bytes, mode: int) -> None:
    """Write a file as root of the container; see `Container.write_bytes`."""
    doing = f"file {path} in container {container.name!r}"
    if is_hidden(container, path) and container.status == "running":
        script = 'cat > "$0" && chmod "$1" "$0"'
        command = ["/bin/sh", "-c", script, path, f"{mode:o}"]
        container.exec(command, user="0", input=data, check=True)
        return
    path, facts = resolved(container, path)
    if facts is not None and facts["mode"] & _FOLDER:
        raise ContainersError(f"{doing}: it is a directory", errno=errno.EISDIR, path=path)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(posixpath.basename(path))
        info.size, info.mode = len(data), mode
        info.mtime = int(time.time())
        tar.addfile(info, io.BytesIO(data))
    buffer.seek(0)
    _put(container, posixpath.dirname(path) or "/", buffer, doing)


def make_folder(container: DockerHandle, path: str) -> None:
    """Make a directory with all above it, unless it is there."""
    if is_hidden(container, path) or stat(container, path) is not None:
        return
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(path.strip("/"))
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(info)
    buffer.seek(0)
    with contextlib.suppress(ContainersError):  # the program says what is wrong with it
        _put(container, "/", buffer, f"directory {path} in container {container.name!r}")


def copy_in(container: DockerHandle, source: Path, target: str) -> None:
    """Copy from the host into a container; see `Container.copy_in`."""
    doing = f"copy of {source} to {target} in container {container.name!r}"
    if not os.path.lexists(source):
        raise ContainersError(f"{doing}: {source} does not exist", path=str(source))
    goal = target
    _, facts = resolved(container, target)
    if facts is not None and facts["mode"] & _FOLDER:
        goal = posixpath.join(target, source.resolve().name)
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            try:
                tar.add(source, posixpath.basename(goal.rstrip("/")), filter=_of_root)
            except OSError as error:
                raise ContainersError(f"{doing}: {error.strerror}", errno=error.errno) from error
        file.seek(0)
        _put(container, posixpath.dirname(goal.rstrip("/")) or "/", file, doing)


def _of_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info


def copy_out(container: DockerHandle, source: str, target: Path) -> None:
    """Copy from a container to the host; see `Container.copy_out`."""
    doing = f"copy of {source} in container {container.name!r} to {target}"
    goal = goal_of(source, target, doing)
    with _fetched(container, source) as reader, _in_words(doing), host_writer(goal) as writer:
        try:
            for member in reader:
                writer.write(_below_top(member), reader.data())
            writer.finish()
        finally:
            writer.close()


def _below_top(member: Member) -> Member:
    """Take the name of the top of an archive off a member and off what it is a hard link to."""
    name = f"./{member.name.partition('/')[2]}"
    link = member.linkname
    return member._replace(
        name=name, linkname=f"./{link.partition('/')[2]}" if member.kind == LINK else link
    )
