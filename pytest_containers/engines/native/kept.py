"""Kept runs: the directory that lists them, what the test process does to keep, and connections.

A run that is kept has a socket in a directory of the user: ``pytest-containers`` in
``$XDG_RUNTIME_DIR``, else ``kept`` in the directory of the image store. The directory has mode
0700. Names of users and ids never become part of a path. A socket that nobody listens to is left
over from a run that was killed; who finds one removes it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import select
import socket
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_containers.engines.native import output
from pytest_containers.engines.native.execution import process_of
from pytest_containers.model.errors import (
    ContainersError,
    NotRunningError,
    RunLostError,
    hide_frames,
)
from pytest_containers.model.home import default_home
from pytest_containers.model.kept import KeepLimits, KeptContainer
from pytest_containers.runtime.wire.channel import Channel
from pytest_containers.runtime.wire.client import Client, Request
from pytest_containers.runtime.wire.operations.containers import (
    Exec,
    ExecStarted,
    ExitCode,
    ReadLogs,
)
from pytest_containers.runtime.wire.operations.kept import (
    DropKept,
    KeepContainer,
    KeepRun,
    KeptFacts,
    ListKept,
)

if TYPE_CHECKING:
    from pytest_containers.engines.native.container import Container
    from pytest_containers.engines.native.core import Core

__tracebackhide__ = hide_frames

_NAME = re.compile(r"[0-9a-f]{16}\.socket")
_PATIENCE_S = 5.0
"""How long a run may take to answer, which has nothing else to do."""

# ------------------------------------------------------------------ the directory


def _directories(home: str | os.PathLike[str] | None) -> list[Path]:
    """Return the directories of sockets; new ones are made in the first."""
    store = Path(home or default_home()) / "kept"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if not runtime.startswith("/"):
        return [store]
    try:
        private = os.stat(runtime).st_uid == os.geteuid()  # not with sudo
    except OSError:
        private = False
    return [Path(runtime) / "pytest-containers", store] if private else [store]


def _open_directory(path: Path, *, make: bool) -> int | None:
    """Open a directory of sockets; None if there is none.

    Raises:
        ContainersError: Others could reach what is in it.
    """
    if make:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _not_private(path, error.strerror or "it cannot be opened") from None
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        os.close(fd)
        raise _not_private(path, "it belongs to another user or is open to others")
    return fd


def _not_private(path: Path, cause: str) -> ContainersError:
    return ContainersError(
        f"kept containers: {path} is not usable: {cause}; remove it, or set XDG_RUNTIME_DIR",
        path=os.fspath(path),
    )


def _address(directory_fd: int, name: str) -> str:
    """Return the address of a socket, however long its path is."""
    return f"/proc/self/fd/{directory_fd}/{name}"


# ------------------------------------------------------------------ the test process


def keep(
    core: Core,
    home: Path | None,
    container: Container,
    test: str,
    limits: KeepLimits,
    *,
    stay: bool,
) -> None:
    """Keep or show a container; see `Engine.keep`."""
    if not core.keeps:
        _begin(core, home, limits)
        core.keeps = True
    addresses = [
        (port, container.address(port.number, port.protocol))
        for port in container.spec.parsed_ports
    ]
    facts = KeptFacts(
        name=container.name,
        image=container.image.name,
        test=test,
        command=list(container.command),
        ports=[f"{port} at {host}:{number}" for port, (host, number) in addresses],
        kept_at=time.time(),
        process=container._process,
    )
    core.client.call(KeepContainer(container=container.id, facts=facts, stay=stay))
    if stay:
        _make_room(home, limits)


def _begin(core: Core, home: Path | None, limits: KeepLimits) -> None:
    """Give the run a socket, and let it outlive this process."""
    directory_fd = _open_directory(_directories(home)[0], make=True)
    assert directory_fd is not None
    name = f"{secrets.token_hex(8)}.socket"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Under its final name only when it listens: others remove a socket without a listener.
        new = f"{name}.new"
        sock.bind(_address(directory_fd, new))
        os.chmod(new, 0o600, dir_fd=directory_fd)
        sock.listen(16)
        os.rename(new, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
        first = False
        try:
            first = core.client.call(
                KeepRun(
                    keep_s=limits.keep_s,
                    most=limits.most,
                    listener=sock.fileno(),
                    directory=directory_fd,
                    name=name,
                )
            ).first
        finally:
            if not first:
                os.unlink(name, dir_fd=directory_fd)
    finally:
        sock.close()
        os.close(directory_fd)


def _make_room(home: Path | None, limits: KeepLimits) -> None:
    """Remove the oldest kept containers of the user that are beyond the limit."""
    with contextlib.ExitStack() as stack:
        everything = []
        for run in kept_runs(home):
            stack.callback(run.close)
            everything += [(each.kept_at, each.id, run, each) for each in run.containers()]
        kept = sorted(entry for entry in everything if entry[3].kept)
        for _, _, run, container in kept[: max(len(kept) - limits.most, 0)]:
            with contextlib.suppress(ContainersError):  # gone meanwhile
                run.drop(container)


# ------------------------------------------------------------------ connections


def kept_runs(home: str | os.PathLike[str] | None = None) -> list[NativeKeptRun]:
    """Connect to all kept runs of the user.

    Raises:
        ContainersError: Others could reach the directory of sockets.
    """
    runs: list[NativeKeptRun] = []
    for path in _directories(home):
        directory_fd = _open_directory(path, make=False)
        if directory_fd is None:
            continue
        try:
            for name in sorted(filter(_NAME.fullmatch, os.listdir(directory_fd))):
                client = _connect(directory_fd, name)
                if client is not None:
                    runs.append(NativeKeptRun(client, path / name))
        finally:
            os.close(directory_fd)
    return runs


def _connect(directory_fd: int, name: str) -> Client | None:
    """Connect to a run; None if there is none any more."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(_address(directory_fd, name))
    except OSError:
        sock.close()
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=directory_fd)
        return None
    client = Client(Channel(sock))
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    try:
        if poll.poll(_PATIENCE_S * 1000):
            _ = client.facts
            return client
    except ContainersError:  # it ends just now
        pass
    client.close()
    return None


