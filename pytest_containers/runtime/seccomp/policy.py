"""Policies, and how they are read from an OCI config (runtime-spec config-linux.md#seccomp)."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pytest_containers.model.harmless import quoted
from pytest_containers.runtime.wire.faults import FaultError

ALLOW, LOG, TRAP, ERRNO = 0x7FFF0000, 0x7FFC0000, 0x00030000, 0x00050000
KILL_PROCESS, KILL_THREAD = 0x80000000, 0
"""Return values of a filter (seccomp(2)); the errno is in the low half of `ERRNO`."""

FLAG_LOG, FLAG_SPEC_ALLOW = 2, 4

_ACTIONS = {
    "SCMP_ACT_ALLOW": ALLOW, "SCMP_ACT_LOG": LOG, "SCMP_ACT_TRAP": TRAP, "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_KILL": KILL_THREAD, "SCMP_ACT_KILL_THREAD": KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
}  # fmt: skip
_REFUSED_ACTIONS = {
    "SCMP_ACT_TRACE": "nothing traces the programs of a container",
    "SCMP_ACT_NOTIFY": "nothing would answer its notifications",
}
_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # a program begins as one thread
    "SECCOMP_FILTER_FLAG_LOG": FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": FLAG_SPEC_ALLOW,
}
_OURS = {
    "SCMP_ARCH_X86_64": "x86_64", "SCMP_ARCH_X86": "i386", "SCMP_ARCH_AARCH64": "aarch64",
    "SCMP_ARCH_ARM": "arm",
}  # fmt: skip
_OTHERS = frozenset(
    f"SCMP_ARCH_{name}"
    for name in (
        "X32",
        "LOONGARCH64",
        "M68K",
        "MIPS",
        "MIPS64",
        "MIPS64N32",
        "MIPSEL",
        "MIPSEL64",
        "MIPSEL64N32",
        "PARISC",
        "PARISC64",
        "PPC",
        "PPC64",
        "PPC64LE",
        "RISCV64",
        "S390",
        "S390X",
        "SH",
        "SHEB",
    )
)
"""Architectures whose processes no machine of ours can have, and x32, which is always refused."""

OPERATORS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")

_POLICY = {"defaultAction", "defaultErrnoRet", "defaultErrno", "architectures", "flags", "syscalls"}
_RULE = {"names", "action", "errnoRet", "errno", "args", "comment"}
_ARGUMENT = {"index", "value", "valueTwo", "op"}
_NOT_SUPPORTED = {"listenerPath", "listenerMetadata"}
_MAX_ERRNO = 4095  # the kernel cuts off more


class Condition(NamedTuple):
    """A comparison of an argument of a system call.

    Attributes:
        argument: Which, from 0 to 5.
        operator: One of `OPERATORS`.
        value: What it is compared with; for ``MASKED_EQ`` the mask.
        value_two: For ``MASKED_EQ``: what the masked argument is compared with.
    """

    argument: int
    operator: str
    value: int
    value_two: int = 0


class Rule(NamedTuple):
    """An action for calls of some names, if all conditions hold."""

    names: tuple[str, ...]
    action: int
    conditions: tuple[Condition, ...] = ()


class Policy(NamedTuple):
    """The calls that a process may ask of the kernel.

    A rule without conditions decides about its calls, whatever other rules say; else the first
    whose conditions hold does. Rules with the default action are no rules. Both is what
    libseccomp makes of a profile.

    Attributes:
        default: The action for calls that no rule is for.
        rules: The others.
        architectures: Whose calls are judged by the rules, beside the machine's own; a process
            that makes calls of another is killed.
        flags: Of the filter.
    """

    default: int
    rules: tuple[Rule, ...]
    architectures: tuple[str, ...] = ()
    flags: int = FLAG_SPEC_ALLOW

    @property
    def filters(self) -> bool:
        """False if it allows everything, so that no filter is needed."""
        return self.default != ALLOW or any(rule.action != ALLOW for rule in self.rules)


def policy_of(document: object, where: str) -> Policy:
    """Read a policy.

    Args:
        document: ``linux.seccomp`` of an OCI config.
        where: What messages call it.

    Raises:
        FaultError: ``SpecError``: it has something unknown, wrong or not supported.
    """
    entry = _object(document, where)
    _check_keys(entry, _POLICY, where)
    if "defaultAction" not in entry:
        raise _error(where, "defaultAction is missing")
    default = _action(entry, "defaultAction", "defaultErrnoRet", "defaultErrno", where)
    rules = [
        rule
        for number, each in enumerate(_list(entry, "syscalls", where))
        for rule in rules_of(each, f"{where}: syscalls[{number}]")
    ]
    names = [_word(name, "architecture", where) for name in _list(entry, "architectures", where)]
    architectures = [_OURS[name] for name in names if check_architecture(name, where) in _OURS]
    return Policy(default, tuple(rules), tuple(dict.fromkeys(architectures)), _flags(entry, where))


def rules_of(document: object, where: str) -> Iterator[Rule]:
    """Read an entry of ``syscalls``.

    Yields one rule for each comparison where several compare the same argument: a row of
    comparisons holds if all hold, but runc reads such a row as "any", and profiles rely on it.

    Raises:
        FaultError: See `policy_of`.
    """
    entry = _object(document, where)
    _check_keys(entry, _RULE, where)
    names = tuple(_word(name, "name", where) for name in _list(entry, "names", where))
    if not names:
        raise _error(where, "names is empty")
    if "action" not in entry:
        raise _error(where, "action is missing")
    action = _action(entry, "action", "errnoRet", "errno", where)
    conditions = tuple(
        _condition(each, f"{where}: args[{number}]")
        for number, each in enumerate(_list(entry, "args", where))
    )
    if len({condition.argument for condition in conditions}) < len(conditions):
        yield from (Rule(names, action, (condition,)) for condition in conditions)
    else:
        yield Rule(names, action, conditions)


def check_architecture(name: object, where: str) -> str:
    """Return the name of an architecture, if it is one.

    Raises:
        FaultError: It is unknown.
    """
    if not isinstance(name, str) or (name not in _OURS and name not in _OTHERS):
        raise _error(where, f"architecture {quoted(name)} is unknown; one is 'SCMP_ARCH_X86_64'")
    return name


def _flags(entry: Mapping[str, Any], where: str) -> int:
    if entry.get("flags") is None:
        return FLAG_SPEC_ALLOW
    flags = 0
    for name in _list(entry, "flags", where):
        if not isinstance(name, str) or name not in _FLAGS:
            raise _error(
                where, f"flag {quoted(name)} is not supported; there are {', '.join(_FLAGS)}"
            )
        flags |= _FLAGS[name]
    return flags


def _action(
    entry: Mapping[str, Any], key: str, errno_key: str, errno_name_key: str, where: str
) -> int:
    name = _word(entry[key], key, where)
    if name in _REFUSED_ACTIONS:
        raise _error(where, f"{key} {quoted(name)} is not supported: {_REFUSED_ACTIONS[name]}")
    if name not in _ACTIONS:
        raise _error(where, f"{key} {quoted(name)} is unknown; there are {', '.join(_ACTIONS)}")
    number = _errno(entry, errno_key, errno_name_key, where)
    return ERRNO | number if name == "SCMP_ACT_ERRNO" else _ACTIONS[name]


def _errno(entry: Mapping[str, Any], key: str, name_key: str, where: str) -> int:
    """Return an errno by its number or, as Podman's profiles have it too, its name."""
    if entry.get(key) is not None:
        return _integer(entry[key], key, _MAX_ERRNO, where)
    name = entry.get(name_key)
    if not name:
        return errno.EPERM
    number = getattr(errno, name, None) if isinstance(name, str) else None
    if not isinstance(number, int):
        raise _error(where, f"{name_key} {quoted(name)} is not an errno, as 'EPERM' is")
    return number


