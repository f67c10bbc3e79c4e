"""Segments of System V shared memory, which outlive the processes that made them (svipc(7))."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection

from pytest_containers.linux.libc import syscall
from pytest_containers.linux.notify import as_user
from pytest_containers.linux.numbers import NR

_REMOVE = 0


def remove_segments(creators: Collection[int], since_s: float) -> int:
    """Remove unused segments; return how many.

    Args:
        creators: Only those of processes with these numbers.
        since_s: Only those made since then, in seconds since the epoch: numbers are used again.
    """
    removed = 0
    if not creators:
        return removed
    try:
        with open("/proc/sysvipc/shm") as file:
            rows = [list(map(int, line.split())) for line in file.readlines()[1:]]
    except OSError:  # a kernel without System V objects
        return removed
    for row in rows:
        ident, creator, attached, changed_s = row[1], row[4], row[6], row[13]
        owner, group = row[7:9]
        if creator not in creators or attached or changed_s < int(since_s):
            continue
        with contextlib.suppress(OSError):
            if owner and os.getuid() == 0:  # CAP_SYS_ADMIN may be missing
                with as_user(owner, group):
                    syscall(NR["shmctl"], ident, _REMOVE)
            else:
                syscall(NR["shmctl"], ident, _REMOVE)
            removed += 1
    return removed
