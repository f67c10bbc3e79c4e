"""Filters of system calls as the kernel takes them (seccomp(2))."""

from __future__ import annotations

import functools
import os
import struct
from typing import NamedTuple

from pytest_containers.linux.numbers import MACHINE, NR
from pytest_containers.linux.program import Program

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""The architectures of this project's machines, as filters see them."""

_SET_MODE_FILTER = 1
INSTRUCTION_BYTES = 8
MAX_BYTES = 4096 * INSTRUCTION_BYTES
_ACTIONS = "/proc/sys/kernel/seccomp/actions_avail"


class Filter(NamedTuple):
    """A compiled filter.

    Attributes:
        code: An array of ``struct sock_filter``.
        flags: ``SECCOMP_FILTER_FLAG_…``.
    """

    code: bytes
    flags: int


@functools.cache
def available() -> bool:
    """True if this kernel has filters (4.14, CONFIG_SECCOMP_FILTER)."""
    return os.path.exists(_ACTIONS)


def with_exception(syscall_filter: Filter, number: int, argument: int) -> Filter:
    """Return a filter that permits one call more: with this first argument, and no other."""
    load, jump_if_equal, give_back, allow = 0x20, 0x15, 0x06, 0x7FFF0000
    architecture_at, number_at, argument_at = 4, 0, 16  # struct seccomp_data, little-endian
    exception = [
        (load, 0, 0, architecture_at), (jump_if_equal, 0, 7, AUDIT_ARCH[MACHINE]),
        (load, 0, 0, number_at), (jump_if_equal, 0, 5, number),
        (load, 0, 0, argument_at), (jump_if_equal, 0, 3, argument & 0xFFFFFFFF),
        (load, 0, 0, argument_at + 4), (jump_if_equal, 0, 1, argument >> 32),
        (give_back, 0, 0, allow),
    ]  # fmt: skip
    code = b"".join(struct.pack("<HBBI", *instruction) for instruction in exception)
    return Filter(code + syscall_filter.code, syscall_filter.flags)


def add_filter(program: Program, syscall_filter: Filter) -> None:
    """Append the step that installs a filter, which what comes after it has to pass.

    It takes CAP_SYS_ADMIN in the process's user namespace, or no_new_privs.
    """
    code, flags = syscall_filter
    # struct sock_fprog
    argument = struct.pack("@HP", len(code) // INSTRUCTION_BYTES, program.address_of(code))
    program.add(
        "install the filter of system calls", NR["seccomp"], _SET_MODE_FILTER, flags, argument
    )
