"""A way out for containers that may reach other machines: slirp4netns or pasta, one for each.

Both connect a network namespace to the host's by a process that opens ordinary sockets; neither
needs a privilege but the right to open /dev/net/tun.
"""

from __future__ import annotations

import os
import signal

from pytest_containers.linux import process
from pytest_containers.runtime.loop import Loop

NAME_SERVER = "10.0.2.3"
_NETNS_FD, _USERNS_FD = 3, 4
_SLIRP = (
    "--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path",
    f"--userns-path=/proc/self/fd/{_USERNS_FD}", f"/proc/self/fd/{_NETNS_FD}", "tap0",
)  # fmt: skip
_PASTA = (
    "--foreground", "--quiet", "--config-net", "--no-map-gw", "--dns-forward", NAME_SERVER,
    "--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none",
    "--userns", f"/proc/self/fd/{_USERNS_FD}", "--netns", f"/proc/self/fd/{_NETNS_FD}",
)  # fmt: skip


class Egress:
    """Starts these processes; each dies with the launcher, or with who asked for it."""

    def __init__(self, loop: Loop, userns_fd: int) -> None:
        self._loop = loop
        self._userns_fd = userns_fd

    def start(self, program: str, netns_fd: int, alive_fd: int) -> int:
        """Connect a network namespace.

        Args:
            program: Path of slirp4netns or pasta.
            alive_fd: A pipe: its end is the process's. Owned from now on.

        Returns:
            A pidfd of the process; its end before that is a failure.
        """
        slirp = os.path.basename(program) == "slirp4netns"
        args = [program, *(_SLIRP if slirp else _PASTA)]
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._child(parent, program, args, netns_fd)
        pidfd = os.pidfd_open(pid)
        own = os.dup(pidfd)
        self._loop.add_reader(alive_fd, lambda: self._forsaken(alive_fd, own))
        self._loop.add_reader(own, lambda: self._ended(pid, alive_fd, own))
        return pidfd

    def _child(self, parent: int, program: str, args: list[str], netns_fd: int) -> None:
        try:
            process.die_with_parent(parent)
            high = [os.dup(fd) for fd in (netns_fd, self._userns_fd)]
            high = [os.dup2(fd, 100 + at) for at, fd in enumerate(high)]
            null = os.open("/dev/null", os.O_RDWR)
            for fd in (0, 1):
                os.dup2(null, fd)
            for fd, target in zip(high, (_NETNS_FD, _USERNS_FD), strict=True):
                os.dup2(fd, target)
            os.closerange(_USERNS_FD + 1, 1024)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            os.execve(program, args, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        finally:
            os._exit(127)

    def _forsaken(self, alive_fd: int, pidfd: int) -> None:
        self._loop.remove_reader(alive_fd)
        process.pidfd_kill(pidfd, signal.SIGKILL)

    def _ended(self, pid: int, alive_fd: int, pidfd: int) -> None:
        self._loop.remove_reader(pidfd)
        self._loop.remove_reader(alive_fd)
        os.waitpid(pid, 0)
        os.close(pidfd)
        os.close(alive_fd)
