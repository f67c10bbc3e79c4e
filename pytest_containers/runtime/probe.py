"""What this machine can do, tried out; and what a refusal means.

`capabilities` is for people (``pytest-containers doctor``) and for tests that skip; a run itself
tries what it needs and, when it is refused, lets `explain` say why.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

from pytest_containers.linux import mount, process
from pytest_containers.linux.numbers import MACHINE, SUPPORTED
from pytest_containers.runtime.launcher import identity

LEAST_KERNEL = (5, 12)
_APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
_DEBIAN = "/proc/sys/kernel/unprivileged_userns_clone"
_MAX = "/proc/sys/user/max_user_namespaces"
_IN_CONTAINER = ("/.dockerenv", "/run/.containerenv")


class Capability(NamedTuple):
    """Something that a machine may or may not offer.

    Attributes:
        detail: What was found.
        fallback: What happens without it.
        fix: How to get it: a sentence.
        commands: The same as commands for root.
    """

    name: str
    present: bool
    required: bool
    detail: str
    fallback: str = ""
    fix: str = ""
    commands: tuple[str, ...] = ()


def capabilities() -> list[Capability]:
    """Everything, tried in children that leave nothing behind."""
    found = [_platform(), _kernel()]
    if not all(one.present for one in found):
        return found
    found += [_namespaces(), _mounts()]
    if all(one.present for one in found):
        found += [_ids(), _tmpfs_xattrs(), _host_link(), _stub()]
    return found


def _platform() -> Capability:
    linux = sys.platform == "linux"
    present = linux and MACHINE in SUPPORTED
    detail = f"{sys.platform} on {MACHINE}"
    fix = f"use Linux on {' or '.join(SUPPORTED)}"
    return Capability("platform", present, True, detail, fix=fix)


def kernel_version() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    major, minor, *_ = os.uname().release.split(".")
    return int(major), int("".join(letter for letter in minor if letter.isdecimal()) or 0)


def _kernel() -> Capability:
    version = kernel_version()
    least = ".".join(map(str, LEAST_KERNEL))
    return Capability(
        "kernel", version >= LEAST_KERNEL, True, f"Linux {os.uname().release}",
        fix=f"use Linux {least} or newer",
    )  # fmt: skip


def _namespaces() -> Capability:
    error = _try(lambda: None)
    detail = "may be made" if error is None else explain("make user namespaces", *error)
    return Capability("user namespaces", error is None, True, detail, commands=_userns_commands())


def _mounts() -> Capability:
    error = _try(_mount_all)
    detail = "permitted" if error is None else explain("mount in a user namespace", *error)
    return Capability("mounts", error is None, True, detail, commands=_userns_commands())


def _mount_all() -> None:
    for kind in ("proc", "sysfs", "tmpfs"):
        os.close(mount.new_mount(kind))


def _userns_commands() -> tuple[str, ...]:
    found = []
    if _read(_APPARMOR) == "1":
        found.append("sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
    if _read(_DEBIAN) == "0":
        found.append("sysctl -w kernel.unprivileged_userns_clone=1")
    if _read(_MAX) == "0":
        found.append("sysctl -w user.max_user_namespaces=28633")
    return tuple(found)


def _ids() -> Capability:
    chosen = identity.choose()
    name = _user()
    commands: list[str] = []
    if chosen.mode == "single":
        if identity.find("newuidmap") is None:
            commands.append("apt-get install -y uidmap")
        if identity.subordinate("/etc/subuid", os.geteuid()) is None:
            start = _free_range()
            commands.append(f"usermod --add-subuids {start} --add-subgids {start} {name}")
    detail = {
        "root": "container users are high ids of the host",
        "range": "container root is you; other users are your subordinate ids",
        "single": chosen.reason,
    }[chosen.mode]
    return Capability(
        "user ids", chosen.mode != "single", False, detail,
        fallback="containers have one user, root; programs that need another cannot run",
        fix="give this account subordinate ids", commands=tuple(commands),
    )  # fmt: skip


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _free_range() -> str:
    """Subordinate ids that nobody has: after the last that are given."""
    end = identity.FIXED_START
    for path in ("/etc/subuid", "/etc/subgid"):
        for line in (_read(path) or "").splitlines():
            fields = line.split(":")
            if len(fields) == 3 and fields[1].isdecimal() and fields[2].isdecimal():
                end = max(end, int(fields[1]) + int(fields[2]))
    return f"{end}-{end + identity.RANGE_SIZE - 1}"


def _tmpfs_xattrs() -> Capability:
    error = _try(_set_xattr)
    return Capability(
        "memory scratch", error is None, False,
        "tmpfs has user xattrs" if error is None else "tmpfs has no user xattrs",
        fallback="writable layers are on disk", fix="use Linux 6.6 or newer",
    )  # fmt: skip


def _set_xattr() -> None:
    # The mount's own descriptor is a path, which takes no xattrs.
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=mount.new_mount("tmpfs"))
    os.setxattr(fd, "user.pytest_containers", b"1")


def _host_link() -> Capability:
    present = identity.choose().mode == "root"
    return Capability(
        "direct addresses", present, False,
        "tests reach containers by their addresses" if present else "needs root",
        fallback="ports are forwarded from 127.0.0.1",
    )  # fmt: skip


def _stub() -> Capability:
    from pytest_containers.linux.spawn import stub_available

    present = stub_available()
    return Capability(
        "machine code", present, False, "works" if present else "is not permitted",
        fallback="starts are made by forks of Python, about 4 ms slower",
    )  # fmt: skip


def _try(work: Callable[[], None]) -> tuple[int, str] | None:
    """Run `work` in a child with namespaces of its own; None, or errno and what was refused."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    go, ready = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        code, what = 0, ""
        try:
            os.close(ready)
            flags = process.CLONE_NEWUSER | process.CLONE_NEWNS | process.CLONE_NEWNET
            process.unshare(flags | process.CLONE_NEWPID | process.CLONE_NEWIPC)
            os.write(writer, b"u")
            os.read(go, 1)
            inner = os.fork()  # a new pid namespace is that of children
            if inner == 0:
                code, what = _errors_of(work)
                os.write(writer, f"{code}\0{what}".encode())
                os._exit(0)
            os.waitpid(inner, 0)
        except OSError as error:
            os.write(writer, f"u{error.errno}\0unshare".encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.close(go)
    try:
        said = os.read(reader, 1)
        if said == b"u":
            _map_root(pid)
        os.close(ready)
        with open(reader, "rb") as file:
            said = file.read()
    finally:
        os.waitpid(pid, 0)
    number, _, refused = said.lstrip(b"u").partition(b"\0")
    return None if int(number or 0) == 0 else (int(number), refused.decode())


def _errors_of(work: Callable[[], None]) -> tuple[int, str]:
    try:
        work()
    except OSError as error:
        return error.errno or errno.EIO, str(error.filename or "")
    return 0, ""


def _map_root(pid: int) -> None:
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {os.geteuid()} 1\n"),
        ("gid_map", f"0 {os.getegid()} 1\n"),
    ):
        try:
            with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
                file.write(text)
        except OSError:
            continue  # the child has ended, or what it tries will tell


