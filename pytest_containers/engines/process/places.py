"""Places of a run: its directories, and its addresses in 127.7.0.0/16."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from pathlib import Path

from pytest_containers.model.errors import UnsupportedError

_ROOM_BYTES = 256 << 20
_SHM = "/dev/shm"


class Places:
    """The directories and addresses of a run. Thread-safe.

    Attributes:
        files: The directory of private files, on tmpfs if there is one with some room: there a
            state is copied within the time that a server takes to start.
        trees: The directory of unpacked images, whose programs must be allowed to run.
    """

    def __init__(self) -> None:
        memory = _SHM if _has_room(_SHM) else None
        self.files: Path = Path(tempfile.mkdtemp(prefix="pytest-containers-", dir=memory))
        runs_programs = not os.statvfs(self.files).f_flag & os.ST_NOEXEC
        self.trees: Path = (
            self.files if runs_programs else Path(tempfile.mkdtemp(prefix="pytest-containers-"))
        )
        # Other users of containers must get through; names are not listed.
        for folder in self._all():
            folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
        self._lock = threading.Lock()
        self._blocks: list[tuple[int, socket.socket]] = []
        self._used: set[str] = set()

    def _all(self) -> list[Path]:
        return list(dict.fromkeys([self.files, self.trees]))

    @property
    def folders(self) -> list[str]:
        """All directories of the run."""
        return [os.fspath(folder) for folder in self._all()]

    def take_address(self) -> str:
        """Return an address that no container of this machine has.

        Raises:
            UnsupportedError: None is left.
        """
        with self._lock:
            while True:
                for block, _ in self._blocks:
                    for host in range(2, 255):
                        address = f"127.7.{block}.{host}"
                        if address not in self._used:
                            self._used.add(address)
                            return address
                self._reserve()

    def give_back(self, address: str) -> None:
        """Let another container have the address."""
        self._used.discard(address)

    def _reserve(self) -> None:
        """Reserve 253 addresses, with a name that other runs of this network see."""
        for block in range(256):
            lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                lock.bind(f"\0pytest-containers-127.7.{block}")
            except OSError:
                lock.close()
                continue
            self._blocks.append((block, lock))
            return
        raise UnsupportedError("all addresses of 127.7.0.0/16 are in use by other runs")

    def remove(self) -> None:
        """Delete the directories and free the addresses; idempotent."""
        for folder in self._all():
            shutil.rmtree(folder, ignore_errors=True)
        for _, lock in self._blocks:
            lock.close()


def _has_room(folder: str) -> bool:
    """Return True for a tmpfs with some room that this user may write to."""
    try:
        with open("/proc/self/mounts") as file:
            kinds = {line.split()[1]: line.split()[2] for line in file}
        status = os.statvfs(folder)
    except OSError:
        return False
    free = status.f_bavail * status.f_frsize
    return kinds.get(folder) == "tmpfs" and free >= _ROOM_BYTES and os.access(folder, os.W_OK)
