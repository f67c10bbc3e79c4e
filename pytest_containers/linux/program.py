"""A start or exec as data: the system calls that a child makes, in order, up to its execve(2).

`Program` lays the calls out in one block of memory, which both runners of `spawn` walk: machine
code (`stubs`) or a Python loop. Nothing of Python's is needed in the child but that block.

The block, in 64-bit words of this machine::

    0    address of the step in flight
    8    pidfd, as clone3(2) stores it
    16   signal mask to restore; 24: the full mask
    32   struct clone_args
    120  steps of 88 bytes: number, six arguments, result, receivers, errors to ignore (2 words)

*Receivers* is the place, counted from the start of the block, of an argument which takes the
step's result; that place holds the next receiver's until then, and the last holds 0. Since all
of it is relative, a copy of the block is a program of its own.
"""

from __future__ import annotations

import ctypes
import os
import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_containers.linux.numbers import NR

if TYPE_CHECKING:
    from typing import Self

HEADER_SIZE, STEP_SIZE = 120, 88
RESULT_AT, RECEIVERS_AT = 56, 64
BLOCK_AT = 0x600000
"""The address of the block in a program that is a file of its own (`standalone`)."""
NOT_RUN = -(1 << 63)
"""Stands for the result of a step that has not returned; no call returns it."""

STATUS_FD = "status_fd"
"""The parameter that `spawn` fills in: the descriptor whose end tells the parent of the execve."""

Label = str | tuple[object, ...]

_pack_step = struct.Struct("=11q").pack
_word = struct.Struct("=q")
_address_of_bytes = ctypes.pythonapi.PyBytes_AsString
_address_of_bytes.argtypes = [ctypes.py_object]
_address_of_bytes.restype = ctypes.c_void_p

_SIGPIPE, _SIGXFSZ, _SIG_SETMASK = 13, 25, 2
_RT_SIGACTION = {"x86_64": 13, "aarch64": 134}
_NO_MASK, _DEFAULT_ACTION = bytes(8), bytes(32)
_NOT_THIS_ONE = (2, 13, 20)
"""ENOENT, EACCES, ENOTDIR: what makes execvp(3) try the next directory of ``PATH``."""


class Result:
    """As an argument: whatever an earlier step returned, a descriptor most of the time."""

    __slots__ = ("step",)

    def __init__(self, step: int) -> None:
        self.step: int = step


