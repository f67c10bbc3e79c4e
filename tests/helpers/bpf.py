"""The kernel's filter machine, as much of it as filters of system calls need (seccomp(2))."""

from __future__ import annotations

import struct
from collections.abc import Sequence

_LOAD, _AND, _RETURN, _JUMP = 0x20, 0x54, 0x06, 0x05
_COMPARISONS = {
    0x15: lambda a, k: a == k,
    0x25: lambda a, k: a > k,
    0x35: lambda a, k: a >= k,
}


def run(program: bytes, architecture: int, number: int, arguments: Sequence[int]) -> int:
    """Return what a filter returns for a call.

    Raises:
        AssertionError: The kernel would not take the program, or it does not come to an end.
    """
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments)
    code = list(struct.iter_unpack("<HBBI", program))
    assert 0 < len(code) <= 4096
    accumulator = position = 0
    while True:
        instruction, if_true, if_false, operand = code[position]
        position += 1
        if instruction == _LOAD:
            assert operand % 4 == 0
            assert operand < len(data)
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif instruction == _AND:
            accumulator &= operand
        elif instruction == _JUMP:
            position += operand
        elif instruction == _RETURN:
            return operand
        else:
            holds = _COMPARISONS[instruction](accumulator, operand)
            position += if_true if holds else if_false