class NativeKeptProgram:
    """The implementation of `model.kept.KeptProgram`."""

    def __init__(self, client: Client, request: Request[ExecStarted]) -> None:
        self._client = client
        self._request = request
        started = client.receive(request, last=False)
        os.close(started.ended)
        self.streams: Sequence[int] = started.streams

    def wait(self) -> int:
        """Wait for its end; return the exit code as a shell reports it."""
        return self._client.receive_last(self._request, ExitCode).code


class NativeKeptRun:
    """The implementation of `model.kept.KeptRun`.

    Args:
        client: Connected to the run.
        path: The socket of the run.
    """

    def __init__(self, client: Client, path: Path) -> None:
        self._client = client
        self._path = path
        self._processes: dict[str, Mapping[str, object]] = {}

    def containers(self) -> list[KeptContainer]:
        """Return its containers, the oldest first."""
        listed = self._client.call(ListKept(), within_s=_PATIENCE_S)
        self._processes = {each.id: each.facts.process for each in listed.containers}
        return [
            KeptContainer(
                id=each.id,
                name=each.facts.name,
                image=each.facts.image,
                test=each.facts.test,
                command=tuple(each.facts.command),
                ports=tuple(each.facts.ports),
                ip=each.ip,
                status=each.state,
                exit_code=each.exit_code,
                kept=each.kept,
                kept_at=each.facts.kept_at,
                ends_in_s=listed.ends_in_s,
            )
            for each in listed.containers
        ]

    def records(
        self, container: KeptContainer, *, follow: bool, tail: int | None
    ) -> Iterator[tuple[float, int, bytes]]:
        """Iterate over the output of a container; see `KeptRun.records`."""
        position, is_open = 0, True
        records: list[tuple[float, int, bytes]] = []
        while is_open:
            part = self._client.call(
                ReadLogs(container=container.id, position=position, wait=False)
            )
            position, is_open = part.position, part.more
            if not part.records:
                break
            records += output.parse(part.records)
        yield from records if tail is None else _last_lines(records, tail)
        while follow and is_open:
            part = self._client.call(ReadLogs(container=container.id, position=position, wait=True))
            position, is_open = part.position, part.more
            yield from output.parse(part.records)

    def exec(
        self,
        container: KeptContainer,
        command: Sequence[str],
        *,
        user: str | None,
        workdir: str | None,
        env: Mapping[str, str],
        stdin: bool,
        tty: bool,
    ) -> NativeKeptProgram:
        """Start a program in a container; see `KeptRun.exec`."""
        if container.status == "exited":
            raise NotRunningError(
                f"container {container.name!r} has ended with exit code {container.exit_code}, so "
                "no program can run in it; its output is printed by "
                f"`pytest-containers logs {container.name}`"
            )
        process = self._processes[container.id]
        request = self._client.start(
            Exec(
                container=container.id,
                user=user,
                groups=(),
                args=list(command),
                stdin=stdin and not tty,
                process=process_of(process, command[:1], workdir, env, tty),
            )
        )
        return NativeKeptProgram(self._client, request)

    def drop(self, container: KeptContainer | None) -> None:
        """Remove a kept container, or all of them; the run ends with the last one."""
        self._client.call(DropKept(container="" if container is None else container.id))
        try:
            self.containers()
        except RunLostError:  # it was the last one
            _forget(self._path)

    def close(self) -> None:
        """End the connection."""
        self._client.close()


def _forget(path: Path) -> None:
    """Remove the socket of a run that has ended; its launcher does the same a moment later."""
    with contextlib.suppress(OSError):
        path.unlink()


def _last_lines(
    records: Sequence[tuple[float, int, bytes]], count: int
) -> list[tuple[float, int, bytes]]:
    """Return the records of the last lines; a line that is cut off counts."""
    last: list[tuple[float, int, bytes]] = []
    left = count
    for time_s, stream, data in reversed(records):
        if not left:
            break
        lines = data.splitlines(keepends=True)
        last.append((time_s, stream, b"".join(lines[-left:])))
        left -= min(left, len(lines))
    return last[::-1]
