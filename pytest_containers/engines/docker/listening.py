"""Which ports of a container have listening sockets, by the tables of the kernel.

On the machine of the daemon, they are read in ``/proc``; elsewhere, by a shell in the container
that stays for all questions. In an image without a shell, published ports are connected to.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_containers.engines.docker.connection import Demultiplexer, Exchange
from pytest_containers.model.errors import (
    ContainersError,
    ExitedError,
    WaitTimeoutError,
    hide_frames,
)

if TYPE_CHECKING:
    from pytest_containers.engines.docker.core import DockerCore
    from pytest_containers.engines.docker.handle import DockerHandle

__tracebackhide__ = hide_frames

PortKey = tuple[int, str]
_TABLES = ("tcp", "tcp6", "udp", "udp6")
_LISTEN, _UNCONNECTED = "0A", "07"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.05
_SETTLE_S = 0.1
_ANSWER_S, _MAX_TABLE_BYTES = 10.0, 64 << 20
_SCRIPT = (
    'while read -r line; do for t in tcp tcp6 udp udp6; do echo "= $t"; '
    "cat /proc/net/$t 2>/dev/null; done; echo .; done"
)


def open_ports(tables: str) -> dict[PortKey, set[str]]:
    """Return the addresses that sockets listen on, by port.

    Args:
        tables: The tables of ``/proc/net``, each after a line ``= NAME``. They may come from a
            program of the container, which may write anything.
    """
    listening: dict[PortKey, set[str]] = {}
    protocol = ""
    for line in tables.splitlines():
        fields = line.split()
        if fields[:1] == ["="]:
            protocol = "".join(fields[1:2]).removesuffix("6")
            continue
        if len(fields) < 4 or ":" not in fields[1]:
            continue
        if fields[3] != (_LISTEN if protocol == "tcp" else _UNCONNECTED):
            continue
        address, _, port = fields[1].rpartition(":")
        with contextlib.suppress(ValueError):  # of what is no table of the kernel
            key, host = (int(port, 16), protocol), _address(address)
            listening.setdefault(key, set()).add(host)
    return listening


def _address(digits: str) -> str:
    """Return an address of the kernel's tables as people write it."""
    data = bytes.fromhex(digits)
    words = b"".join(data[index : index + 4][::-1] for index in range(0, len(data), 4))
    family = socket.AF_INET if len(words) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, words).removeprefix("::ffff:")


def is_outside(address: str) -> bool:
    """Return True for an address that other machines reach."""
    return not address.startswith("127.") and address != "::1"


class PortTable:
    """The listening sockets of one container.

    Args:
        core: The run.
        container_id, name: Of the container.
        pid: The id of its program as the daemon knows it.
    """

    def __init__(self, core: DockerCore, container_id: str, name: str, pid: int) -> None:
        self._core = core
        self._id = container_id
        self._name = name
        self._folder = Path(f"/proc/{pid}/net")
        self.is_local: bool = core.place.here and _is_of(pid, container_id)
        self._shell: Exchange | None = None
        self._has_shell = True

    def read(self) -> dict[PortKey, set[str]] | None:
        """Return the addresses that sockets listen on, by port; None if that is not known."""
        if self.is_local:
            with contextlib.suppress(OSError):
                tables = (f"= {name}\n{(self._folder / name).read_text()}" for name in _TABLES)
                return open_ports("".join(tables))
            return {}  # it has just ended
        if not self._has_shell:
            return None
        try:
            return open_ports(self._ask())
        except (OSError, ContainersError):
            self._has_shell = False
            return None

    def _ask(self) -> str:
        """Have the shell in the container show the tables."""
        if self._shell is None:
            self._shell = self._open()
        deadline = time.monotonic() + _ANSWER_S
        self._shell.sock.settimeout(_ANSWER_S)
        self._shell.sock.sendall(b"\n")
        frames, tables = Demultiplexer(), bytearray()
        while not tables.endswith(b"\n.\n"):
            self._shell.sock.settimeout(max(deadline - time.monotonic(), 0.001))
            part = self._shell.receive()
            if not part or len(tables) > _MAX_TABLE_BYTES:
                raise OSError("the shell has ended, or writes without end")
            tables += b"".join(data for stream, data in frames.feed(part) if stream == 1)
        return tables.decode(errors="replace")

    def _open(self) -> Exchange:
        api, container_id = self._core.api, self._id
        doing = f"look at the ports of container {self._name!r}"
        body = {
            "Cmd": ["/bin/sh", "-c", _SCRIPT], "User": "0", "AttachStdin": True,
            "AttachStdout": True, "AttachStderr": False,
        }  # fmt: skip
        created = api.call(
            doing,
            lambda client: client._result(
                client._post_json(client._url("/containers/{0}/exec", container_id), data=body),
                True,
            ),
        )
        return api.exchange(
            doing, "POST", f"/exec/{created['Id']}/start", {"Detach": False, "Tty": False},
            upgrade=True,
        )  # fmt: skip

    def close(self) -> None:
        """End the shell; idempotent."""
        if self._shell is not None:
            self._shell.close()
            self._shell = None


def _is_of(pid: int, container_id: str) -> bool:
    """Return True if the process of that id here is that of a container."""
    try:
        return container_id in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False


def wait_listening(
    container: DockerHandle, sockets: PortTable, ports: Sequence[PortKey], timeout_s: float
) -> None:
    """Wait until each port has a listening socket; see `Container.wait_listening`."""
    listed = {(port.number, port.protocol) for port in container.spec.parsed_ports}
    deadline, pause_s = time.monotonic() + timeout_s, _FIRST_PAUSE_S
    while True:
        table = sockets.read()
        missing = (
            [key for key in ports if not _answers(container, key)]
            if table is None
            else [key for key in ports if not _is_open(table, key, key in listed)]
        )
        if not missing:
            return
        code = container.ended_with()
        if code is not None:
            raise ExitedError(
                f"container {container.name!r} ended with exit code {code} before it listened",
                exit_code=code,
            )
        if time.monotonic() >= deadline:
            raise WaitTimeoutError(
                f"container {container.name!r}: {_explain(table or {}, missing, timeout_s)}",
                missing=missing,
                timeout_s=timeout_s,
            )
        container.pause_until_end(min(pause_s, max(deadline - time.monotonic(), 0.0)))
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)


def _is_open(table: dict[PortKey, set[str]], key: PortKey, outside: bool) -> bool:
    addresses = table.get(key, set())
    return any(map(is_outside, addresses)) if outside else bool(addresses)


def _answers(container: DockerHandle, key: PortKey) -> bool:
    """Connect to a published port: a forwarder closes at once if nothing is behind it."""
    number, protocol = key
    if protocol != "tcp":
        return True
    try:
        with socket.create_connection(container.address(number), 5.0) as sock:
            sock.settimeout(_SETTLE_S)
            return sock.recv(1, socket.MSG_PEEK) != b""
    except TimeoutError:
        return True
    except OSError:
        return False


def _explain(table: dict[PortKey, set[str]], missing: Collection[PortKey], timeout_s: float) -> str:
    names = ", ".join(f"{number}/{protocol}" for number, protocol in missing)
    words = f"nothing listens on {names} after {timeout_s:.3g} s"
    elsewhere = [f"{address}:{key[0]}" for key in missing for address in sorted(table.get(key, ()))]
    if elsewhere:
        return (
            f"{words} where others reach it: the program listens on {' and '.join(elsewhere)} "
            "only; have it listen on 0.0.0.0"
        )
    others = sorted(f"{number}/{protocol}" for number, protocol in table)
    return f"{words}; open are {', '.join(others)}" if others else words
