"""The program that is PID 1 with ``init=True``: machine code that sleeps.

It needs to do nothing: started with SIGCHLD ignored, the kernel reaps its children for it
(wait(2), NOTES). An image need not have a shell for this, nothing of the host's enters the
container, and a sleeping page of code is all the memory it costs.
"""

from __future__ import annotations

import fcntl
import os
import struct

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
_ELF_MACHINE = {"x86_64": 62, "aarch64": 183}
_ADDRESS = 0x400000
_HEADERS = 64 + 56
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def elf() -> bytes:
    """The program as an ELF file of one segment (elf(5))."""
    code = _CODE[MACHINE]
    size = _HEADERS + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\2\1\1", 2, _ELF_MACHINE[MACHINE], 1, _ADDRESS + _HEADERS, 64, 0, 0, 64, 56, 1,
        64, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _ADDRESS, _ADDRESS, size, size, 0x1000)
    return header + segment + code


def open_reaper() -> int:
    """A descriptor to execute with execveat(2); sealed, so that no container can change it."""
    fd = os.memfd_create("init", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, elf())
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd
