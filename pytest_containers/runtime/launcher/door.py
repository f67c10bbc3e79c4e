"""The socket at which other processes of the user reach a run that is kept.

It is in a directory that is the user's alone (mode 0700), so nobody else can connect. The launcher
asks the kernel nevertheless who does (SO_PEERCRED), since it is on the host's side, where user ids
mean what they say; and it lets no program of a container in, to which a test may have bound that
directory.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable

from pytest_containers.linux.sockets import is_outside_of_containers, peer_credentials
from pytest_containers.runtime.wire.loop import Loop


class Door:
    """Lets processes of the user in, until it is closed.

    Args:
        loop: Runs it.
        listener: The listening socket; owned from now on.
        directory_fd: The directory that it is in; owned from now on.
        name: Its name there.
        admit: Gets the socket and the pidfd of a process, which it does not own.
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        directory_fd: int,
        name: str,
        admit: Callable[[int, int], None],
    ) -> None:
        self._listener = listener
        self._directory_fd = directory_fd
        self._name = name
        self._admit = admit
        listener.setblocking(False)
        loop.add_reader(listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # it has gone again
            return
        with sock:
            sock.setblocking(True)
            pid, uid, _ = peer_credentials(sock)
            if uid != os.geteuid():
                return
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:  # it has ended, or is in a pid namespace that is not below ours
                return
            try:
                if is_outside_of_containers(pidfd):
                    self._admit(sock.fileno(), pidfd)
            finally:
                os.close(pidfd)

    def close(self) -> None:
        """Remove the socket from the directory."""
        with contextlib.suppress(OSError):  # the user has removed it
            os.unlink(self._name, dir_fd=self._directory_fd)
        self._listener.close()
        os.close(self._directory_fd)
