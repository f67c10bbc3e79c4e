"""The plan of a start: a container's first process, from clone3 to execve."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from pytest_containers.linux.files import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS
from pytest_containers.linux.mount import AT_FDCWD, MOVE_MOUNT_F_EMPTY_PATH
from pytest_containers.linux.numbers import NR
from pytest_containers.linux.process import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
)
from pytest_containers.linux.program import Param, Program, Result
from pytest_containers.linux.seccomp import Filter
from pytest_containers.runtime.plan import masks, mounts, workdir
from pytest_containers.runtime.plan.become_user import (
    Machine,
    add_program,
    add_streams,
    has_second_program,
    join_cgroups,
)
from pytest_containers.runtime.plan.masks import ChosenMask
from pytest_containers.runtime.plan.oci import Config
from pytest_containers.runtime.plan.users import ProcessUser
from pytest_containers.runtime.wire.faults import FaultError

_FLAGS = {
    "network": CLONE_NEWNET, "ipc": CLONE_NEWIPC, "uts": CLONE_NEWUTS, "cgroup": CLONE_NEWCGROUP,
}  # fmt: skip
"""Namespaces beside those of mounts and processes, by their names in a config."""

_SYSCTLS = ("net.", "kernel.msg", "kernel.shm", "kernel.sem", "fs.mqueue.")


class StartFacts(NamedTuple):
    """The properties of one start that its plan depends on, beside config and machine.

    Attributes:
        directories: For each of the config's mounts, True if its source is a directory.
        masks: Masked paths that are not the usual ones.
        network: True if it joins a network namespace that was made ahead.
        bundle: True for an OCI bundle, which gets no files of the run's own and is held before
            its execve.
        own_cgroup: True if it has cgroups of its own, where its cgroup namespace has to begin.
        tasks: How many of them it joins by itself.
    """

    directories: tuple[bool, ...]
    masks: tuple[ChosenMask, ...]
    network: bool
    bundle: bool
    own_cgroup: bool = False
    tasks: int = 0


def compile_start(
    config: Config,
    user: ProcessUser,
    image_mounts: Sequence[tuple[str, str]],
    image_devices: Sequence[tuple[str, str]],
    facts: StartFacts,
    machine: Machine,
    root_fd: int,
    syscall_filter: Filter | None,
) -> Program:
    """Compile the program of a container's first process, with holes.

    Holes: ``argv`` or ``start``; ``rootfs``, ``netns`` (with a network), ``etc:hosts``,
    ``etc:hostname``, ``etc:resolv.conf`` (not of a bundle), ``mount:N``, ``ns:KIND`` (of namespaces
    that are given by path), ``tasks:N`` (of cgroups), ``hold`` (of a bundle), ``stdin``,
    ``stdout``, ``stderr``, descriptors all; ``hostname`` with its length, ``hostname_bytes``; and
    ``tmpfs:N``, options.

    Args:
        config: The container's.
        user: The user that it names, resolved.
        image_mounts: ``(path below /shown, target)``.
        image_devices: ``(path, name in /dev)``.
        facts: The start.
        machine: The machine to run on.
        root_fd: A pristine root of the same image, to look at.
        syscall_filter: The filter of its system calls, or None.

    Raises:
        FaultError: The image or the config cannot be started from.
    """
    program = Program()
    add_setup(program, config, image_mounts, image_devices, facts, machine, root_fd)
    second = has_second_program(user, machine)
    add_streams(program, config.process, held=facts.bundle, second=second)
    finish_root(program, config)
    add_program(program, config.process, user, machine, syscall_filter, held=facts.bundle)
    return program


def add_setup(
    program: Program,
    config: Config,
    image_mounts: Sequence[tuple[str, str]],
    image_devices: Sequence[tuple[str, str]],
    facts: StartFacts,
    machine: Machine,
    root_fd: int,
) -> None:
    """Append everything up to the container's own root (arguments as `compile_start`).

    `finish_root` follows, once the child has no descriptor any more that leads elsewhere.
    """
    join_cgroups(program, facts.tasks)  # before anything costs memory
    program.add("new session", NR["setsid"])
    _add_namespaces(program, config, facts, machine)
    program.add(
        "attach the root file system",
        NR["move_mount"], Param("rootfs"), b"", AT_FDCWD, b"/rootfs", MOVE_MOUNT_F_EMPTY_PATH,
    )  # fmt: skip
    sources = masks.open_sources(program, facts.masks)
    program.add("enter the root file system", NR["chdir"], b"/rootfs")
    mounts.add_image_mounts(program, image_mounts)
    mounts.add_kernel_mounts(
        program, config.mounts, machine, root_fd,
        terminal=bool(config.process.get("terminal")),
    )  # fmt: skip
    _add_sysctls(program, config)
    masks.add_usual_masks(program, config, machine)
    mounts.add_pivot(program)
    if not facts.bundle:
        mounts.add_own_files(program, root_fd, read_only=config.readonly_root)
    mounts.add_image_devices(program, image_devices, root_fd)
    mounts.add_user_mounts(program, config.mounts, facts.directories, root_fd, bundle=facts.bundle)
    masks.add_chosen_masks(program, config, facts.masks, sources)
    _add_names(program, config, facts)


def _add_names(program: Program, config: Config, facts: StartFacts) -> None:
    # A bundle without a name keeps that of the host.
    if config.raw.get("hostname") or not facts.bundle:
        # A parameter, since it may be another for each container of a plan.
        program.add("set hostname", NR["sethostname"], Param("hostname"), Param("hostname_bytes"))
    domain = str(config.raw.get("domainname") or "").encode()
    if domain:
        program.add(("set domainname", domain), NR["setdomainname"], domain, len(domain))


def finish_root(program: Program, config: Config) -> None:
    """Append the last changes to the root: the working directory, and then read-only."""
    workdir.add_make(program, config.process)
    if config.readonly_root:
        mounts.add_readonly_root(program)


def _add_namespaces(program: Program, config: Config, facts: StartFacts, machine: Machine) -> None:
    """Append what joins namespaces, and makes that of cgroups; `clone_flags` has the others."""
    paths = config.namespaces
    if not paths.get("cgroup") and (facts.own_cgroup or "cgroup" in paths):
        program.add("new cgroup namespace", NR["unshare"], CLONE_NEWCGROUP)
    for kind in config.joined_namespaces:
        program.add(
            ("join namespace", kind, paths[kind]), NR["setns"], Param(f"ns:{kind}"), _FLAGS[kind]
        )
    if facts.network:
        program.add("join the network", NR["setns"], Param("netns"), CLONE_NEWNET)
    elif not machine.host_network and not paths.get("network"):
        _add_loopback(program)


def _add_loopback(program: Program) -> None:
    """Bring up the one device of an empty network namespace (netdevice(7))."""
    siocsifflags, iff_up = 0x8914, 1
    request = b"lo".ljust(16, b"\0") + iff_up.to_bytes(2, "little") + bytes(22)
    fd = program.add("open a socket", NR["socket"], 2, 2 | 0o2000000, 0)
    program.add("bring up loopback", NR["ioctl"], Result(fd), siocsifflags, request)


def _add_sysctls(program: Program, config: Config) -> None:
    sysctls = config.linux.get("sysctl") or {}
    if sysctls and not any(entry.get("type") == "proc" for entry in config.mounts):
        raise FaultError("SpecError", "OCI config linux.sysctl: it needs a mount of type 'proc'")
    # No link of the image on the way: it could lead out, as the old root is still in reach.
    how = struct.pack("=QQQ", os.O_WRONLY | os.O_CLOEXEC, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    for name, value in sysctls.items():
        if not name.startswith(_SYSCTLS) or "/" in name or ".." in name:
            raise FaultError(
                "SpecError", f"sysctl {name!r} is not one of a container's own namespaces"
            )
        path = f"proc/sys/{name.replace('.', '/')}".encode()
        data = str(value).encode()
        fd = program.add(("sysctl", name), NR["openat2"], AT_FDCWD, path, how, len(how))
        program.add(("sysctl", name, "=", value), NR["write"], Result(fd), data, len(data))
        program.add(("sysctl", name), NR["close"], Result(fd))


def clone_flags(config: Config, *, network: bool) -> int:
    """Return the flags of clone3 for a container.

    Args:
        config: The container's.
        network: True if it is in a network namespace that was made before.
    """
    flags = CLONE_NEWNS | CLONE_NEWPID
    for kind, path in config.namespaces.items():
        joined_later = kind == "cgroup" or (kind == "network" and network)
        if kind in _FLAGS and not path and not joined_later:
            flags |= _FLAGS[kind]
    return flags
