"""Locked mounts: attributes that CAP_SYS_ADMIN in a container cannot take back.

The kernel locks the attributes of a mount that gets into a mount namespace with a less privileged
owner (mount_namespaces(7), "Restrictions"), and every copy of that mount keeps them. So there are
two more namespaces: *ours* belongs to the run's user namespace, *lesser* to one below it, which
follows what is mounted in ours. A mount that is attached in ours is locked in lesser, and a copy
that is made there goes to the container.

Neither is the namespace that containers are cloned from. They would be peers of a shared mount in
it, and the end of their old root would unmount what is being locked.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import struct
from typing import NoReturn

from pytest_containers.linux import mount
from pytest_containers.linux.mount import MS_REC, MS_SHARED
from pytest_containers.linux.process import CLONE_NEWNS, CLONE_NEWUSER, clone, setns, unshare

_FOLDER, _FILE = "/folder", "/file"


class MountLock:
    """Locks detached mounts. Its two namespaces hold nothing but two places to mount on.

    Args:
        own_ns: This process's mount namespace, to come back to.

    Raises:
        OSError: The kernel permits no user namespace below the run's.
    """

    def __init__(self, own_ns: int) -> None:
        self._own_ns = own_ns
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with here, there:
            pid, pidfd = clone(CLONE_NEWNS)
            if pid == 0:
                _make_namespaces(there)
            there.close()
            _, messages, _, _ = here.recvmsg(1, socket.CMSG_SPACE(8), socket.MSG_CMSG_CLOEXEC)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
        if not messages:
            raise PermissionError(errno.EPERM, "no user namespace is permitted", "lock mounts")
        self._ours, self._lesser = struct.unpack("=2i", messages[0][2])

    def lock(self, fd: int) -> int:
        """Consume the detached mount `fd`, and return a locked copy with all mounts below it.

        Returns:
            A detached mount whose attributes nobody can take back.
        """
        directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        place = _FOLDER if directory else _FILE
        setns(self._ours, CLONE_NEWNS)
        try:
            mount.move_mount(fd, place)
            try:
                setns(self._lesser, CLONE_NEWNS)
                return mount.open_tree(place, recursive=True)
            finally:
                setns(self._ours, CLONE_NEWNS)
                mount.umount(place)
        finally:
            setns(self._own_ns, CLONE_NEWNS)


def _make_namespaces(channel: socket.socket) -> NoReturn:
    """In a child with a mount namespace of its own: send that, and a lesser one."""
    try:
        namespaces = os.open("/proc/self/ns", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        ours = os.open("mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=namespaces)
        mount.mount("tmpfs", "/rootfs", "tmpfs", 0, "mode=0755")
        os.chdir("/rootfs")
        os.mkdir(_FOLDER[1:])
        os.close(os.open(_FILE[1:], os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        mount.pivot_root(".", ".")
        mount.umount(".")
        mount.mount(None, "/", None, MS_REC | MS_SHARED)
        unshare(CLONE_NEWUSER | CLONE_NEWNS)
        lesser = os.open("mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=namespaces)
        socket.send_fds(channel, [b"."], [ours, lesser])
    finally:
        os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
