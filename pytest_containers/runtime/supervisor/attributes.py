"""Options of binds, volumes and images: attributes of mounts that exist before the container."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from pytest_containers.linux import mount
from pytest_containers.runtime.plan import mount_options
from pytest_containers.runtime.wire.faults import FaultError


def apply(fd: int, entry: Mapping[str, Any], doing: str) -> None:
    """Apply the options of a mount to its detached source.

    Args:
        fd: The source.
        entry: The mount, as the config has it.
        doing: Operation and object, for the error.

    Raises:
        FaultError: The kernel does not permit one: the host's mount has what it takes away.
    """
    options = entry.get("options") or ()
    for add, clear, recursive in mount_options.attributes(options):
        try:
            mount.set_attributes(fd, add=add, clear=clear, recursive=recursive)
        except OSError as error:
            locked = "; but in a run of root, a mount keeps the attributes it has on the host"
            raise FaultError(
                "StartError",
                f"{doing}: mount of {entry['source']} with options {','.join(options)}: "
                f"{error.strerror}{locked if error.errno == errno.EPERM else ''}",
                errno=error.errno,
                path=entry["source"],
            ) from None
