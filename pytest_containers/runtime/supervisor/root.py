"""The supervisor's own file systems: a minimal root, and what containers' roots are made from.

::

    /proc /sys      whole ones of the run: the kernel lets a container mount its own only then;
                    else those around the run, which containers get as well
    /dev            six devices of the host
    /trees/N        layers and directories of the host, each once per run
    /shown/N        read-only trees of the host: lower-only overlays
    /volumes/N      volumes
    /empty, /blank  empty directories, since no layer may be used twice in an overlay
    /none           an empty directory that nobody can ever write to
    /rootfs         where a container's root is attached, in the container's copy of all this
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from pytest_containers.linux import landlock, mount
from pytest_containers.linux.mount import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MS_PRIVATE,
    MS_REC,
)
from pytest_containers.linux.process import CLONE_NEWNS, setns, unshare
from pytest_containers.runtime.identity import Identity

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_FOLDERS = (
    "proc",
    "sys",
    "dev",
    "trees",
    "shown",
    "volumes",
    "scratch",
    "empty",
    "blank",
    "none",
    "rootfs",
)
HUGE = ("huge", "within_size")
_HARMLESS = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC


class Features(NamedTuple):
    """Features of this kernel under these permissions, probed once per run.

    Attributes:
        detached_layers: An overlay takes detached mounts as layers (6.15), by descriptor (6.13).
        tmpfs_xattrs: tmpfs has user xattrs (6.6), so a writable layer may live there.
        cgroup2: A cgroup2 file system may be mounted.
        own_ids: Others than container root exist.
        tmpfs_huge: tmpfs takes memory in large pieces where a file is large enough: copying a file
            up takes half the time then, and dropping it too (kernels from 6.14; before, it does
            nothing for files below 2 MB).
        host_network: Containers are in the host's network namespace.
        own_proc: A proc may be mounted. Else containers see that of the place where tests run: all
            processes there and in each other, by other numbers than their own (a container of
            Docker or Kubernetes, whose /proc is masked).
        own_sys: A sysfs may be mounted.
        apart: Without a proc of their own, containers are kept from looking into each other.
    """

    detached_layers: bool
    tmpfs_xattrs: bool
    cgroup2: bool
    own_ids: bool
    tmpfs_huge: bool
    host_network: bool
    own_proc: bool = True
    own_sys: bool = True
    apart: bool = False


class RunRoot:
    """The supervisor's root file system, built by `build`.

    Attributes:
        host_ns: Descriptor of a mount namespace with the host's tree, or -1 when the launcher
            opens trees.
        tmpfs_bytes: The size of a tmpfs that nobody gave one: half of the memory that the run may
            use; 0 is the kernel's choice, half of the machine's.
        own_ns: That of this process.
        layers_on_disk: False once the store turned out to be where no writable layer can be.
    """

    def __init__(self, host_ns: int, own_ns: int, features: Features, tmpfs_bytes: int = 0) -> None:
        self.host_ns = host_ns
        self.own_ns: int = own_ns
        self.features = features
        self.tmpfs_bytes = tmpfs_bytes
        self.layers_on_disk: bool = True
        self._count = 0

    @classmethod
    def build(
        cls,
        identity: Identity,
        *,
        force_fallback: bool = False,
        host_network: bool = False,
        memory_bytes: int | None = None,
    ) -> RunRoot:
        """Build it and pivot into it.

        Args:
            host_network: True in the host's network namespace, whose /sys cannot be mounted anew.
            memory_bytes: The memory that all containers may use together; None for any.

        Raises:
            OSError: A mount was refused; its file name says which.
        """
        mount.mount(None, "/", None, MS_REC | MS_PRIVATE)
        host_ns = -1
        if identity.mode != "root":
            host_ns = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            unshare(CLONE_NEWNS)
        # Before anything is covered: the kernel lets a user namespace mount proc and sysfs only
        # where whole ones are visible (mount_too_revealing in fs/namespace.c).
        own_proc, proc = _mount_or_bind("/proc", lambda: mount.new_mount("proc", (), _HARMLESS))
        if host_network:
            own_sys, sys = False, mount.open_tree("/sys", recursive=True)
        else:
            own_sys, sys = _mount_or_bind("/sys", lambda: mount.new_sysfs(_HARMLESS))
        root = mount.new_mount("tmpfs", [("mode", "0755"), ("size", "16m")], MOUNT_ATTR_NOSUID)
        cgroup2 = _try_cgroup2()
        devices = [mount.open_tree(f"/dev/{name}") for name in DEVICES]
        mount.move_mount(root, "/proc")
        os.chdir("/proc")
        for name in _FOLDERS:
            os.mkdir(name, 0o755)
        mount.move_mount(proc, "proc")
        mount.move_mount(sys, "sys")
        for name, fd in zip(DEVICES, devices, strict=True):
            os.close(os.open(f"dev/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
            mount.move_mount(fd, f"dev/{name}")
        for fd in (proc, sys, root, *devices):
            os.close(fd)
        mount.pivot_root(".", ".")
        mount.umount(".")
        os.chdir("/")
        features = Features(
            detached_layers=not force_fallback and _detached_layers_work(),
            tmpfs_xattrs=_tmpfs_has_xattrs(),
            cgroup2=cgroup2,
            own_ids=identity.mode != "single",
            tmpfs_huge=_tmpfs_takes(HUGE),
            host_network=host_network,
            own_proc=own_proc,
            own_sys=own_sys,
            apart=not own_proc and landlock.version() >= 2,
        )
        own_ns = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        run_root = cls(host_ns, own_ns, features, _tmpfs_bytes(memory_bytes))
        # Masks directories of containers: a read-only *file system*, which no remount changes.
        run_root.attach(run_root.overlay_of("/blank"), "/none")
        return run_root

    @property
    def half_of_memory(self) -> int:
        """Half of the memory that the run may use, in bytes."""
        return self.tmpfs_bytes or _machine_bytes() // 2

    def new_tmpfs(self, size_bytes: int | None) -> int:
        """Make a detached tmpfs for files of containers; None is the size of all without one."""
        options = [("mode", "0755")]
        if self.features.tmpfs_huge:
            options.append(HUGE)
        size_bytes = size_bytes or self.tmpfs_bytes
        if size_bytes:
            options.append(("size", str(size_bytes)))
        return mount.new_mount("tmpfs", options)

    def attach(self, fd: int, path: str) -> None:
        """Attach a detached mount at `path` and close its descriptor."""
        try:
            mount.move_mount(fd, path)
        finally:
            os.close(fd)

    def place(self, fd: int, folder: str, *, directory: bool = True) -> str:
        """Attach a detached mount at a new place below ``/<folder>``; returns the path."""
        self._count += 1
        path = f"/{folder}/{self._count}"
        if directory:
            os.mkdir(path, 0o755)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        self.attach(fd, path)
        return path

    def overlay_of(self, tree: str) -> int:
        """Make a detached, read-only view of the attached tree at `tree`.

        A read-only bind could be made writable again with CAP_SYS_ADMIN in the run's user
        namespace; an overlay without an upper layer is read-only in itself.
        """
        if self.features.detached_layers:
            lower = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in (tree, "/empty")]
            try:
                options: list[tuple[str, str | int | None]] = [("lowerdir+", fd) for fd in lower]
                return mount.new_mount("overlay", [*options, ("userxattr", None)])
            finally:
                for fd in lower:
                    os.close(fd)
        return mount.new_mount("overlay", [("lowerdir", f"{tree}:/empty"), ("userxattr", None)])

    def open_host_tree(self, path: str, *, recursive: bool = False) -> int:
        """Make a detached copy of the host's tree at `path`, as this process may see it.

        Raises:
            OSError: Not there, or not permitted.
        """
        setns(self.host_ns, CLONE_NEWNS)
        try:
            return mount.open_tree(path, recursive=recursive)
        finally:
            setns(self.own_ns, CLONE_NEWNS)


def _mount_or_bind(path: str, make: Callable[[], int]) -> tuple[bool, int]:
    """Make a file system of the kernel, or take that at `path`, with all that is mounted there.

    Where a part of /proc or /sys is masked, as in most containers, a user namespace gets no new
    one.

    Returns:
        True if it is new, and its descriptor.
    """
    try:
        return True, make()
    except PermissionError as error:
        try:
            return False, mount.open_tree(path, recursive=True)
        except OSError:
            raise error from None


def _tmpfs_bytes(memory_bytes: int | None) -> int:
    if memory_bytes is None or memory_bytes >= _machine_bytes():
        return 0
    return memory_bytes // 2


def _machine_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _try_cgroup2() -> bool:
    try:
        os.close(mount.new_mount("cgroup2", (), _HARMLESS))
    except OSError:
        return False
    return True


def _tmpfs_has_xattrs() -> bool:
    fd = os.open("/empty", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.setxattr(fd, "user.pytest_containers", b"1")
        os.removexattr(fd, "user.pytest_containers")
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _tmpfs_takes(option: tuple[str, str]) -> bool:
    try:
        os.close(mount.new_mount("tmpfs", [option]))
    except OSError:
        return False
    return True


def _detached_layers_work() -> bool:
    try:
        tmpfs = mount.new_mount("tmpfs", [("mode", "0755")])
    except OSError:
        return False
    try:
        for name in ("lower", "upper", "work"):
            os.mkdir(name, dir_fd=tmpfs)
        fds = [
            os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=tmpfs)
            for name in ("lower", "upper", "work")
        ]
        try:
            keys = ("lowerdir+", "upperdir", "workdir")
            options = list(zip(keys, fds, strict=True))
            os.close(mount.new_mount("overlay", [*options, ("userxattr", None)]))
        finally:
            for fd in fds:
                os.close(fd)
    except OSError:
        return False
    finally:
        os.close(tmpfs)
    return True
