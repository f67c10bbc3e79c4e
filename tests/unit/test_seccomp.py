"""Filters of system calls: the compiler against a plain reading of policies, tables, profiles."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import bpf
from hypothesis import given
from hypothesis import strategies as st

import pytest_containers as pc
from pytest_containers.engines.native.profiles import Host, resolve
from pytest_containers.linux.seccomp import with_exception
from pytest_containers.model.security import absolute_profiles, seccomp_option
from pytest_containers.runtime.plan.oci import DEFAULT_CAPABILITIES
from pytest_containers.runtime.seccomp.builtin import BUILTIN
from pytest_containers.runtime.seccomp.compiler import AUDIT_ARCH, X32, compile_filter
from pytest_containers.runtime.seccomp.default import default_policy
from pytest_containers.runtime.seccomp.numbers import table
from pytest_containers.runtime.seccomp.policy import (
    ALLOW,
    ERRNO,
    KILL_PROCESS,
    KILL_THREAD,
    LOG,
    OPERATORS,
    TRAP,
    Condition,
    Policy,
    Rule,
    policy_of,
)
from pytest_containers.runtime.wire.faults import FaultError

EPERM, ENOSYS = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
MACHINES = {"x86_64": "i386", "aarch64": "arm"}
FULL = (1 << 64) - 1

# ------------------------------------------------------------------- a plain reading

COMPARE = {
    "NE": lambda a, v, _: a != v,
    "LT": lambda a, v, _: a < v,
    "LE": lambda a, v, _: a <= v,
    "EQ": lambda a, v, _: a == v,
    "GE": lambda a, v, _: a >= v,
    "GT": lambda a, v, _: a > v,
    "MASKED_EQ": lambda a, v, w: a & v == w & v,
}
INT_ARGUMENTS = {
    ("socket", 0),
    ("socket", 1),
    ("socket", 2),
    ("personality", 0),
    ("clone", 0),
    ("ioctl", 1),
    ("prctl", 0),
}
SELECTED = {  # of those that the policies below name
    ("socketcall", 1): "socket", ("socketcall", 3): "connect", ("socketcall", 5): "accept",
    ("ipc", 1): "semop", ("ipc", 23): "shmget",
}  # fmt: skip


def judge(
    policy: Policy, machine: str, architecture: str, number: int, arguments: Sequence[int]
) -> int:
    """Return the action of a policy for a call, read rule by rule."""
    if architecture not in (machine, *policy.architectures):
        return KILL_PROCESS
    if architecture == "x86_64" and number >= X32:
        return ENOSYS
    numbers = table(architecture)
    names = {name for name in numbers if numbers[name] == number}
    effective = [rule for rule in policy.rules if rule.action != policy.default]
    for rule in effective:
        if names.intersection(rule.names) and not rule.conditions:
            return rule.action
    for rule in effective:
        if rule.conditions:
            if any(
                all(
                    _holds(condition, name, architecture, arguments)
                    for condition in rule.conditions
                )
                for name in names.intersection(rule.names)
            ):
                return rule.action
        elif architecture == "i386" and any(
            (name, arguments[0] & 0xFFFFFFFF) in SELECTED
            and SELECTED[name, arguments[0] & 0xFFFFFFFF] in rule.names
            for name in names
        ):
            return rule.action
    return _unnamed(policy, architecture, number)


def _unnamed(policy: Policy, architecture: str, number: int) -> int:
    numbers = table(architecture)
    named = {numbers[name] for rule in policy.rules for name in rule.names if name in numbers}
    if architecture == "i386":
        for (caller, _), name in SELECTED.items():
            if any(
                name in rule.names and not rule.conditions and rule.action != policy.default
                for rule in policy.rules
            ):
                named.add(numbers[caller])
    public = [each for each in named if each < 0xF0000]
    if policy.default in (ALLOW, LOG) or not public or number <= max(public) or number in named:
        return policy.default
    return ENOSYS


def _holds(condition: Condition, name: str, architecture: str, arguments: Sequence[int]) -> bool:
    argument, value, datum = arguments[condition.argument], condition.value, condition.value_two
    if architecture in ("i386", "arm") or (name, condition.argument) in INT_ARGUMENTS:
        argument, value, datum = (each & 0xFFFFFFFF for each in (argument, value, datum))
    return bool(COMPARE[condition.operator](argument, value, datum))


# ---------------------------------------------------------------------- the compiler

NAMES = (
    "read", "write", "open", "clone", "clone3", "socket", "connect", "accept", "socketcall", "ipc",
    "semop", "shmget", "personality", "ioctl", "prctl", "mmap", "set_tls", "removexattrat", "mseal",
    "no_such_call",
)  # fmt: skip
WORDS = st.sampled_from([
    0, 1, 3, 5, 23, 38, 39, 40, 0x7E020000, 0x10000000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
    1 << 32, (1 << 32) + 38, (1 << 32) + 40, 0xFFFFFFFF00000000, FULL - 1, FULL,
])  # fmt: skip
ACTIONS = st.sampled_from([ALLOW, EPERM, ENOSYS, ERRNO | 5, LOG, TRAP, KILL_THREAD, KILL_PROCESS])
CONDITIONS = st.builds(Condition, st.integers(0, 5), st.sampled_from(OPERATORS), WORDS, WORDS)
RULES = st.builds(
    Rule,
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True).map(tuple),
    ACTIONS,
    st.lists(CONDITIONS, max_size=3).map(tuple),
)
POLICIES = st.builds(
    Policy, ACTIONS, st.lists(RULES, max_size=8).map(tuple),
    st.sampled_from([(), ("i386",), ("arm",), ("x86_64", "i386")]),
)  # fmt: skip
NUMBERS = st.one_of(
    st.sampled_from(sorted({table(each)[name] for each in AUDIT_ARCH for name in NAMES
                            if name in table(each)})),
    st.integers(0, 500),
    st.sampled_from([X32, X32 + 1, X32 + 520, 0xF0002, 0x7FFFFFFF, 0xFFFFFFFF]),
)  # fmt: skip
ARGUMENTS = st.tuples(*[WORDS] * 6)


@given(POLICIES, st.sampled_from([*MACHINES]), st.lists(
    st.tuples(st.sampled_from([*AUDIT_ARCH]), NUMBERS, ARGUMENTS), min_size=10, max_size=60,
))  # fmt: skip
def test_a_filter_does_what_its_policy_says(
    policy: Policy, machine: str, calls: list[tuple[str, int, tuple[int, ...]]]
) -> None:
    program = compile_filter(policy, machine)
    for architecture, number, arguments in calls:
        expected = judge(policy, machine, architecture, number, arguments)
        actual = bpf.run(program, AUDIT_ARCH[architecture], number, arguments)
        assert (architecture, number, arguments, actual) == (
            architecture, number, arguments, expected,
        )  # fmt: skip


@pytest.mark.parametrize("machine", [*MACHINES])
@pytest.mark.parametrize("more", [(), ("CAP_SYS_ADMIN",), ("CAP_SYS_PTRACE", "CAP_SYSLOG")])
def test_the_default_filter_does_what_its_policy_says(machine: str, more: tuple[str, ...]) -> None:
    policy = default_policy((*DEFAULT_CAPABILITIES, *more), machine)
    program = compile_filter(policy, machine)
    values = (0, 8, 37, 38, 39, 40, 41, 0x20008, 0x11, 0x10000011, 0xFFFFFFFF, (1 << 32) + 38)
    for architecture in AUDIT_ARCH:
        numbers = [*range(600), X32, X32 + 1, X32 + 41, *range(0xEFFFE, 0xF0010), 0xFFFFFFFF]
        for number in numbers:
            for value in values:
                arguments = (value, 0, 0, 0, 0, 0)
                actual = bpf.run(program, AUDIT_ARCH[architecture], number, arguments)
                assert actual == judge(policy, machine, architecture, number, arguments)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_filter_with_an_exception_differs_in_one_call(
    monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    monkeypatch.setattr("pytest_containers.linux.seccomp.MACHINE", machine)
    strict, numbers = BUILTIN[machine], table(machine)
    loose = with_exception(strict, numbers["unshare"], 0x10000000)
    own, other = AUDIT_ARCH[machine], AUDIT_ARCH["i386"]
    calls = [
        (own, numbers[name], argument)
        for name in ("unshare", "mount", "setns", "clone", "read", "execveat")
        for argument in (0, 0x10000000, 0x10020000, 0x1_10000000, 0x10000000_00000000)
    ]
    calls += [(other, numbers["unshare"], 0x10000000), (own, 5000, 0x10000000)]
    for call in calls:
        architecture, number, argument = call
        before, after = (
            bpf.run(each.code, architecture, number, [argument, 0, 0, 0, 0, 0])
            for each in (strict, loose)
        )
        if call == (own, numbers["unshare"], 0x10000000):
            assert (before, after) == (ERRNO | errno.EPERM, ALLOW)
        else:
            assert before == after, call


def test_many_rules_need_far_jumps() -> None:
    names = list(table("x86_64"))
    rules = tuple(
        Rule((name,), ERRNO | number, (Condition(number % 6, "EQ", number << 20),))
        for number, name in enumerate(names[:380])
    )
    policy = Policy(ALLOW, rules)
    program = compile_filter(policy, "x86_64")
    for number, name in enumerate(names[:380]):
        arguments = [number << 20] * 6
        actual = bpf.run(program, AUDIT_ARCH["x86_64"], table("x86_64")[name], arguments)
        assert actual == ERRNO | number
        assert bpf.run(program, AUDIT_ARCH["x86_64"], table("x86_64")[name], [5] * 6) == ALLOW


def test_a_policy_that_is_too_long_is_refused() -> None:
    rules = tuple(
        Rule(
            (name,), ERRNO | 5, tuple(Condition(index, "GT", FULL // number) for index in range(6))
        )
        for number, name in enumerate(table("x86_64"), 1)
    )
    with pytest.raises(
        FaultError, match=r"compiles to \d+ instructions, and the kernel takes 4096"
    ):
        compile_filter(Policy(ALLOW, rules), "x86_64")


def test_the_default_filter_is_short() -> None:
    """Each instruction is paid for at every start, when the kernel translates them."""
    policy = default_policy(DEFAULT_CAPABILITIES, "x86_64")
    assert len(compile_filter(policy, "x86_64")) // 8 < 160
    assert len(compile_filter(policy._replace(architectures=()), "x86_64")) // 8 < 75


# -------------------------------------------------------------------------- the tables

_NOT_CALLS = {"syscalls", "arch_specific_syscall"}


def _header(compiler_path: str, name: str) -> dict[str, int]:
    """Return number by name as the headers of a C compiler have them."""
    output = subprocess.run(
        [compiler_path, "-E", "-dM", "-xc", "-"], input=f"#include <asm/{name}>\n", check=True,
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    macros = dict(re.findall(r"#define (__NR\w+) (.+)", output))

    def value(text: str) -> int:
        while text in macros:
            text = macros[text]
        return int(text, 0)

    names = [name for name in macros if name.startswith("__NR_")]
    return {name[5:]: value(name) for name in names if name[5:] not in _NOT_CALLS}


@pytest.mark.parametrize(
    ("architecture", "program", "name"),
    [("x86_64", "gcc", "unistd_64.h"), ("i386", "gcc", "unistd_32.h"),
     pytest.param("aarch64", "aarch64-linux-gnu-gcc", "unistd.h",
                  marks=pytest.mark.needs("aarch64"))],
)  # fmt: skip
def test_numbers_are_those_of_the_kernels_headers(
    architecture: str, program: str, name: str
) -> None:
    path = shutil.which(program)
    assert path
    header = _header(path, name)
    assert len(header) > 290
    ours = table(architecture)
    # A newer header may have more; whoever meets that adds them.
    newest = max(ours.values())
    missing = {name: number for name, number in header.items() if number <= newest}
    assert {name: ours.get(name) for name in missing} == missing


def test_no_number_has_two_names_but_by_an_alias() -> None:
    for architecture in AUDIT_ARCH:
        numbers = list(table(architecture).values())
        assert len(numbers) - len(set(numbers)) == (1 if architecture == "arm" else 0)


AARCH64 = """
#include <linux/audit.h>
#include <stddef.h>
#include <stdio.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
int main(void) {
    printf("%u %zu %zu\\n", AUDIT_ARCH_AARCH64, offsetof(struct seccomp_data, arch),
           offsetof(struct seccomp_data, args));
    printf("%d %d %d %d\\n", SYS_clone, SYS_clone3, SYS_socket, SYS_unshare);
}
"""


@pytest.mark.needs("aarch64")
def test_a_program_of_aarch64_meets_the_filter_that_is_made_for_it(tmp_path: Path) -> None:
    """Under qemu-user, which knows no filters itself: what it calls goes through ours here."""
    (tmp_path / "calls.c").write_text(AARCH64)
    binary = tmp_path / "calls"
    subprocess.run(
        ["aarch64-linux-gnu-gcc", "-static", "-o", binary, tmp_path / "calls.c"], check=True
    )
    qemu = shutil.which("qemu-aarch64")
    assert qemu
    lines = subprocess.run([qemu, binary], check=True, capture_output=True, text=True).stdout
    (architecture, *offsets), numbers = (
        [int(word) for word in line.split()] for line in lines.splitlines()
    )
    assert (architecture, offsets) == (AUDIT_ARCH["aarch64"], [4, 16])
    clone, clone3, socket, unshare = numbers
    program = compile_filter(default_policy(DEFAULT_CAPABILITIES, "aarch64"), "aarch64")

    def result(number: int, first: int = 0) -> int:
        return bpf.run(program, architecture, number, [first, 0, 0, 0, 0, 0])

    assert [result(clone, 0x11), result(clone, 0x10000011)] == [ALLOW, EPERM]
    assert [result(clone3), result(unshare)] == [ENOSYS, EPERM]
    assert [result(socket, family) for family in (2, 38, 40)] == [ALLOW, EPERM, EPERM]


# ------------------------------------------------------------------ reading a policy


def test_a_policy_is_read() -> None:
    document = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_S390X"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"],
        "syscalls": [
            {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": None},
            {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97, "comment": "no",
             "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"},
                      {"index": 1, "value": 15, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["reboot"], "action": "SCMP_ACT_ERRNO", "errno": "ENOTTY"},
            {"names": ["kcmp"], "action": "SCMP_ACT_KILL"},
        ],
    }  # fmt: skip
    assert policy_of(document, "profile") == Policy(
        ERRNO | 38,
        (
            Rule(("read", "write"), ALLOW),
            Rule(
                ("socket",), ERRNO | 97, (Condition(0, "EQ", 2), Condition(1, "MASKED_EQ", 15, 3))
            ),
            Rule(("reboot",), ERRNO | errno.ENOTTY),
            Rule(("kcmp",), KILL_THREAD),
        ),
        ("x86_64", "i386"),
        flags=2,
    )


def test_comparisons_of_one_argument_are_alternatives_as_for_runc() -> None:
    args = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (1, 2)]
    rule = {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": args}
    policy = policy_of({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}, "profile")
    assert policy.rules == (
        Rule(("socket",), ALLOW, (Condition(0, "EQ", 1),)),
        Rule(("socket",), ALLOW, (Condition(0, "EQ", 2),)),
    )


def profile(**changes: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ERRNO", **changes}


def rule(**changes: Any) -> dict[str, Any]:
    return profile(syscalls=[{"names": ["read"], "action": "SCMP_ACT_ALLOW", **changes}])


def argument(**changes: Any) -> dict[str, Any]:
    return rule(args=[{"index": 0, "value": 1, "op": "SCMP_CMP_EQ", **changes}])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "P: [] is not an object"),
        ({}, "P: defaultAction is missing"),
        (profile(defaultAction="ALLOW"), "P: defaultAction 'ALLOW' is unknown; there are SCMP_ACT_A"),
        (profile(defaultAction=3), "P: defaultAction 3 is not a name"),
        (profile(defaultAction="SCMP_ACT_NOTIFY"),
         "P: defaultAction 'SCMP_ACT_NOTIFY' is not supported: nothing would answer its notif"),
        (profile(defaultErrnoRet=4096), "P: defaultErrnoRet 4096 is not a whole number from 0 to 4095"),
        (profile(defaultErrnoRet=True), "P: defaultErrnoRet True is not a whole number from 0 to 4095"),
        (profile(defaultErrno="EWHAT"), "P: defaultErrno 'EWHAT' is not an errno, as 'EPERM' is"),
        (profile(syscall=[]), "P: 'syscall' is unknown; there are architectures, defaultAction, "),
        (profile(listenerPath="/x"), "P: listenerPath is not supported: nothing would answer"),
        (profile(architectures="x"), "P: architectures 'x' is not a list"),
        (profile(architectures=["X86"]), "P: architecture 'X86' is unknown; one is 'SCMP_ARCH_X86_64'"),
        (profile(flags=["NEW"]), "P: flag 'NEW' is not supported; there are SECCOMP_FILTER_FLAG_TSY"),
        (profile(syscalls={}), "P: syscalls {} is not a list"),
        (profile(syscalls=["read"]), "P: syscalls[0]: 'read' is not an object"),
        (rule(names=[]), "P: syscalls[0]: names is empty"),
        (rule(names=[4]), "P: syscalls[0]: name 4 is not a name"),
        (profile(syscalls=[{"names": ["read"]}]), "P: syscalls[0]: action is missing"),
        (rule(action="SCMP_ACT_TRACE"),
         "P: syscalls[0]: action 'SCMP_ACT_TRACE' is not supported: nothing traces the programs"),
        (rule(arg=[]), "P: syscalls[0]: 'arg' is unknown; there are action, args, comment, errno, "),
        (argument(index=6), "P: syscalls[0]: args[0]: index 6 is not a whole number from 0 to 5"),
        (argument(value=-1), "P: syscalls[0]: args[0]: value -1 is not a whole number from 0 to 1844"),
        (argument(value=0.5), "P: syscalls[0]: args[0]: value 0.5 is not a whole number from 0 to"),
        (argument(op="SCMP_CMP_XX"), "P: syscalls[0]: args[0]: op 'SCMP_CMP_XX' is unknown; there"),
        (argument(op="EQ"), "P: syscalls[0]: args[0]: op 'EQ' is unknown; there are SCMP_CMP_NE, "),
        (rule(args=[{"value": 1, "op": "SCMP_CMP_EQ"}]), "P: syscalls[0]: args[0]: index is missing"),
    ],
)  # fmt: skip
def test_a_wrong_policy_is_one_sentence(document: object, message: str) -> None:
    with pytest.raises(FaultError) as caught:
        policy_of(document, "P")
    assert caught.value.fault.kind == "SpecError"
    assert str(caught.value).startswith(message)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5000), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["defaultAction", "defaultErrnoRet", "syscalls", "names", "action", "args",
                 "index", "op", "flags", "value", "architectures", "errno"]
            ),
            st.one_of(inner, st.sampled_from(["SCMP_ACT_ALLOW", "SCMP_CMP_EQ", ["read"]])),
            max_size=4,
        ),
    ),
    max_leaves=12,
)  # fmt: skip


@given(JSON)
def test_any_document_is_a_policy_or_a_clear_error(document: object) -> None:
    try:
        policy = policy_of(document, "profile")
    except FaultError as error:
        assert error.fault.kind == "SpecError"
        assert str(error).startswith("profile: ")
    else:
        compile_filter(policy, "x86_64")


# ------------------------------------------------------------------------- the option


@pytest.mark.parametrize(
    ("options", "value"),
    [((), ""), (["seccomp=unconfined"], "unconfined"), (["seccomp=a=b.json"], "a=b.json")],
)
def test_the_option_of_a_container(options: Sequence[str], value: str) -> None:
    assert seccomp_option(options) == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "seccomp=unconfined",
            "security_opt='seccomp=unconfined' is not usable; it must be a list",
        ),
        (["seccomp=a", "seccomp=b"], "one profile is needed"),
        (["seccomp="], "one profile is needed"),
        (["seccomp:unconfined"], "there are 'seccomp=unconfined' and 'seccomp=PROFILE.json'"),
        (["no-new-privileges"], "pass no_new_privileges=True"),
        (["no-new-privileges:true"], "pass no_new_privileges=True"),
        (["label=disable"], "leave it out: no such module confines containers here"),
        ([3], r"security_opt=\[3\] is not usable; it must be a list of texts"),
    ],
)
def test_a_wrong_option_of_a_container(options: Any, message: str) -> None:
    with pytest.raises(pc.SpecError, match=message):
        pc.ContainerSpec("host:", security_opt=options)


def test_profiles_are_relative_to_a_folder() -> None:
    options = ["seccomp=p.json", "seccomp=/p.json", "seccomp=unconfined", "seccomp={}", "label=x"]
    assert absolute_profiles(options, "/tests") == (
        "seccomp=/tests/p.json", "seccomp=/p.json", *options[2:],
    )  # fmt: skip


def test_conditions_of_a_profile_are_about_the_container() -> None:
    def row(name: str, **conditions: Any) -> dict[str, Any]:
        return {"names": [name], "action": "SCMP_ACT_ALLOW", **conditions}

    rows = [
        row("a", includes={"caps": ["CAP_CHOWN", "CAP_BPF"]}),
        row("b", includes={"caps": ["CAP_CHOWN"]}, excludes={"caps": ["CAP_BPF", "CAP_KILL"]}),
        row("c", excludes={"caps": ["CAP_BPF"]}),
        row("d", includes={"arches": ["arm64"]}),
        row("e", excludes={"arches": ["arm64"]}),
        row("f", includes={"minKernel": "5.10"}),
        row("g", includes={"minKernel": "5.4"}),
        row("h", excludes={"minKernel": "5.4"}),
        row("i", includes={"caps": ["CAP_CHOWN"], "arches": ["amd64"]}, excludes=None),
    ]
    document = {
        "defaultAction": "SCMP_ACT_ERRNO", "syscalls": rows,
        "archMap": [
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            {"architecture": "SCMP_ARCH_S390X", "subArchitectures": None},
        ],
    }  # fmt: skip
    host = Host(frozenset({"CAP_CHOWN", "CAP_KILL"}), "aarch64", (5, 6))
    resolved = resolve(document, "profile", host)
    assert [entry["names"][0] for entry in resolved["syscalls"]] == ["c", "d", "g"]
    assert resolved["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    other = resolve(document, "profile", Host(frozenset({"CAP_CHOWN"}), "x86_64", (6, 1)))
    assert [entry["names"][0] for entry in other["syscalls"]] == ["b", "c", "e", "f", "g", "i"]
    assert "architectures" not in other
