"""From a policy to a program for the kernel's filter machine (seccomp(2), "classic" BPF).

A filter runs at every system call, so it is a tree: calls are compared with the middle of what is
left until few are left, nine comparisons or so instead of some hundred. Neighbouring numbers with
the same action are one range, in which a few single ones may differ. The program first looks at the
architecture, since numbers mean nothing without it.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from typing import NamedTuple

from pytest_containers.linux import seccomp
from pytest_containers.runtime.seccomp.numbers import table
from pytest_containers.runtime.seccomp.policy import (
    ALLOW,
    ERRNO,
    KILL_PROCESS,
    LOG,
    Condition,
    Policy,
)
from pytest_containers.runtime.wire.faults import FaultError

MAX_INSTRUCTIONS = 4096
AUDIT_ARCH = {**seccomp.AUDIT_ARCH, "i386": 0x40000003, "arm": 0x40000028}
X32 = 0x40000000
"""The bit of x32's numbers, which come with the architecture of x86_64."""

_NR_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16  # struct seccomp_data, little-endian
_LOAD, _AND, _RETURN, _JUMP, _JEQ, _JGT, _JGE = 0x20, 0x54, 0x06, 0x05, 0x15, 0x25, 0x35
_FARTHEST = 255
_LOW = 0xFFFFFFFF
_EXCEPTIONS = 4
_NO_SUCH_CALL = ERRNO | errno.ENOSYS
_PRIVATE = 0xF0000
"""Where arm has calls of its own, far above all others."""

_INT_ARGUMENTS = {
    "bpf": (0,), "clone": (0,), "fcntl": (1,), "ioctl": (1,), "keyctl": (0,), "kill": (1,),
    "personality": (0,), "prctl": (0,), "seccomp": (0, 1), "setns": (1,), "setsockopt": (1, 2),
    "socket": (0, 1, 2), "socketpair": (0, 1, 2),
}  # fmt: skip
"""Arguments of which the kernel of a 64-bit machine reads the lower half only.

A filter that looks at the upper half too is passed by whoever sets a bit there (CVE-2019-10063).
"""

_SOCKETCALLS = """
    socket bind connect listen accept getsockname getpeername socketpair send recv sendto
    recvfrom shutdown setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg
"""
_IPC_CALLS = {
    "semop": 1, "semget": 2, "semctl": 3, "semtimedop": 4, "msgsnd": 11, "msgrcv": 12, "msgget": 13,
    "msgctl": 14, "shmat": 21, "shmdt": 22, "shmget": 23, "shmctl": 24,
}  # fmt: skip
_MULTIPLEXED = {
    **{name: ("socketcall", number) for number, name in enumerate(_SOCKETCALLS.split(), 1)},
    **{name: ("ipc", number) for name, number in _IPC_CALLS.items()},
}
"""Calls that i386 has behind another too: its name, and the first argument that selects it."""

Instruction = tuple[int, int, int, int]
"""Code, jumps if true and if false, operand."""


Test = tuple[Condition, bool]
"""A comparison, and True if only the lower half of the argument counts."""
Branch = tuple[tuple[Test, ...], int]
"""Tests, and the action if all of them hold."""


class Decision(NamedTuple):
    """The outcome of a call: the action of the first branch that holds, else the last action."""

    branches: tuple[Branch, ...]
    action: int


def compile_filter(policy: Policy, machine: str) -> bytes:
    """Compile a policy to an array of ``struct sock_filter``.

    Calls that are newer than all that the policy names are ENOSYS, unless it allows what it does
    not name: programs then fall back on older ones, as they would on an older kernel (runc does
    so). Calls of x32 always are.

    Args:
        policy: The policy. Names that an architecture does not have are skipped there.
        machine: Whose own architecture is looked at first.

    Raises:
        FaultError: ``SpecError``: it is too long for the kernel.
    """
    code = _Code()
    other = code.decision(Decision((), KILL_PROCESS))
    for architecture in reversed(dict.fromkeys((machine, *policy.architectures))):
        code.follow(code.tree(segments_of(ranges_of(policy, architecture))))
        tree = code.add(_LOAD, _NR_AT)
        other = code.jump(_JEQ, AUDIT_ARCH[architecture], tree, other)
    code.add(_LOAD, _ARCH_AT)
    if len(code) > MAX_INSTRUCTIONS:
        raise FaultError(
            "SpecError",
            f"the seccomp policy compiles to {len(code)} instructions, and the kernel takes "
            f"{MAX_INSTRUCTIONS}; give it fewer rules with arguments",
        )
    return code.assemble()


