"""The plan of a start: a container's first process, from clone3 to execve."""

from __future__ import annotations

from collections.abc import Sequence

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
from pytest_containers.runtime.messages import FaultError
from pytest_containers.runtime.oci import Config
from pytest_containers.runtime.plan import mounts
from pytest_containers.runtime.plan.credentials import Machine, add_program
from pytest_containers.runtime.plan.users import User

FLAGS = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
"""Namespaces that a container gets at its birth; a network namespace is joined, or made too."""

_SYSCTLS = ("net.", "kernel.msg", "kernel.shm", "kernel.sem", "fs.mqueue.")


def compile_start(
    config: Config,
    user: User,
    image_mounts: Sequence[tuple[str, str]],
    directories: Sequence[bool],
    machine: Machine,
    root_fd: int,
    *,
    network: bool,
) -> Program:
    """The program of a container's first process, with holes.

    Holes: ``argv``; ``rootfs``, ``netns`` (with a network), ``etc:hosts``, ``etc:hostname``,
    ``etc:resolv.conf``, ``mount:N``, ``stdin``, ``stdout``, ``stderr``, descriptors all; and
    ``hostname`` with its length, ``hostname_bytes``.

    Args:
        config: What to start.
        user: Whom it names.
        image_mounts: ``(path below /shown, target)``.
        directories: For each of the config's mounts whether its source is a directory.
        machine: What there is on this machine.
        root_fd: A pristine root of the same image, to look at.
        network: Whether it joins a network namespace that was made ahead.

    Raises:
        FaultError: The image or the config cannot be started from.
    """
    program = Program()
    add_setup(program, config, image_mounts, directories, machine, root_fd, network=network)
    add_program(program, config.process, user, machine)
    return program


def add_setup(
    program: Program,
    config: Config,
    image_mounts: Sequence[tuple[str, str]],
    directories: Sequence[bool],
    machine: Machine,
    root_fd: int,
    *,
    network: bool,
) -> None:
    """Append everything up to the container's own root (arguments as `compile_start`)."""
    # A cgroup is joined here, before anything costs memory.
    program.add("new session", NR["setsid"])
    if network:
        program.add("join the network", NR["setns"], Param("netns"), CLONE_NEWNET)
    elif not machine.host_network:
        _add_loopback(program)
    program.add(
        "attach the root file system",
        NR["move_mount"], Param("rootfs"), b"", AT_FDCWD, b"/rootfs", MOVE_MOUNT_F_EMPTY_PATH,
    )  # fmt: skip
    program.add("enter the root file system", NR["chdir"], b"/rootfs")
    mounts.add_image_mounts(program, image_mounts)
    mounts.add_kernel_mounts(
        program, config.mounts, machine, root_fd,
        terminal=bool(config.process.get("terminal")),
    )  # fmt: skip
    _add_sysctls(program, config)
    linux = config.linux
    mounts.add_masks(
        program, linux.get("maskedPaths") or (), linux.get("readonlyPaths") or (), machine
    )
    mounts.add_pivot(program)
    mounts.add_own_files(program, root_fd)
    mounts.add_user_mounts(program, config.mounts, directories)
    if config.readonly_root:
        mounts.add_readonly_root(program)
    # A parameter, since it may be another for each container of a plan.
    program.add("set hostname", NR["sethostname"], Param("hostname"), Param("hostname_bytes"))
    domain = str(config.raw.get("domainname") or "").encode()
    if domain:
        program.add(("set domainname", domain), NR["setdomainname"], domain, len(domain))


def _add_loopback(program: Program) -> None:
    """Bring up the one device of an empty network namespace (netdevice(7))."""
    siocsifflags, iff_up = 0x8914, 1
    request = b"lo".ljust(16, b"\0") + iff_up.to_bytes(2, "little") + bytes(22)
    fd = program.add("open a socket", NR["socket"], 2, 2 | 0o2000000, 0)
    program.add("bring up loopback", NR["ioctl"], Result(fd), siocsifflags, request)


def _add_sysctls(program: Program, config: Config) -> None:
    for name, value in (config.linux.get("sysctl") or {}).items():
        if not name.startswith(_SYSCTLS) or "/" in name or ".." in name:
            raise FaultError(
                "SpecError", f"sysctl {name!r} is not one of a container's own namespaces"
            )
        path = f"proc/sys/{name.replace('.', '/')}".encode()
        data = str(value).encode()
        fd = program.add(("sysctl", name), NR["openat"], AT_FDCWD, path, 1 | 0o2000000, 0)
        program.add(("sysctl", name, "=", value), NR["write"], Result(fd), data, len(data))
        program.add(("sysctl", name), NR["close"], Result(fd))


def clone_flags(*, network: bool) -> int:
    """The flags of clone3 for a container."""
    return FLAGS if network else FLAGS | CLONE_NEWNET
