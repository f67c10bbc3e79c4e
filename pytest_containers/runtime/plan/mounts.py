"""The mounts of a container, as steps.

Two kinds of targets: those that every container has (below ``/proc``, ``/dev``, ``/sys``) are
mounted while the new root is the working directory, on names that were verified not to be
symbolic links (CVE-2019-19921); those that the caller chose are mounted after pivot_root, when
the kernel itself resolves them inside the new root.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_containers.linux.files import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    open_in_root,
    openat2,
)
from pytest_containers.linux.mount import (
    AT_FDCWD,
    AT_RECURSIVE,
    MNT_DETACH,
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH,
    MOVE_MOUNT_T_SYMLINKS,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
)
from pytest_containers.linux.numbers import NR
from pytest_containers.linux.program import Param, Program, Result
from pytest_containers.model.sizes import parse_size
from pytest_containers.runtime.plan import mount_options
from pytest_containers.runtime.plan.become_user import Machine
from pytest_containers.runtime.plan.targets import check_target, resolve_target
from pytest_containers.runtime.wire.faults import FaultError

_EEXIST, _ENOENT, _ENOTDIR = 17, 2, 20
_OF_ACCESS = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
_KERNEL_PLACES = ("/proc", "/dev", "/sys")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {
    "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
}  # fmt: skip
_KERNEL_TARGETS = {
    "proc": ("/proc",), "sysfs": ("/sys",), "cgroup": ("/sys/fs/cgroup",),
    "cgroup2": ("/sys/fs/cgroup",), "tmpfs": ("/dev", "/dev/"), "devpts": ("/dev/pts",),
    "mqueue": ("/dev/mqueue",),
}  # fmt: skip
"""Places for each type below the kernel's directories; ``/dev/`` is anywhere in it."""
OWN_FILES = ("hosts", "hostname", "resolv.conf")
"""Files below /etc that the runtime writes, one of each per container."""


PROC_FILES = (
    "/proc/cpuinfo", "/proc/diskstats", "/proc/loadavg", "/proc/meminfo", "/proc/slabinfo",
    "/proc/stat", "/proc/swaps", "/proc/sys/crypto/fips_enabled", "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
)  # fmt: skip
"""All of ``/proc`` that may be mounted on: what tells programs of their machine, as in runc."""

HANDED = ("bind", "volume", "image")
"""Kinds of mounts that are made before, and handed to the plan as descriptors."""


def is_kernel_place(destination: str) -> bool:
    """True if a mount belongs to ``/proc``, ``/dev`` or ``/sys``."""
    return any(
        destination == place or destination.startswith(f"{place}/") for place in _KERNEL_PLACES
    )


def options(entry: Mapping[str, Any]) -> tuple[int, str]:
    """Split an OCI mount's options into flags and file-system data."""
    flags, data = 0, []
    for option in entry.get("options") or ():
        option = mount_options.RECURSIVE.get(option, option)  # nothing is mounted below yet
        if option in mount_options.FLAGS:
            flags |= mount_options.FLAGS[option]
        elif option != "newinstance":  # the only way since Linux 4.7
            data.append(option)
    return flags, ",".join(data)


def with_size(data: str, most_bytes: int) -> str:
    """Give options of a tmpfs a size of `most_bytes`, unless they have a smaller one.

    0 changes nothing.
    """
    parts = [part for part in data.split(",") if part]
    sizes = [part for part in parts if part.startswith("size=")]
    if not most_bytes or any(_size_bytes(size[5:]) <= most_bytes for size in sizes):
        return data
    return ",".join([*(part for part in parts if part not in sizes), f"size={most_bytes}"])


def _size_bytes(size: str) -> int:
    try:
        return parse_size(size)
    except ValueError:  # a percentage, or nothing that the kernel takes
        return 0


def bind_attributes(options: Sequence[str]) -> int:
    """Return MOUNT_ATTR_RDONLY for a bind that is read-only, for all mounts in its tree."""
    return MOUNT_ATTR_RDONLY if "ro" in options or "rro" in options else 0


