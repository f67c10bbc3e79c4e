"""Descriptions of containers, frozen and validated."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pytest_containers.model import limits
from pytest_containers.model.arguments import check
from pytest_containers.model.errors import SpecError, hide_frames
from pytest_containers.model.limits import Rate as Rate
from pytest_containers.model.mounts import Bind as Bind
from pytest_containers.model.mounts import Mount as Mount
from pytest_containers.model.mounts import Tmpfs as Tmpfs
from pytest_containers.model.mounts import VolumeMount as VolumeMount
from pytest_containers.model.mounts import anchored, parse_mounts
from pytest_containers.model.mounts import normal_target as normal_target
from pytest_containers.model.security import absolute_profiles, seccomp_option

if TYPE_CHECKING:
    from pytest_containers.model.readiness import Wait

__tracebackhide__ = hide_frames

Protocol = Literal["tcp", "udp"]
RENAMED = {"rlimits": "ulimits", "shm_size_bytes": "shm_size"}
"""Older names of options, which still work."""
_ENV_NAME = re.compile(r"[^=\0]+\Z")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,62})\Z")


@dataclass(frozen=True, slots=True)
class Port:
    """A port that a container listens on.

    Attributes:
        number: The port in the container, 1 to 65535.
        protocol: ``"tcp"`` or ``"udp"``.
        host: A fixed port on 127.0.0.1 of the host, 0 for a free one; None chooses any reachable
            address.
    """

    number: int
    protocol: Protocol = "tcp"
    host: int | None = None

    def __post_init__(self) -> None:
        for label, number in (("port", self.number), ("host port", self.host)):
            least = 0 if label == "host port" else 1
            if number is None and least == 0:
                continue
            if (
                not isinstance(number, int)
                or isinstance(number, bool)
                or not least <= number < 65536
            ):
                raise SpecError(f"{label} {number!r} is not a whole number from {least} to 65535")
        if self.protocol not in ("tcp", "udp"):
            raise SpecError(f"port {self.number}: protocol {self.protocol!r} is not 'tcp' or 'udp'")

    @classmethod
    def parse(cls, value: int | str | Port) -> Port:
        """Parse ``8000``, ``"53/udp"`` or ``"18000:8000"`` (host port first, as in Docker)."""
        if isinstance(value, Port):
            return value
        if isinstance(value, int):
            return cls(value)
        if not isinstance(value, str):
            raise SpecError(f"port {value!r} is not usable; write 8000, '8000/udp' or '18000:8000'")
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
class ContainerSpec:
    """The description of a container, for any engine.

    Attributes:
        image: A reference (``"host:"``, ``"redis:7"``, ``"oci:/path"``) or an image object.
        command: Replaces the Cmd of the image; None keeps it.
        entrypoint: Replaces the Entrypoint of the image; None keeps it, ``()`` removes it.
        env: Variables to add to the environment of the image; reports never show their values.
        ports: Ports that tests may reach: ``8000``, ``"53/udp"``, ``"18000:8000"`` or `Port`.
        ready: The condition that makes the container ready (`wait`). None waits for the
            HEALTHCHECK of the image, else for all `ports` to listen, else only for the start.
        ready_timeout_s: The time limit of `ready`; None is the setting, else 60 s.
        user: ``"name"``, ``"1000"``, ``"name:group"``, ``"1000:1000"`` or ``":group"``.
        groups: Supplementary groups, names or numbers, besides those of ``/etc/group``.
        workdir: The working directory, which is made if necessary; None is that of the image.
        hostname: The host name; None is the name of the container. A name with a domain,
            ``"box.example.com"``, is known by its first part too.
        aliases: More host names of this container for other containers of the test.
        mounts: `Bind`, `Tmpfs` and `VolumeMount` objects, and bind mounts as text:
            ``"./data:/data:ro"``, relative to the file of the test or fixture. Mounts at targets
            higher in the tree are mounted first.
        host_ports: TCP ports of the host's 127.0.0.1 that the container reaches at
            ``host.containers.internal``.
        network: False gives the container a loopback device only.
        egress: True lets the container reach other machines, name servers included, through
            slirp4netns or pasta; None is the value of its scope, else the setting, else False.
        read_only: Make the root file system read-only; mounts stay writable.
        cap_add, cap_drop: Capabilities to add to the usual ones of Docker, or to drop of them:
            ``"SYS_PTRACE"``, ``"ALL"``. They hold in the user namespace of the run.
        privileged: Give all capabilities, and mask and protect no path of ``/proc`` and ``/sys``.
            The container never has more than the user namespace of the run: no devices of the
            host.
        no_new_privileges: Ignore setuid bits and the like.
        ulimits: Limits of each process: ``{"nofile": 1024}`` or ``{"nofile": (soft, hard)}``; -1
            (`resource.RLIM_INFINITY`) is unlimited.
        mem_limit: The memory limit of all processes, and of files in memory: ``"64m"`` or bytes.
        memswap_limit: The limit of memory and swap together; -1 is any amount of swap. None and 0
            are twice `mem_limit`, as in Docker, where the kernel counts swap.
        cpus: The time of processors to use: ``0.5`` is half of one.
        cpu_shares: The share of the processors' time where they are short; others have 1024.
        cpuset: The processors to run on: ``"0-2,4"``.
        pids_limit: The largest number of processes and threads. None and -1 are no limit, as in
            Docker.
        blkio_weight: 10 to 1000, the share of disks where they are short; it needs the BFQ
            scheduler.
        device_read_bps, device_write_bps: Bytes per second from and to disks of the host, past
            the page cache: ``[{"Path": "/dev/sda", "Rate": "10m"}]``.
        device_read_iops, device_write_iops: The same in operations per second.
        oom_score_adj: -1000 to 1000, the score for the kernel's choice of a process to kill when
            memory is short. None is 500 more than that of the test process.
        shm_size: The size of ``/dev/shm``: ``"64m"`` or bytes.
        security_opt: What filters the system calls of the container:
            ``["seccomp=PROFILE.json"]`` is a profile in Docker's format, relative to the file of
            the test or fixture; ``["seccomp=unconfined"]`` is no filter. The default is the
            setting, else Docker's default policy.
        init: Run an init as PID 1 that forwards signals and reaps orphans.
        tty: Give the program a terminal instead of pipes.
        scratch: The place of the writable layer: ``"tmpfs"``, ``"disk"``, or ``"auto"``: disk if
            `scratch_size_bytes` is more than half of the memory, or of `mem_limit`.
        scratch_size_bytes: Its size limit; None is half of the memory on tmpfs: of the machine, or
            of the memory limit of the cgroup that the tests run in.
        log_limit_bytes: The size limit of the log, which keeps the newest output.
        rlimits, shm_size_bytes: Older names of `ulimits` and `shm_size`, with a warning.
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
    mounts: Sequence[Mount | str] = ()
    host_ports: Sequence[int] = ()
    network: bool = True
    egress: bool | None = None
    cap_add: Sequence[str] = ()
    cap_drop: Sequence[str] = ()
    privileged: bool = False
    no_new_privileges: bool = False
    security_opt: Sequence[str] = ()
    read_only: bool = False
    ulimits: Mapping[str, int | tuple[int, int]] = field(default_factory=dict)
    mem_limit: int | str | None = None
    memswap_limit: int | str | None = None
    cpus: float | None = None
    cpu_shares: int | None = None
    cpuset: str | None = None
    pids_limit: int | None = None
    blkio_weight: int | None = None
    device_read_bps: Sequence[Rate] = ()
    device_write_bps: Sequence[Rate] = ()
    device_read_iops: Sequence[Rate] = ()
    device_write_iops: Sequence[Rate] = ()
    oom_score_adj: int | None = None
    init: bool = False
    tty: bool = False
    stop_signal: str | int | None = None
    shm_size: int | str = 64 << 20
    scratch: Literal["auto", "tmpfs", "disk"] = "auto"
    scratch_size_bytes: int | None = None
    log_limit_bytes: int = 16 << 20
    rlimits: InitVar[Mapping[str, int | tuple[int, int]] | None] = None
    shm_size_bytes: InitVar[int | None] = None

    def __post_init__(
        self, rlimits: Mapping[str, int | tuple[int, int]] | None, shm_size_bytes: int | None
    ) -> None:
        _take_older_names(self, {"rlimits": rlimits, "shm_size_bytes": shm_size_bytes})
        changed = [name for name in _CHECKED if getattr(self, name) is not _DEFAULTS[name]]
        _check_types(self, changed)
        object.__setattr__(self, "mounts", parse_mounts(self.mounts))
        if self.egress and not self.network:
            raise SpecError("egress=True needs a network; leave network=False out")
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
        if not _LIMITS.isdisjoint(changed):
            self._check_limits()
        seccomp_option(self.security_opt)

    def _check_limits(self) -> None:
        limits.check_limits(
            mem_limit=self.mem_limit, memswap_limit=self.memswap_limit, cpus=self.cpus,
            cpuset=self.cpuset, cpu_shares=self.cpu_shares, pids_limit=self.pids_limit,
            blkio_weight=self.blkio_weight,
            rates={name: getattr(self, name) for name in limits.RATES},
            oom_score_adj=self.oom_score_adj, shm_size=self.shm_size,
        )  # fmt: skip

    @property
    def parsed_ports(self) -> tuple[Port, ...]:
        """`ports` as `Port` objects."""
        return tuple(Port.parse(port) for port in self.ports)

    @property
    def parsed_mounts(self) -> tuple[Mount, ...]:
        """`mounts` as objects."""
        return cast("tuple[Mount, ...]", self.mounts)  # text was parsed when it was made

    @property
    def has_relative_sources(self) -> bool:
        """True if the source of a bind or a profile is relative; see `anchored`."""
        profiles = absolute_profiles(self.security_opt)
        return profiles != tuple(self.security_opt) or any(
            isinstance(mount, Bind) and not os.path.isabs(mount.source)
            for mount in self.parsed_mounts
        )

    def anchored(self, folder: Path) -> ContainerSpec:
        """Return the spec with relative sources of binds and profiles as paths below `folder`."""
        mounts, profiles = self.parsed_mounts, absolute_profiles(self.security_opt, folder)
        absolute = anchored(mounts, folder)
        if absolute is mounts and profiles == tuple(self.security_opt):
            return self
        return dataclasses.replace(self, mounts=absolute, security_opt=profiles)


