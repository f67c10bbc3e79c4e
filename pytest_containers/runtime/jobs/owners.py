"""What users of containers left in directories of the host, given to the caller."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from pytest_containers.runtime.jobs import Nothing

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def give_to_caller(args: Nothing, fds: Sequence[int]) -> Nothing:
    """Make container root, who is the caller, the owner of all files in the directories `fds`."""
    for fd in fds:
        _give_all(fd, os.fstat(fd).st_dev)
    return Nothing()


def _give_all(folder: int, device: int) -> None:
    _give(os.fstat(folder), folder)
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if status.st_dev != device:
            continue  # a mount is not what a container has left
        if not stat.S_ISDIR(status.st_mode):
            _give(status, name, folder)
            continue
        # By descriptor: a link that takes the directory's place meanwhile leads nowhere.
        inner = os.open(name, _FOLDER, dir_fd=folder)
        try:
            _give_all(inner, device)
        finally:
            os.close(inner)


def _give(status: os.stat_result, file: int | str, folder: int | None = None) -> None:
    if status.st_uid == 0:
        return
    if isinstance(file, int):
        os.fchown(file, 0, 0)
        os.fchmod(file, stat.S_IMODE(status.st_mode) | stat.S_IRWXU)  # else nobody can empty it
    else:
        os.chown(file, 0, 0, dir_fd=folder, follow_symlinks=False)
