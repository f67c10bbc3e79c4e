"""The program that is PID 1 with ``init=True``: machine code that sleeps.

It needs to do nothing: started with SIGCHLD ignored, the kernel reaps its children for it
(wait(2), NOTES). An image need not have a shell for this, nothing of the host's enters the
container, and a sleeping page of code is all the memory it costs.
"""

from __future__ import annotations

import struct

from pytest_containers.linux.elf import ElfSegment, elf, open_executable
from pytest_containers.linux.numbers import MACHINE

_CODE = {
    "x86_64": bytes.fromhex(
        "b80f010000"  # mov eax, 271   # ppoll(NULL, 0, NULL, NULL, 0)
        "31ff"  # xor edi, edi
        "31f6"  # xor esi, esi
        "31d2"  # xor edx, edx
        "4531d2"  # xor r10d, r10d
        "4531c0"  # xor r8d, r8d
        "0f05"  # syscall
        "ebeb"  # jmp to the start
    ),
    "aarch64": struct.pack(
        "<8I",
        0xD2800928,  # mov x8, #73     // ppoll
        0xD2800000,  # mov x0, #0
        0xD2800001,  # mov x1, #0
        0xD2800002,  # mov x2, #0
        0xD2800003,  # mov x3, #0
        0xD2800004,  # mov x4, #0
        0xD4000001,  # svc #0
        0x17FFFFF9,  # b to the start
    ),
}
_ADDRESS = 0x400000


def open_reaper() -> int:
    """A descriptor to execute with execveat(2)."""
    return open_executable("init", elf([ElfSegment(_ADDRESS, _CODE[MACHINE])]))