def _source(entry: Mapping[str, Any]) -> bytes:
    """Return the source that mountinfo shows for a file system that has none."""
    source: str = entry.get("source") or entry["type"]
    return source.encode()


def add_kernel_mounts(
    program: Program,
    entries: Sequence[Mapping[str, Any]],
    machine: Machine,
    root_fd: int,
    *,
    terminal: bool,
) -> None:
    """Append the mounts below ``/proc``, ``/dev`` and ``/sys``, in order.

    With `terminal`, the devpts is one that was made before (parameter ``devpts``): the
    container's terminal is in it.
    """
    seen: set[str] = set()
    for number, entry in enumerate(entries):
        path, kind = entry["destination"], entry.get("type", "bind")
        if kind == "bind" and path == "/sys":
            _add_folder(program, "sys", root_fd)
            _add_move(
                program, ("bind mount", entry["source"], "on", path), f"mount:{number}", "sys"
            )
            continue
        if not is_kernel_place(path) or kind in HANDED:
            continue
        allowed = _KERNEL_TARGETS.get(kind, ())
        if path in seen or not (
            path in allowed or (path.startswith("/dev/") and "/dev/" in allowed)
        ):
            check_target(path, path)
            raise FaultError("SpecError", f"mount target {path!r}: no {kind} may be mounted there")
        seen.add(path)
        flags, data = options(entry)
        relative = path.lstrip("/")
        if kind in ("cgroup", "cgroup2"):
            if not machine.cgroup2:
                continue
            kind = "cgroup2"
        if relative in ("proc", "sys", "dev"):
            _add_folder(program, relative, root_fd)
        elif relative.startswith("dev/") and "/dev" in seen:
            program.add(("make", path), NR["mkdirat"], AT_FDCWD, relative.encode(), 0o755)
        elif relative.startswith("dev/"):
            _add_folder(program, "dev", root_fd)
            _add_folder(program, relative, root_fd)
        if (kind == "sysfs" and not machine.own_sys) or (kind == "proc" and not machine.own_proc):
            _add_run_own(program, path, flags)
            continue
        if kind == "devpts" and terminal:
            _add_move(program, ("mount devpts on", path), "devpts", relative)
            if "/dev" in seen:  # else it is the image's, with whatever links it has
                _add_console(program)
            continue
        if kind == "devpts" and not machine.own_ids:
            data = ",".join(part for part in data.split(",") if not part.startswith("gid="))
        if kind == "tmpfs":  # /dev and /dev/shm may take an eighth of the run's memory each
            data = with_size(data, machine.tmpfs_bytes // 4)
        program.add(
            ("mount", kind, "on", path),
            NR["mount"], _source(entry), relative.encode(), kind.encode(), flags,
            data.encode() or None,
        )  # fmt: skip
        if relative == "dev":
            _add_devices(program)
    if "/dev" not in seen:
        _add_folder(program, "dev", root_fd)
        _remove_devices(program)
        _add_devices(program)


def _add_run_own(program: Program, path: str, flags: int) -> None:
    """Append the mount of the run's own ``/proc`` or ``/sys``, for want of another."""
    source, target = path.encode(), path[1:].encode()
    program.add(("show", path), NR["mount"], source, target, None, MS_BIND | MS_REC, None)
    # MOUNT_ATTR_* of these are the MS_* of mount(2).
    attributes = struct.pack("=4Q", flags & _OF_ACCESS, 0, 0, 0)
    program.add(
        ("protect", path), NR["mount_setattr"], AT_FDCWD, target, AT_RECURSIVE, attributes,
        len(attributes),
    )  # fmt: skip


def _remove_devices(program: Program) -> None:
    """Append the removal of what a root file system has in the places of devices."""
    for name in (*_DEVICES, *_LINKS):
        program.add(
            ("replace device", name), NR["unlinkat"], AT_FDCWD, f"dev/{name}".encode(), 0,
            ignore=(_ENOENT,),
        )  # fmt: skip


def _add_folder(program: Program, relative: str, root_fd: int) -> None:
    try:
        fd = openat2(
            root_fd, relative, os.O_PATH | os.O_DIRECTORY,
            resolve=RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH,
        )  # fmt: skip
        os.close(fd)
    except FileNotFoundError:
        # It is there when the container is started again; nobody inside can replace a mount point.
        program.add(
            ("make", relative), NR["mkdirat"], AT_FDCWD, relative.encode(), 0o755,
            ignore=(_EEXIST,),
        )  # fmt: skip
    except OSError:
        raise FaultError(
            "ImageError", f"/{relative} of the image is not a directory: it cannot be mounted on"
        ) from None


def _add_devices(program: Program) -> None:
    for name in _DEVICES:
        path = f"dev/{name}".encode()
        program.add(("make", path), NR["mknodat"], AT_FDCWD, path, stat.S_IFREG | 0o666, 0)
        program.add(
            ("device", name), NR["mount"], b"/" + path, path, None, MS_BIND, None
        )  # fmt: skip
    for name, target in _LINKS.items():
        program.add(
            ("link", name), NR["symlinkat"], target.encode(), AT_FDCWD, f"dev/{name}".encode()
        )


def _add_console(program: Program) -> None:
    """Append ``/dev/console``: the container's terminal, the first one of its devpts."""
    console = b"dev/console"
    program.add("make dev/console", NR["mknodat"], AT_FDCWD, console, stat.S_IFREG | 0o600, 0)
    program.add("device console", NR["mount"], b"dev/pts/0", console, None, MS_BIND, None)


def add_image_mounts(program: Program, mounts: Sequence[tuple[str, str]]) -> None:
    """Append the read-only trees of an image. Its layers have the targets; both are our own."""
    for source, target in mounts:
        program.add(
            ("show", target),
            NR["mount"], source.encode(), target.lstrip("/").encode(), None, MS_BIND, None,
        )  # fmt: skip


def add_image_devices(program: Program, devices: Sequence[tuple[str, str]], root_fd: int) -> None:
    """Append the devices that an image has outside of ``/dev``: mounts of the container's own.

    Where its layers have a device, there is a socket, unless a layer above put something else
    there. A container that is started again may have moved a directory; then it goes without.
    """
    for path, name in devices:
        if _is_socket(root_fd, path):
            program.add(
                ("device", path),
                NR["mount"], f"/dev/{name}".encode(), f"/{path}".encode(), None, MS_BIND, None,
                ignore=(_ENOENT, _ENOTDIR),
            )  # fmt: skip


def _is_socket(root_fd: int, path: str) -> bool:
    try:
        fd = openat2(
            root_fd, path, os.O_PATH | os.O_NOFOLLOW,
            resolve=RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH,
        )  # fmt: skip
    except OSError:  # a layer above removed it, or put a link on the way
        return False
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def add_pivot(program: Program) -> None:
    """Append the change of root, after which no path leads to the old one."""
    program.add("pivot_root", NR["pivot_root"], b".", b".")
    program.add("leave the old root", NR["umount2"], b".", MNT_DETACH)
    program.add("enter the root", NR["chdir"], b"/")


def add_own_files(program: Program, root_fd: int, *, read_only: bool) -> None:
    """Append the container's own ``/etc/hosts`` and so on (parameters ``etc:NAME``)."""
    program.add(("make", "/etc"), NR["mkdirat"], AT_FDCWD, b"/etc", 0o755, ignore=(_EEXIST,))
    etc = _add_open(program, "/etc", os.O_DIRECTORY)
    for name in OWN_FILES:
        _ensure_file(program, etc, name, root_fd)
        program.add(
            ("mount", f"/etc/{name}"), NR["move_mount"], Param(f"etc:{name}"), b"",
            etc, name.encode(), MOVE_MOUNT_F_EMPTY_PATH,
        )  # fmt: skip
        if read_only:
            flags, path = MS_BIND | MS_REMOUNT | MS_RDONLY, f"/etc/{name}"
            program.add(("read-only", path), NR["mount"], None, path.encode(), None, flags, None)


def _add_open(program: Program, path: str, flags: int = 0) -> Result:
    """Append the opening of a path in the container's root; links that the image has are followed.

    Never one to ``/proc/self/fd/N``, though: descriptors are open that lead out of the container
    (as in CVE-2024-21626).
    """
    how = struct.pack("=QQQ", flags | os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_NO_MAGICLINKS)
    step = program.add(("open", path), NR["openat2"], AT_FDCWD, path.encode(), how, len(how))
    return Result(step)


def _ensure_file(program: Program, etc: Result, name: str, root_fd: int) -> None:
    """Append what makes a regular file in ``/etc``, unless the image has it."""
    path = f"/etc/{name}"
    try:
        fd = open_in_root(root_fd, path, os.O_PATH | os.O_NOFOLLOW)
    except OSError:  # not there, or a link that the child refuses to follow
        pass
    else:
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        os.close(fd)
        if is_file:
            return
        program.add(("replace", path), NR["unlinkat"], etc, name.encode(), 0)
    program.add(
        ("make", path), NR["mknodat"], etc, name.encode(), stat.S_IFREG | 0o644, 0,
        ignore=(_EEXIST,),
    )  # fmt: skip


def is_user_tmpfs(entry: Mapping[str, Any]) -> bool:
    """True for a tmpfs that is not one of the container's usual ones."""
    return entry.get("type") == "tmpfs" and not is_kernel_place(entry["destination"])


def add_user_mounts(
    program: Program,
    entries: Sequence[Mapping[str, Any]],
    directories: Sequence[bool],
    root_fd: int,
    *,
    bundle: bool,
) -> None:
    """Append the caller's mounts (parameters ``mount:N`` for `HANDED`, ``tmpfs:N`` for a tmpfs).

    Args:
        entries: All entries of the config.
        directories: For each entry, True if its source is a directory.
        root_fd: A pristine root of the same image, to look at.
        bundle: True for an OCI bundle, which may mount on files of the kernel, as in runc.
    """
    mounted: list[str] = []
    for number, entry in enumerate(entries):
        target, kind = entry["destination"], entry.get("type", "bind")
        is_done = is_kernel_place(target) and kind not in HANDED
        if is_done or (bundle and kind == "bind" and target == "/sys"):
            continue
        path = resolve_target(root_fd, target, mounted)
        if not (bundle and kind in HANDED and (path in PROC_FILES or path.startswith("/sys/"))):
            check_target(target, path)
        mounted.append(path)
        mount_point = _add_target(program, path, directory=directories[number])
        if kind in HANDED:
            program.add(
                ("bind mount", entry.get("source", ""), "on", target),
                NR["move_mount"], Param(f"mount:{number}"), b"", mount_point, b"",
                MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
            )  # fmt: skip
            continue
        flags, data = options(entry)
        program.add(
            ("mount", kind, "on", target),
            NR["mount"], _source(entry), path.encode(), kind.encode(), flags,
            Param(f"tmpfs:{number}") if kind == "tmpfs" else data.encode() or None,
        )  # fmt: skip


def _add_target(program: Program, path: str, *, directory: bool) -> Result:
    """Append what makes a mount point and opens it."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for depth, name in enumerate(parts):
        above = _add_open(program, "/" + "/".join(parts[:depth]), os.O_DIRECTORY)
        label = ("make mount point", "/" + "/".join(parts[: depth + 1]))
        if directory or depth + 1 < len(parts):
            program.add(label, NR["mkdirat"], above, name.encode(), 0o755, ignore=(_EEXIST,))
        else:
            program.add(
                label, NR["mknodat"], above, name.encode(), stat.S_IFREG | 0o644, 0,
                ignore=(_EEXIST,),
            )  # fmt: skip
    return _add_open(program, "/" + "/".join(parts))


def _add_move(program: Program, label: tuple[object, ...], parameter: str, path: str) -> None:
    program.add(
        label, NR["move_mount"], Param(parameter), b"", AT_FDCWD, path.encode(),
        MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS,
    )  # fmt: skip


def add_readonly_root(program: Program) -> None:
    """Append the root's change to read-only."""
    program.add(
        "read-only root", NR["mount"], None, b"/", None, MS_BIND | MS_REMOUNT | MS_RDONLY, None
    )