def ranges_of(policy: Policy, architecture: str) -> list[tuple[int, Decision]]:
    """Return the first number of each range of calls with one decision, from 0 on."""
    decisions = _decisions(policy, architecture)
    default = Decision((), policy.default)
    beyond = Decision((), _NO_SUCH_CALL)
    newest = max((number for number in decisions if number < _PRIVATE), default=None)
    if newest is None or policy.default in (ALLOW, LOG):
        newest, beyond = 1 << 32, default
    starts = {0, newest + 1, *decisions, *(number + 1 for number in decisions)}
    if architecture == "x86_64":
        starts.add(X32)
    ranges: list[tuple[int, Decision]] = []
    for start in sorted(starts):
        if start > _LOW:
            break
        decision = decisions.get(start, default if start <= newest else beyond)
        if architecture == "x86_64" and start >= X32:
            decision = Decision((), _NO_SUCH_CALL)
        if not ranges or ranges[-1][1] != decision:
            ranges.append((start, decision))
    return ranges


def _decisions(policy: Policy, architecture: str) -> dict[int, Decision]:
    """Return the decisions about the calls that a policy names, by number."""
    numbers = table(architecture)
    decisions: dict[int, Decision] = {}
    branching: dict[int, list[Branch]] = {}
    for rule in policy.rules:
        for name in rule.names:
            if rule.action == policy.default:
                # No rule, but its name is known: what is newer is another matter.
                if name in numbers:
                    branching.setdefault(numbers[name], [])
                continue
            if name in numbers and not rule.conditions:
                decisions.setdefault(numbers[name], Decision((), rule.action))
            elif name in numbers:
                tests = tuple(
                    (condition, _is_int(architecture, name, condition.argument))
                    for condition in rule.conditions
                )
                branching.setdefault(numbers[name], []).append((tests, rule.action))
            if architecture == "i386" and name in _MULTIPLEXED and not rule.conditions:
                caller, selector = _MULTIPLEXED[name]
                test = (Condition(0, "EQ", selector), True)
                branching.setdefault(numbers[caller], []).append(((test,), rule.action))
    for number, branches in branching.items():
        decisions.setdefault(number, Decision(tuple(branches), policy.default))
    return decisions


def _is_int(architecture: str, name: str, index: int) -> bool:
    return architecture in ("i386", "arm") or index in _INT_ARGUMENTS.get(name, ())


class Segment(NamedTuple):
    """Neighbouring numbers with one decision, but for a few.

    Attributes:
        start: The first number; the next segment tells the last.
        usual: The decision.
        exceptions: Numbers with another, and that.
    """

    start: int
    usual: Decision
    exceptions: list[tuple[int, Decision]]


def segments_of(ranges: Sequence[tuple[int, Decision]]) -> list[Segment]:
    """Put ranges together that a single number separates.

    A number takes one comparison then instead of two. The kernel compiles a filter for each start
    and exec, in a time that grows with the length.
    """
    segments = [Segment(*ranges[0], [])]
    index = 1
    while index < len(ranges):
        start, decision = ranges[index]
        _, usual, exceptions = segments[-1]
        following = ranges[index + 1 : index + 2]
        if following == [(start + 1, usual)] and len(exceptions) < _EXCEPTIONS:
            exceptions.append((start, decision))
            index += 2
        else:
            segments.append(Segment(start, decision, []))
            index += 1
    return segments