def _condition(document: object, where: str) -> Condition:
    entry = _object(document, where)
    _check_keys(entry, _ARGUMENT, where)
    for key in ("index", "op"):
        if key not in entry:
            raise _error(where, f"{key} is missing")
    operator = _word(entry["op"], "op", where).removeprefix("SCMP_CMP_")
    if operator not in OPERATORS or entry["op"] == operator:
        names = ", ".join(f"SCMP_CMP_{name}" for name in OPERATORS)
        raise _error(where, f"op {quoted(entry['op'])} is unknown; there are {names}")
    values = (
        _integer(entry.get(key) or 0, key, (1 << 64) - 1, where) for key in ("value", "valueTwo")
    )
    return Condition(_integer(entry["index"], "index", 5, where), operator, *values)


def _object(document: object, where: str) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise _error(where, f"{quoted(document)} is not an object")
    return document


def _check_keys(entry: Mapping[str, Any], supported: set[str], where: str) -> None:
    for key in entry:
        if key in _NOT_SUPPORTED and entry[key]:
            raise _error(where, f"{key} is not supported: {_REFUSED_ACTIONS['SCMP_ACT_NOTIFY']}")
        if key not in supported and key not in _NOT_SUPPORTED:
            raise _error(
                where, f"{quoted(key)} is unknown; there are {', '.join(sorted(supported))}"
            )


def _list(entry: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = entry.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _error(where, f"{key} {quoted(value)} is not a list")
    return value


def _word(value: object, key: str, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise _error(where, f"{key} {quoted(value)} is not a name")
    return value


def _integer(value: object, key: str, most: int, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise _error(where, f"{key} {quoted(value)} is not a whole number from 0 to {most}")
    return value


def _error(where: str, problem: str) -> FaultError:
    return FaultError("SpecError", f"{where}: {problem}")
