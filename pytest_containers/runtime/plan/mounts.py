"""The mounts of a container, as steps.

Two kinds of targets: those that every container has (below ``/proc``, ``/dev``, ``/sys``) are
mounted while the new root is the working directory, on names that were verified not to be
symbolic links (CVE-2019-19921); those that the caller chose are mounted after pivot_root, when
the kernel itself resolves them inside the new root.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_containers.linux.files import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from pytest_containers.linux.mount import (
    AT_FDCWD,
    MNT_DETACH,
    MOVE_MOUNT_F_EMPTY_PATH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_STRICTATIME,
)
from pytest_containers.linux.numbers import NR
from pytest_containers.linux.program import Param, Program
from pytest_containers.runtime.messages import FaultError
from pytest_containers.runtime.plan.credentials import Machine

_MOVE_MOUNT_T_SYMLINKS = 0x10
_MS_RELATIME, _MS_NOATIME = 1 << 21, 1 << 10
_EEXIST, _ENOENT = 17, 2
_KERNEL_PLACES = ("/proc", "/dev", "/sys")
_FLAGS = {
    "ro": MS_RDONLY, "nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC,
    "strictatime": MS_STRICTATIME, "relatime": _MS_RELATIME, "noatime": _MS_NOATIME,
    "rw": 0, "suid": 0, "dev": 0, "exec": 0, "bind": 0, "rbind": 0, "private": 0, "rprivate": 0,
    "file": 0,
}  # fmt: skip
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
"""What may be mounted where below the kernel's places; ``/dev/`` is anywhere in it."""
OWN_FILES = ("hosts", "hostname", "resolv.conf")
"""Files below /etc that the runtime writes, one of each per container."""


HANDED = ("bind", "volume", "image")
"""Kinds of mounts that are made before, and handed to the plan as descriptors."""


def is_kernel_place(destination: str) -> bool:
    """Whether a mount belongs to ``/proc``, ``/dev`` or ``/sys``."""
    return any(destination == at or destination.startswith(f"{at}/") for at in _KERNEL_PLACES)


def options(entry: Mapping[str, Any]) -> tuple[int, str]:
    """Flags and file-system data of an OCI mount's options."""
    flags, data = 0, []
    for option in entry.get("options") or ():
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option != "newinstance":  # the only way since Linux 4.7
            data.append(option)
    return flags, ",".join(data)


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
    for entry in entries:
        path, kind = entry["destination"], entry.get("type", "bind")
        if not is_kernel_place(path) or kind in HANDED:
            continue
        allowed = _KERNEL_TARGETS.get(kind, ())
        if path in seen or not (
            path in allowed or (path.startswith("/dev/") and "/dev/" in allowed)
        ):
            raise _not_there(path)
        seen.add(path)
        flags, data = options(entry)
        relative = path.lstrip("/")
        if kind in ("cgroup", "cgroup2"):
            if not machine.cgroup2:
                continue
            kind = "cgroup2"
        if relative in ("proc", "sys", "dev"):
            _add_folder(program, relative, root_fd)
        elif relative.startswith("dev/"):
            program.add(("make", path), NR["mkdirat"], AT_FDCWD, relative.encode(), 0o755)
        if kind == "sysfs" and machine.host_network:
            # Only who owns a network namespace may mount its /sys.
            program.add(
                ("show", path), NR["mount"], b"/sys", b"sys", None, MS_BIND | MS_REC, None
            )  # fmt: skip
            continue
        if kind == "devpts" and terminal:
            _add_move(program, ("mount devpts on", path), "devpts", relative)
            continue
        if kind == "devpts" and not machine.own_ids:
            data = ",".join(part for part in data.split(",") if not part.startswith("gid="))
        program.add(
            ("mount", kind, "on", path),
            NR["mount"], kind.encode(), relative.encode(), kind.encode(), flags,
            data.encode() or None,
        )  # fmt: skip
        if relative == "dev":
            _add_devices(program)


def _add_folder(program: Program, relative: str, root_fd: int) -> None:
    try:
        fd = openat2(
            root_fd, relative, os.O_PATH | os.O_DIRECTORY,
            resolve=RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH,
        )  # fmt: skip
        os.close(fd)
    except FileNotFoundError:
        program.add(("make", relative), NR["mkdirat"], AT_FDCWD, relative.encode(), 0o755)
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


def add_image_mounts(program: Program, mounts: Sequence[tuple[str, str]]) -> None:
    """Append the read-only trees of an image. Its layers have the targets; both are our own."""
    for source, target in mounts:
        program.add(
            ("show", target),
            NR["mount"], source.encode(), target.lstrip("/").encode(), None, MS_BIND, None,
        )  # fmt: skip