def explain(doing: str, code: int, what: str = "") -> str:
    """What it means that the kernel refused `doing`, and the way out.

    Args:
        code: The errno.
        what: What exactly was refused, if known.
    """
    refused = f"{doing}: {what}: {os.strerror(code)}" if what else f"{doing}: {os.strerror(code)}"
    if kernel_version() < LEAST_KERNEL:
        least = ".".join(map(str, LEAST_KERNEL))
        return f"{refused}. This is Linux {os.uname().release}; containers need {least} or newer"
    if code == errno.ENOSYS:
        return f"{refused}. The kernel, or a filter of system calls around this process, lacks it"
    return f"{refused}. {_reason(code)}"


def _reason(code: int) -> str:
    if _read(_DEBIAN) == "0" and os.geteuid() != 0:
        return (
            "User namespaces are switched off for users here: "
            "sysctl -w kernel.unprivileged_userns_clone=1"
        )
    if _read(_MAX) == "0" or code == errno.ENOSPC:
        return (
            "No more user namespaces are permitted: sysctl -w user.max_user_namespaces=28633, "
            "or end other programs that hold them"
        )
    if code == errno.EUSERS:
        return "Namespaces are nested too deeply (32 levels): run the tests further outside"
    if _read(_APPARMOR) == "1" and os.geteuid() != 0:
        return (
            "AppArmor restricts user namespaces of ordinary users (Ubuntu 23.10 and newer): "
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or run the tests as root"
        )
    if any(os.path.exists(path) for path in _IN_CONTAINER):
        return (
            "This seems to be an unprivileged container: start it with "
            "`--security-opt seccomp=unconfined --security-opt systempaths=unconfined "
            "--security-opt apparmor=unconfined`, or with `--privileged`"
        )
    return (
        "Something around this process forbids it: a container without permission for "
        "namespaces, a seccomp filter, or a security module"
    )


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None