class _Code:
    """A program in the making, from its end to its start: jumps lead forward only.

    A place is counted from the end. The accumulator holds the number of the call in the tree, and
    an argument behind it.
    """

    def __init__(self) -> None:
        self._backwards: list[Instruction] = []
        self._decisions: dict[Decision, int] = {}

    def __len__(self) -> int:
        return len(self._backwards)

    def assemble(self) -> bytes:
        """Return the program as the kernel takes it."""
        pack = struct.Struct("=HBBI").pack
        return b"".join([pack(*instruction) for instruction in reversed(self._backwards)])

    def add(self, code: int, operand: int, if_true: int = 0, if_false: int = 0) -> int:
        """Put an instruction before all others, and return its place."""
        self._backwards.append((code, if_true, if_false, operand))
        return len(self._backwards) - 1

    def jump(self, code: int, operand: int, if_true: int, if_false: int) -> int:
        """Add a comparison that goes on at one of two places."""
        if_true, if_false = self._reachable(if_true), self._reachable(if_false)
        own = len(self._backwards)
        return self.add(code, operand, own - if_true - 1, own - if_false - 1)

    def follow(self, place: int) -> None:
        """Have what is added next go on at a place."""
        if place != len(self._backwards) - 1:
            self.add(_JUMP, len(self._backwards) - place - 1)

    def _reachable(self, place: int) -> int:
        """Return a place that a comparison reaches and that leads to `place`."""
        distance = len(self._backwards) - place - 1
        # Less by one: a step for the other place may still come between.
        return place if distance < _FARTHEST else self.add(_JUMP, distance)

    def tree(self, segments: Sequence[Segment]) -> int:
        """Add what finds the segment of the number in the accumulator and decides."""
        if len(segments) > 1:
            middle = len(segments) // 2
            upper = self.tree(segments[middle:])
            lower = self.tree(segments[:middle])
            return self.jump(_JGE, segments[middle].start, upper, lower)
        place = self.decision(segments[0].usual)
        for number, decision in segments[0].exceptions:
            place = self.jump(_JEQ, number, self.decision(decision), place)
        return place

    def decision(self, decision: Decision) -> int:
        """Add a decision, unless it is there and near."""
        place = self._decisions.get(decision)
        if place is not None and len(self._backwards) - place < _FARTHEST:
            return place
        if not decision.branches:
            place = self.add(_RETURN, decision.action)
        else:
            place = self.decision(Decision((), decision.action))
            for tests, action in reversed(decision.branches):
                place = self._branch(tests, self.decision(Decision((), action)), place)
        self._decisions[decision] = place
        return place

    def _branch(self, tests: Sequence[Test], holds: int, fails: int) -> int:
        """Add what goes on at one place if all tests hold, and else at the other."""
        for condition, is_int in reversed(tests):
            if condition.operator == "MASKED_EQ":
                holds = self._masked(condition, is_int, holds, fails)
            else:
                holds = self._compared(condition, is_int, holds, fails)
        return holds

    def _masked(self, condition: Condition, is_int: bool, holds: int, fails: int) -> int:
        mask = condition.value
        datum = condition.value_two & mask
        low = _ARGUMENTS_AT + 8 * condition.argument
        self.jump(_JEQ, datum & _LOW, holds, fails)
        self.add(_AND, mask & _LOW)
        holds = self.add(_LOAD, low)
        if mask >> 32 and not is_int:
            self.jump(_JEQ, datum >> 32, holds, fails)
            self.add(_AND, mask >> 32)
            holds = self.add(_LOAD, low + 4)
        return holds

    def _compared(self, condition: Condition, is_int: bool, holds: int, fails: int) -> int:
        operator, value = condition.operator, condition.value
        # The negated operators are the others, with the ways out exchanged.
        if operator in ("NE", "LT", "LE"):
            holds, fails = fails, holds
        compare = {"EQ": _JEQ, "NE": _JEQ, "GT": _JGT, "LE": _JGT, "GE": _JGE, "LT": _JGE}[operator]
        low = _ARGUMENTS_AT + 8 * condition.argument
        self.jump(compare, value & _LOW, holds, self._behind_load(fails, low))
        same = self.add(_LOAD, low)
        if is_int:
            return same
        different = self.jump(_JEQ, value >> 32, same, fails)
        if compare != _JEQ:
            different = self.jump(_JGT, value >> 32, holds, different)
        return self.add(_LOAD, low + 4)

    def _behind_load(self, place: int, offset: int) -> int:
        """Return the next place, if at `place` the word is loaded that is in the accumulator."""
        return place - 1 if self._backwards[place] == (_LOAD, 0, 0, offset) else place
