"""The five sets of capabilities of a process (capabilities(7), runtime-spec config.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pytest_containers.linux.numbers import NR
from pytest_containers.linux.process import (
    CAPABILITIES,
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_RAISE,
    PR_CAPBSET_DROP,
    PR_SET_KEEPCAPS,
    cap_buffers,
)
from pytest_containers.linux.program import Program
from pytest_containers.runtime.wire.faults import FaultError


class CapabilitySets(NamedTuple):
    """The sets of a process right before its execve, as masks."""

    bounding: int
    effective: int
    permitted: int
    inheritable: int
    ambient: int


def read(sets: Mapping[str, Sequence[str]] | None, last: int) -> CapabilitySets:
    """Read ``process.capabilities``; a set that is not there is empty.

    Ambient capabilities that are not permitted and inheritable do not exist in the kernel: they
    are left out, as runc and crun do, whose example configs have them.

    Args:
        sets: Names like ``CAP_CHOWN`` by set.
        last: The number of the highest capability of this kernel; higher ones are left out.

    Raises:
        FaultError: ``SpecError``: a capability is unknown to every kernel, or the kernel cannot
            give a process such sets.
    """
    masks = {name: _mask((sets or {}).get(name) or (), last) for name in CapabilitySets._fields}
    for name, outer in (("effective", "permitted"), ("inheritable", "bounding")):
        outside = masks[name] & ~masks[outer]
        if outside:
            field = f"process.capabilities.{name}"
            missing = f"CAP_{CAPABILITIES[outside.bit_length() - 1]}"
            message = f"OCI config {field}: {missing} is not in the {outer} set; add it there"
            raise FaultError("SpecError", message, field=field)
    masks["ambient"] &= masks["permitted"] & masks["inheritable"]
    return CapabilitySets(**masks)


def _mask(names: Sequence[str], last: int) -> int:
    mask = 0
    for name in names:
        try:
            number = CAPABILITIES.index(name.removeprefix("CAP_"))
        except ValueError:
            raise FaultError(
                "SpecError", f"capability {name!r} does not exist; see capabilities(7)"
            ) from None
        if number <= last:
            mask |= 1 << number
    return mask


def add_bounding_set(program: Program, sets: CapabilitySets, last: int) -> None:
    """Append the drop of all that is not in the bounding set."""
    for number in range(last + 1):
        if not sets.bounding >> number & 1:
            program.add(
                ("drop capability", CAPABILITIES[number]), NR["prctl"], PR_CAPBSET_DROP, number
            )


def add_keep(program: Program, sets: CapabilitySets, uid: int, needed: int) -> None:
    """Append what lets a user that is not root have capabilities, before the change to it.

    Args:
        program: Appended to.
        sets: What the program begins with.
        uid: The user.
        needed: Permitted and effective ones that are needed up to the execve, which drops them.
    """
    if uid != 0 and (sets.inheritable or needed):
        program.add("keep capabilities", NR["prctl"], PR_SET_KEEPCAPS, 1, 0, 0, 0)


def add_sets(program: Program, sets: CapabilitySets, uid: int, needed: int) -> None:
    """Append the sets, after the change to the user (arguments as `add_keep`).

    A user that is not root has lost all by then, and would lose permitted and effective ones in
    its execve: only inheritable and ambient ones outlast that.
    """
    permitted, effective = sets.permitted, sets.effective
    if uid != 0 and not sets.inheritable:
        if not needed:
            return
        permitted = effective = 0  # none of these may help with the execve
    header, data = cap_buffers(permitted | needed, effective | needed, sets.inheritable)
    program.add("set capabilities", NR["capset"], header, data)
    for number in range(sets.ambient.bit_length()):
        if sets.ambient >> number & 1:
            program.add(
                ("raise ambient capability", CAPABILITIES[number]),
                NR["prctl"],
                PR_CAP_AMBIENT,
                PR_CAP_AMBIENT_RAISE,
                number,
                0,
                0,
            )