class Param:
    """As an argument: a hole, which `Program.bind` fills."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name: str = name


Buffer = bytearray | ctypes.Structure | ctypes.Array[ctypes.c_char]
Value = int | bytes | None | Sequence[bytes] | Buffer
Arg = Value | Result | Param


class Program:
    """System calls for a child to make, in order. Only grows; any number of children can run it.

    Arguments are integers (None is 0), or what a pointer is passed to: ``bytes`` (a C string or a
    constant structure), a list of ``bytes`` (argv, envp), a writable buffer, besides `Result`
    and `Param`. Their memory is kept as long as the program or a child that walks it lives.

    A path with a NUL in it ends there, as everywhere in C: callers check the paths
    they take from outside. Later steps see what the child writes to a buffer; the parent is not
    promised to see it.

    Attributes:
        labels: Of the steps.
        successor: The program that an execve of this one executes (`standalone`), which reports a
            failure to the parent as this one does.
    """

    __slots__ = ("_code", "_holes", "_keep", "labels", "successor")
    _end = (NR["exit_group"], 127)

    def __init__(self) -> None:
        self.successor: Program | None = None
        self.labels: list[Label] = []
        self._code = bytearray(HEADER_SIZE)
        self._keep: list[object] = []
        self._holes: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def text(self) -> str:
        """The labels of all steps in one line, without repetitions."""
        return "; ".join(dict.fromkeys(_text(label) for label in self.labels))

    def add(self, label: Label, nr: int, *args: Arg, ignore: bool | tuple[int, ...] = False) -> int:
        """Append one system call.

        Args:
            label: Operation and object, for the error: ``"mount proc on /proc"``, or a tuple of
                the words, which is joined only when needed.
            nr: Its number (`numbers.NR`).
            *args: Up to six.
            ignore: Go on after these errnos (below 128), or after any error if True. For an
                optional step, name the errors: one that hides something from a container must
                not be skipped because of, say, ENOMEM.

        Returns:
            The step's index, for `Result` and `Child.result`.
        """
        index = len(self.labels)
        low, high = _ignored(ignore) if ignore else (0, 0)
        words: list[int] = [nr, 0, 0, 0, 0, 0, 0, NOT_RUN, 0, low, high]
        position = 0
        for arg in args:
            position += 1
            words[position] = (
                arg if type(arg) is int else self._convert(arg, len(self._code) + 8 * position)
            )
        if position > 6:
            raise ValueError(f"{_text(label)}: a system call takes six arguments, not {position}")
        self._code += _pack_step(*words)
        self.labels.append(label)
        return index

    def execve(
        self,
        label: Label,
        paths: Iterable[bytes],
        argv: Arg,
        envp: Arg,
    ) -> None:
        """Append the end of a program: execve(2) of the first of `paths` that is there.

        When all fail, `Child.outcome` reports the first error that is not "no such file", so
        EACCES means found and not executable, as with execvp(3).
        """
        for path in paths:
            self.add(label, NR["execve"], path, argv, envp, ignore=_NOT_THIS_ONE)

    def reset_signals(self, ignored: Iterable[int] = (_SIGPIPE, _SIGXFSZ)) -> None:
        """Append what gives the new program default signals: needed once, right before execve.

        `spawn` starts a child with all signals blocked and all handlers gone, but a signal which
        the parent ignores stays ignored.

        Args:
            ignored: The signals which the parent ignores; Python's two by default.
        """
        sigaction = _RT_SIGACTION[os.uname().machine]
        for signum in ignored:
            self.add(("restore signal", signum), sigaction, signum, _DEFAULT_ACTION, 0, 8)
        self.add("unblock signals", NR["rt_sigprocmask"], _SIG_SETMASK, _NO_MASK, 0, 8)

    def bind(self, values: Mapping[str, Value]) -> Self:
        """A copy, to which more can be added, with the holes named in `values` filled."""
        copy = self._copy()
        for name, value in values.items():
            word = _word.pack(value if type(value) is int else copy._pointer(value))
            for place in copy._holes.pop(name):
                copy._code[place : place + 8] = word
        return copy

    def _copy(self) -> Self:
        copy = type(self).__new__(type(self))
        copy.labels = self.labels.copy()
        copy.successor = self.successor
        copy._code = self._code.copy()
        copy._keep = self._keep.copy()
        copy._holes = {name: places.copy() for name, places in self._holes.items()}
        return copy

    def image(self, status_fd: int = -1) -> bytearray:
        """A fresh block with these steps, and one more that ends a child that gets there.

        Args:
            status_fd: Fills the hole named `STATUS_FD`, if there is one.

        Raises:
            ValueError: A hole has not been filled.
        """
        holes = self._holes.keys() - {STATUS_FD}
        if holes:
            raise ValueError(f"program with unbound parameters: {', '.join(sorted(holes))}")
        block = self._code + _pack_step(*self._end, 0, 0, 0, 0, 0, NOT_RUN, 0, 0, 0)
        for place in self._holes.get(STATUS_FD, ()):
            _word.pack_into(block, place, status_fd)
        return block

    def address_of(self, data: bytes) -> int:
        """The address at which a child will find `data`, for a structure that points to it."""
        return self._pointer(data)

    def _convert(self, arg: Arg, place: int) -> int:
        """The word for `arg`, which will stand at `place`."""
        if isinstance(arg, Result):
            if not 0 <= arg.step < len(self.labels):
                raise ValueError(f"no earlier step {arg.step} to take a result of")
            receivers = HEADER_SIZE + arg.step * STEP_SIZE + RECEIVERS_AT
            (following,) = _word.unpack_from(self._code, receivers)
            _word.pack_into(self._code, receivers, place)
            return int(following)
        if isinstance(arg, Param):
            self._holes.setdefault(arg.name, []).append(place)
            return 0
        return self._pointer(arg)

    def _pointer(self, value: Value) -> int:
        """The address of memory with `value` in it, kept alive by this program."""
        if value is None:
            return 0
        if isinstance(value, int):
            return value - (1 << 64) if value >= 1 << 63 else int(value)
        if isinstance(value, list | tuple):
            # One string with NULs in it and one array of where each begins: two objects to keep.
            strings = b"\0".join(value)
            address = self._pointer(strings)
            pointers = array("q")
            for string in value:
                pointers.append(address)
                address += len(string) + 1
            pointers.append(0)
            value = pointers.tobytes()
        if isinstance(value, bytes):
            return self._place(value)
        if isinstance(value, str):
            raise TypeError(f"a program takes bytes, not str: {value!r}")
        return self._place_buffer(value)  # type: ignore[arg-type]  # what is left is writable

    def _place(self, data: bytes) -> int:
        self._keep.append(data)
        return int(_address_of_bytes(data))

    def _place_buffer(self, value: Buffer) -> int:
        view = ctypes.c_char.from_buffer(value)
        self._keep.append(view)
        return ctypes.addressof(view)


class Failure:
    """Why a child did not get to its execve.

    Attributes:
        step: Index of the step.
        label: Its operation and object.
        errno: The kernel's answer; 0 when the child was killed before it had one.
    """

    __slots__ = ("errno", "label", "step")

    def __init__(self, step: int, label: Label, errno: int) -> None:
        self.step: int = step
        self.label: Label = label
        self.errno: int = errno

    @property
    def cause(self) -> str:
        """The kernel's message."""
        return os.strerror(self.errno) if self.errno else "the process was killed"

    def __str__(self) -> str:
        return f"{_text(self.label)}: {self.cause}"

    def __repr__(self) -> str:
        return f"Failure({self.step}, {self.label!r}, {self.errno})"

    def __eq__(self, other: object) -> bool:
        return repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


def _text(label: Label) -> str:
    if isinstance(label, str):
        return label
    words = (os.fsdecode(word) if isinstance(word, bytes) else str(word) for word in label)
    return " ".join(words)


def _ignored(errnos: bool | tuple[int, ...]) -> tuple[int, int]:
    """The two words of a step: bit N for errno N; bit 0 for those from 128 up."""
    if errnos is True:
        return -1, -1
    mask = 0
    for number in errnos or ():
        if not 0 < number < 128:
            raise ValueError(f"errno {number} cannot be ignored on its own")
        mask |= 1 << number
    low, high = struct.unpack("=2q", mask.to_bytes(16, "little"))
    return low, high