def _take_older_names(spec: ContainerSpec, options: Mapping[str, object]) -> None:
    for name, value in options.items():
        if value is not None:
            warnings.warn(
                f"container: {name} is called {RENAMED[name]} now, as in Docker; the old name "
                "will go",
                DeprecationWarning,
                stacklevel=4,  # the caller of ContainerSpec
            )
            object.__setattr__(spec, RENAMED[name], value)


def _check_types(spec: ContainerSpec, changed: Sequence[str]) -> None:
    """Refuse values of a wrong type.

    Args:
        spec: The spec.
        changed: Its fields that are not as they are by default.
    """
    for name in changed:
        check("container", **{name: getattr(spec, name)})
    if not isinstance(spec.network, bool):
        raise SpecError(
            f"container: network={spec.network!r} is not usable; it must be True or False (a "
            "network object is an argument of Engine.run)",
            option="network",
        )
    ulimits: Mapping[Any, Any] = spec.ulimits
    for name, value in ulimits.items():
        numbers = value if isinstance(value, tuple) else (value, value)
        if not _is_text(name) or len(numbers) != 2 or not all(map(_is_number, numbers)):
            raise SpecError(
                f"resource limit {name!r}: {value!r} is not usable; it must be a number, or two "
                "as (soft, hard)",
                option="ulimits",
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    # Callers without a type checker pass numbers.
    return isinstance(value, str)


def signal_number(value: str | int | None, default: str = "TERM") -> int:
    """Return the number of a signal: ``"HUP"``, ``"SIGHUP"``, ``"SIGRTMIN+3"``, ``"1"`` or ``1``.

    Raises:
        SpecError: The signal does not exist.
    """
    signal_name = str(default if value is None else value).upper().removeprefix("SIG")
    match = re.fullmatch(r"([^+-]*)([+-]?)(.*)", signal_name, re.DOTALL)
    name, sign, offset = match.groups()  # type: ignore[union-attr]  # any string matches
    try:
        number = int(name) if name.isdecimal() and not sign else int(signal.Signals[f"SIG{name}"])
        number += int(f"{sign}{offset}") if sign else 0
    except (KeyError, ValueError):
        number = 0
    if not 0 < number <= signal.SIGRTMAX:
        raise SpecError(f"signal {value!r} does not exist; see signal(7)")
    return number


_FIELDS = frozenset(field.name for field in dataclasses.fields(ContainerSpec)) | RENAMED.keys()
_CHECKED = tuple(
    field.name
    for field in dataclasses.fields(ContainerSpec)
    if field.name not in ("image", "network")
)
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(ContainerSpec)}
_LIMITS = frozenset(
    (
        "mem_limit", "memswap_limit", "cpus", "cpuset", "cpu_shares", "pids_limit", "blkio_weight",
        "oom_score_adj", "shm_size", *limits.RATES,
    )
)  # fmt: skip


def spec_of(
    image: Any,
    command: Sequence[str] | str | None,
    options: Mapping[str, Any],
) -> ContainerSpec:
    """Return the spec for an image and options; a spec as `image` is changed by the options.

    Raises:
        SpecError: A name is not an option of containers.
    """
    for name in options:
        if name not in _FIELDS:
            raise SpecError(
                f"{name!r} is not an option of a container; there are {', '.join(sorted(_FIELDS))}"
            )
    if isinstance(image, ContainerSpec):
        changes = dict(options)
        if command is not None:
            changes["command"] = command
        return dataclasses.replace(image, **changes) if changes else image
    return ContainerSpec(image, command, **options)