def add_masks(
    program: Program, masked: Sequence[str], readonly: Sequence[str], machine: Machine
) -> None:
    """Append what hides and protects parts of ``/proc`` and ``/sys``."""
    for path in masked:
        if path not in machine.masked:
            continue
        source = b"/none" if machine.masked[path] else b"/dev/null"
        program.add(
            ("mask", path), NR["mount"], source, path.lstrip("/").encode(), None, MS_BIND, None,
        )  # fmt: skip
    safe = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY
    for path in readonly:
        if path not in machine.readonly:
            continue
        at = path.lstrip("/").encode()
        program.add(("protect", path), NR["mount"], at, at, None, MS_BIND | MS_REC, None)
        program.add(
            ("protect", path), NR["mount"], None, at, None, MS_BIND | MS_REMOUNT | safe, None
        )


def add_pivot(program: Program) -> None:
    """Append the change of root: afterwards nothing of the old one can be named."""
    program.add("pivot_root", NR["pivot_root"], b".", b".")
    program.add("leave the old root", NR["umount2"], b".", MNT_DETACH)
    program.add("enter the root", NR["chdir"], b"/")


def add_own_files(program: Program, root_fd: int) -> None:
    """Append the container's own ``/etc/hosts`` and so on (parameters ``etc:NAME``)."""
    for name in OWN_FILES:
        path = f"/etc/{name}"
        _ensure_file(program, path, root_fd)
        _add_move(program, ("mount", path), f"etc:{name}", path)


def _ensure_file(program: Program, path: str, root_fd: int) -> None:
    try:
        status = os.stat(path.lstrip("/"), dir_fd=root_fd, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            return
        program.add(("replace", path), NR["unlinkat"], AT_FDCWD, path.encode(), 0)
    except FileNotFoundError:
        folder = os.path.dirname(path).encode()
        program.add(("make", folder), NR["mkdirat"], AT_FDCWD, folder, 0o755, ignore=(_EEXIST,))
    program.add(
        ("make", path), NR["mknodat"], AT_FDCWD, path.encode(), stat.S_IFREG | 0o644, 0,
        ignore=(_EEXIST,),
    )  # fmt: skip


def add_user_mounts(
    program: Program, entries: Sequence[Mapping[str, Any]], directories: Sequence[bool]
) -> None:
    """Append what the caller mounts (parameters ``mount:N`` for those of `HANDED`).

    Args:
        entries: All entries of the config.
        directories: For each entry whether its source is one.
    """
    for number, entry in enumerate(entries):
        path, kind = entry["destination"], entry.get("type", "bind")
        if is_kernel_place(path) and kind not in HANDED:
            continue
        _check_target(path)
        _add_target(program, path, directory=directories[number])
        if kind in HANDED:
            _add_move(
                program,
                ("bind mount", entry.get("source", ""), "on", path),
                f"mount:{number}",
                path,
            )
            continue
        flags, data = options(entry)
        program.add(
            ("mount", kind, "on", path),
            NR["mount"], kind.encode(), path.encode(), kind.encode(), flags, data.encode() or None,
        )  # fmt: skip


def _check_target(path: str) -> None:
    if path.rstrip("/") in ("", *_KERNEL_PLACES) or path.startswith(("/proc/", "/sys/")):
        raise _not_there(path)


def _not_there(path: str) -> FaultError:
    return FaultError(
        "SpecError", f"mount target {path!r}: nothing may be mounted there; choose another"
    )


def _add_target(program: Program, path: str, *, directory: bool) -> None:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    folders = parts if directory else parts[:-1]
    for depth in range(1, len(folders) + 1):
        at = "/" + "/".join(folders[:depth])
        program.add(
            ("make mount point", at), NR["mkdirat"], AT_FDCWD, at.encode(), 0o755,
            ignore=(_EEXIST,),
        )  # fmt: skip
    if not directory:
        program.add(
            ("make mount point", path), NR["mknodat"], AT_FDCWD, path.encode(),
            stat.S_IFREG | 0o644, 0, ignore=(_EEXIST,),
        )  # fmt: skip


def _add_move(program: Program, label: tuple[object, ...], parameter: str, path: str) -> None:
    program.add(
        label, NR["move_mount"], Param(parameter), b"", AT_FDCWD, path.encode(),
        MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_SYMLINKS,
    )  # fmt: skip


def add_readonly_root(program: Program) -> None:
    """Append the root's change to read-only."""
    program.add(
        "read-only root", NR["mount"], None, b"/", None, MS_BIND | MS_REMOUNT | MS_RDONLY, None
    )
