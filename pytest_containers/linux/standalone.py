"""Programs of system calls as executable files: what walks them shares no memory with the parent.

A start runs in the supervisor's memory, or in a copy of it, up to its execve. A few steps must not
come that early: in a user namespace of its own a child may be looked into by whatever owns that,
and the kernel makes none for a process that shares its memory. Such steps go into a second
program, which the first one executes.

It reports a failure as the first does: nothing comes from the status descriptor, which is number
3, before the end of file if it gets to its execve. Else its block comes, whose layout is
`program`'s.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pytest_containers.linux.elf import ElfSegment, elf, open_executable
from pytest_containers.linux.numbers import MACHINE, NR
from pytest_containers.linux.program import BLOCK_AT, Buffer, Program
from pytest_containers.linux.stubs import CODE, WALK_AT

if TYPE_CHECKING:
    from typing import Self

STATUS = 3
_F_SETFD, _FD_CLOEXEC = 2, 1
_CODE_AT, _DATA_AT = 0x400000, 0x800000
_MAX_BLOCK = 0xFFFF  # an immediate of one instruction of aarch64, and what a pipe holds


class StandaloneProgram(Program):
    """A program that is a file of its own."""

    __slots__ = ("_data",)
    _end = (NR["close"], -1)  # fails, and so is reported

    def __init__(self) -> None:
        super().__init__()
        self._data = bytearray()
        self.add("keep the status pipe to ourselves", NR["fcntl"], STATUS, _F_SETFD, _FD_CLOEXEC)

    def _copy(self) -> Self:
        copy = super()._copy()
        copy._data = self._data.copy()
        return copy

    def open(self) -> int:
        """Make the file; the descriptor is the caller's, to execute with execveat(2)."""
        block = self.image(STATUS)
        if len(block) > _MAX_BLOCK:
            raise ValueError(f"program of {len(self)} steps: that is too long")
        code = _code(len(block))
        segments = [ElfSegment(_CODE_AT, code), ElfSegment(BLOCK_AT, block)]
        if self._data:
            segments.append(ElfSegment(_DATA_AT, self._data))
        return open_executable("start", elf(segments))

    def _place(self, data: bytes) -> int:
        address = _DATA_AT + len(self._data)
        self._data += data
        self._data += bytes(8 - len(data) % 8)  # at least the end of a string
        return address

    def _place_buffer(self, value: Buffer) -> int:
        return self._place(bytes(value))


def _code(block_bytes: int) -> bytes:
    """The machine code: `stubs`' walk, which sends the block to the parent before it fails."""
    walk = CODE[MACHINE][WALK_AT[MACHINE] :]
    if MACHINE == "x86_64":
        enter = b"\xba" + struct.pack("<I", BLOCK_AT)  # mov edx, block
        report = (
            bytes.fromhex("bf03000000")  # mov edi, 3
            + bytes.fromhex("4889de")  # mov rsi, rbx
            + b"\xba" + struct.pack("<I", block_bytes)  # mov edx, size
            + bytes.fromhex("b801000000")  # mov eax, 1           # write
            + bytes.fromhex("0f05")  # syscall
        )  # fmt: skip
        end = 14
    else:
        enter = struct.pack("<I", 0xD2A00002 | (BLOCK_AT >> 16) << 5)  # mov x2, block
        report = struct.pack(
            "<5I",
            0xD2800000 | STATUS << 5,  # mov x0, #3
            0xAA1303E1,  # mov x1, x19
            0xD2800002 | block_bytes << 5,  # mov x2, size
            0xD2800808,  # mov x8, #64          // write
            0xD4000001,  # svc #0
        )
        end = 16
    return enter + walk[:-end] + report + walk[-end:]
