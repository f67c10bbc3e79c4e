"""Which masked paths of the caller's choice are directories: they are masked by another mount."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from pytest_containers.linux.files import open_in_root
from pytest_containers.runtime.plan.masks import ChosenMask
from pytest_containers.runtime.plan.oci import Config

_SEEN_HERE = {"proc": "/proc", "sysfs": "/sys"}


def find_masks(config: Config, mount_fds: Sequence[int], root_fd: int) -> tuple[ChosenMask, ...]:
    """Return the masked paths that are not the usual ones, with their kinds.

    Args:
        config: The container's.
        mount_fds: For each mount of the config a descriptor of its source, or -1.
        root_fd: The container's root file system.
    """
    return tuple(
        (path, _is_directory(path, config, mount_fds, root_fd)) for path in config.chosen_masks
    )


def _is_directory(path: str, config: Config, mount_fds: Sequence[int], root_fd: int) -> bool:
    """True if a path will lead to a directory; False also if it leads nowhere."""
    path = os.path.normpath(path)
    covering = [
        (entry["destination"].rstrip("/"), index)
        for index, entry in enumerate(config.mounts)
        if f"{path}/".startswith(f"{entry['destination'].rstrip('/')}/")
    ]
    if not covering:
        return _leads_to_directory(root_fd, path)
    destination, index = max(covering)
    below = path[len(destination) :]
    if mount_fds[index] >= 0:
        return _leads_to_directory(mount_fds[index], below)
    kind = config.mounts[index].get("type", "bind")
    if kind in _SEEN_HERE:
        return os.path.isdir(_SEEN_HERE[kind] + below)  # the run's own shows the same
    return not below  # an empty file system


def _leads_to_directory(root_fd: int, path: str) -> bool:
    try:
        fd = open_in_root(root_fd, path or ".", os.O_PATH)
    except OSError:
        return False
    try:
        return stat.S_ISDIR(os.fstat(fd).st_mode)
    finally:
        os.close(fd)
