"""Executable files made of machine code, in memory (elf(5), memfd_create(2))."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from pytest_containers.linux.duplicates import duplicate_above
from pytest_containers.linux.numbers import MACHINE

_ELF_MACHINE = {"x86_64": 62, "aarch64": 183}
_HEADER, _SEGMENT = 64, 56
_PAGE = mmap.PAGESIZE  # file offsets and addresses have to agree below it
_LOAD, _READ, _WRITE, _EXECUTE = 1, 4, 2, 1
_LEAST_FD = 100
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class ElfSegment(NamedTuple):
    """A part of the memory of a program.

    Attributes:
        address: Its place, a multiple of 64 KB, which is the largest page of any kernel.
        contents: What is there; code if it is the first, else data that may be written to.
    """

    address: int
    contents: bytes | bytearray


def elf(segments: Sequence[ElfSegment]) -> bytes:
    """Return a program of these segments, which begins at the first byte of the first."""
    count = len(segments)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, _ELF_MACHINE[MACHINE], 1, segments[0].address,
        _HEADER, 0, 0, _HEADER, _SEGMENT, count, 64, 0, 0,
    )  # fmt: skip
    table, body = bytearray(header), bytearray()
    offset = _PAGE
    for number, (address, contents) in enumerate(segments):
        size = len(contents)
        access = _READ | (_WRITE if number else _EXECUTE)
        table += struct.pack(
            "<IIQQQQQQ", _LOAD, access, offset, address, address, size, size, _PAGE
        )
        body += contents
        body += bytes(-size % _PAGE)
        offset += size + -size % _PAGE
    return bytes(table.ljust(_PAGE, b"\0") + body)


def open_executable(name: str, contents: bytes) -> int:
    """Return a descriptor to execute with execveat(2); sealed, so that no container can change it.

    It is out of the way of the numbers that a child gives to its descriptors.
    """
    low_fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(low_fd, contents)
        fcntl.fcntl(low_fd, fcntl.F_ADD_SEALS, _SEALS)
        return duplicate_above(low_fd, _LEAST_FD)
    finally:
        os.close(low_fd)
