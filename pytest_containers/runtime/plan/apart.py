"""What keeps containers apart that share a ``/proc``: no look into processes of others.

In a user namespace, one root may look into the processes of another (``/proc/PID/root``, ``fd``,
``mem``). Who has rules of Landlock may only look into processes with the same rules or further
ones. So each program of a container gets rules that permit everything: an exec cannot look into
what the container itself has started, nor the other way round; signals are not affected.
"""

from __future__ import annotations

import os
import struct

from pytest_containers.linux.landlock import REFER
from pytest_containers.linux.mount import AT_FDCWD
from pytest_containers.linux.numbers import NR
from pytest_containers.linux.program import Program, Result

_ROOT_FD = 20
_PATH_BENEATH = 1


def add_rules(program: Program) -> None:
    """Append the rules, while the program has all its capabilities and the container's root.

    They name the one right that is denied unless a rule grants it, and grant that everywhere. With
    them, no program can mount, which programs of a container may not anyway.
    """
    label = "keep containers apart"
    ruleset = program.add(label, NR["landlock_create_ruleset"], struct.pack("=Q", REFER), 8, 0)
    flags = os.O_PATH | os.O_CLOEXEC
    root = program.add(label, NR["openat"], AT_FDCWD, b"/", flags)
    program.add(label, NR["dup3"], Result(root), _ROOT_FD, os.O_CLOEXEC)
    rule = struct.pack("=Qi", REFER, _ROOT_FD)
    program.add(label, NR["landlock_add_rule"], Result(ruleset), _PATH_BENEATH, rule, 0)
    program.add(label, NR["landlock_restrict_self"], Result(ruleset), 0)
