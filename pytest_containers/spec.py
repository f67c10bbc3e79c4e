"""What a container should be: frozen, validated descriptions that every layer may speak."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pytest_containers.errors import SpecError, hide_frames

if TYPE_CHECKING:
    from pytest_containers.wait import Wait

__tracebackhide__ = hide_frames

Protocol = Literal["tcp", "udp"]
_ENV_NAME = re.compile(r"[^=\0]+\Z")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,62})\Z")


@dataclass(frozen=True, slots=True)
class Port:
    """A port a container listens on.

    Attributes:
        number: 1 to 65535, inside the container.
        protocol: ``"tcp"`` or ``"udp"``.
        host: A fixed port on the host's 127.0.0.1, or None for "wherever it is reachable".
    """

    number: int
    protocol: Protocol = "tcp"
    host: int | None = None

    def __post_init__(self) -> None:
        for what, number in (("port", self.number), ("host port", self.host)):
            if number is None and what == "host port":
                continue
            if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 65536:
                raise SpecError(f"{what} {number!r} is not a whole number from 1 to 65535")
        if self.protocol not in ("tcp", "udp"):
            raise SpecError(f"port {self.number}: protocol {self.protocol!r} is not 'tcp' or 'udp'")

    @classmethod
    def parse(cls, value: int | str | Port) -> Port:
        """``8000``, ``"53/udp"`` or ``"18000:8000"`` (host port first, as Docker writes it)."""
        if isinstance(value, Port):
            return value
        if isinstance(value, int):
            return cls(value)
        match = re.fullmatch(r"(?:(\d+):)?(\d+)(?:/(tcp|udp))?", value)
        if match is None:
            raise SpecError(
                f"port {value!r} is not understood; write 8000, '8000/udp' or '18000:8000'"
            )
        host, number, protocol = match.groups()
        kind: Protocol = "udp" if protocol == "udp" else "tcp"
        return cls(int(number), kind, int(host) if host else None)

    def __str__(self) -> str:
        return f"{self.number}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Bind:
    """A directory or file of the host at `target` in the container.

    Files keep their ownership as the caller sees it: what is the caller's is container root's.
    """

    source: str | os.PathLike[str]
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """A fresh in-memory file system at `target`."""

    target: str
    size_bytes: int | None = None
    mode: int = 0o1777


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """A volume (see `volume` fixtures and `Engine.volume`) at `target`."""

    volume: Any
    target: str
    read_only: bool = False


Mount = Bind | Tmpfs | VolumeMount


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """Everything that makes a container, independent of any engine.

    Attributes:
        image: A reference (``"host:"``, ``"redis:7"``, ``"oci:/path"``) or an image object.
        command: Arguments that replace the image's Cmd; None keeps it.
        entrypoint: Replaces the image's Entrypoint; None keeps it, ``()`` removes it.
        env: Added to the image's environment; values are never shown in reports.
        ports: Ports that tests may reach: ``8000``, ``"53/udp"``, ``"18000:8000"`` or `Port`.
        ready: When the container counts as ready; None: the image's HEALTHCHECK, else all
            `ports` listening, else started.
        ready_timeout_s: How long that may take; None is the setting, else 60 s.
        user: ``"name"``, ``"1000"``, ``"name:group"`` or ``"1000:1000"``.
        groups: Supplementary groups, names or numbers, beside those of ``/etc/group``.
        aliases: More names under which containers of the same test find this one.
        mounts: `Bind`, `Tmpfs` and `VolumeMount` objects.
        host_ports: TCP ports of the host's 127.0.0.1 that the container reaches at
            ``host.containers.internal``.
        network: False gives a network namespace with a loopback device only.
        rlimits: ``{"nofile": 1024}`` or ``{"nofile": (soft, hard)}``.
        init: Run a PID 1 that forwards signals and reaps orphans before the program.
        tty: Give the program a terminal instead of pipes.
        scratch: Where the writable layer lives: ``"tmpfs"`` or ``"disk"``.
        scratch_size_bytes: Its size limit; None is half the machine's memory on tmpfs.
        log_limit_bytes: How much of the container's output is kept (the newest).
    """

    image: Any
    command: Sequence[str] | str | None = None
    entrypoint: Sequence[str] | str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    ports: Sequence[int | str | Port] = ()
    ready: Wait | None = None
    ready_timeout_s: float | None = None
    user: str | int | None = None
    groups: Sequence[str | int] = ()
    workdir: str | None = None
    hostname: str | None = None
    aliases: Sequence[str] = ()
    mounts: Sequence[Mount] = ()
    host_ports: Sequence[int] = ()
    network: bool = True
    cap_add: Sequence[str] = ()
    cap_drop: Sequence[str] = ()
    no_new_privileges: bool = False
    read_only: bool = False
    rlimits: Mapping[str, int | tuple[int, int]] = field(default_factory=dict)
    init: bool = False
    tty: bool = False
    stop_signal: str | int | None = None
    shm_size_bytes: int = 64 << 20
    scratch: Literal["tmpfs", "disk"] = "tmpfs"
    scratch_size_bytes: int | None = None
    log_limit_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        ports = [Port.parse(port) for port in self.ports]
        for index, port in enumerate(ports):
            if any((port.number, port.protocol) == (p.number, p.protocol) for p in ports[:index]):
                raise SpecError(f"port {port} is listed twice")
        for name, value in self.env.items():
            if not _is_text(name) or not _ENV_NAME.match(name):
                raise SpecError(
                    f"environment name {name!r} is not usable; it must be text without '=' or NUL"
                )
            if not _is_text(value) or "\0" in value:
                raise SpecError(f"environment variable {name}: the value must be text without NUL")
        for alias in (*self.aliases, *filter(None, [self.hostname])):
            if not _NAME.match(alias):
                raise SpecError(f"name {alias!r} is not usable as a host name")

    @property
    def parsed_ports(self) -> tuple[Port, ...]:
        """`ports` as `Port` objects."""
        return tuple(Port.parse(port) for port in self.ports)


def _is_text(value: object) -> bool:
    # Callers without a type checker pass numbers.
    return isinstance(value, str)


def signal_number(value: str | int | None, default: str = "TERM") -> int:
    """``"HUP"``, ``"SIGHUP"``, ``"SIGRTMIN+3"``, ``"1"`` or ``1`` as a number.

    Raises:
        SpecError: There is no such signal.
    """
    text = str(default if value is None else value).upper().removeprefix("SIG")
    name, sign, offset = re.fullmatch(r"([^+-]*)([+-]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]  # anything matches
    try:
        number = int(name) if name.isdecimal() and not sign else int(signal.Signals[f"SIG{name}"])
        number += int(f"{sign}{offset}") if sign else 0
    except (KeyError, ValueError):
        number = 0
    if not 0 < number <= signal.SIGRTMAX:
        raise SpecError(f"signal {value!r} does not exist; see signal(7)")
    return number
