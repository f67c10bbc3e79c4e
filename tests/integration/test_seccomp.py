"""Filters of system calls on the real kernel: the default policy, profiles, and Docker's own."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.layouts import Layout, busybox, layer, member

import pytest_containers as pc
from pytest_containers.engines.native.filters import filter_of_document
from pytest_containers.linux.numbers import MACHINE
from pytest_containers.runtime import identity
from pytest_containers.runtime.plan.oci import DEFAULT_CAPABILITIES
from pytest_containers.runtime.seccomp.compiler import ranges_of
from pytest_containers.runtime.seccomp.default import default_policy
from pytest_containers.runtime.seccomp.numbers import table
from pytest_containers.runtime.seccomp.policy import ALLOW, ERRNO, Policy

EPERM, ENOSYS = errno.EPERM, errno.ENOSYS
SOURCE = Path(__file__).parent.parent / "helpers/calls.c"
NR = table(MACHINE)
SIBLING = {"x86_64": "i386", "aarch64": "arm"}[MACHINE]
NEWUSER, SIGCHLD = 0x10000000, int(signal.SIGCHLD)
AF_UNIX, AF_ALG, AF_VSOCK = 1, 38, 40

needs_x86_64 = pytest.mark.skipif(MACHINE != "x86_64", reason="needs x86_64")
Ask = Callable[..., list[int | str]]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with a program that makes system calls, a shell, and a set-user-id ``cat``."""
    folder = tmp_path_factory.mktemp("calls")
    compiler = shutil.which("gcc") or "gcc"
    subprocess.run([compiler, "-O1", "-static", "-o", folder / "calls", SOURCE], check=True)
    programs = busybox("cat")
    cat = next(data for name, _, data in programs if name == "bin/cat")
    members = [
        *programs, member("calls", (folder / "calls").read_bytes()),
        member("bin/rootcat", cat, mode=0o4755), member("dev", b"", type=b"5"),
        member("proc", b"", type=b"5"), member("sys", b"", type=b"5"),
    ]  # fmt: skip
    return Layout(folder / "layout").image([layer(members)], {"Env": ["PATH=/bin"]})


MODES = {
    "root": lambda: os.geteuid() == 0,
    "range": lambda: identity.choose().mode != "single",
    "single": lambda: True,
}


@pytest.fixture(params=[*MODES])
def identity_engine(request: pytest.FixtureRequest, store_home: Path) -> Iterator[pc.Engine]:
    """A run in each identity that this user can have."""
    if not MODES[request.param]():
        pytest.skip(f"needs identity {request.param}")
    with pc.Engine(home=store_home, identity=request.param) as engine:
        yield engine


def words_of(questions: Sequence[tuple[Any, ...]]) -> list[str]:
    return [str(word) for question in questions for word in question]


def ask(
    engine: pc.Engine, image: str, *questions: tuple[Any, ...], **options: Any
) -> list[int | str]:
    """Make calls in a container; see ``calls.c``."""
    command = ["/calls", *words_of(questions)]
    with engine.run(image, command, wait_ready=False, **options) as container:
        assert container.wait(60) == 0, container.logs()
        return parsed(container.logs().stdout)


def parsed(output: str) -> list[int | str]:
    return [int(line) if line.isdecimal() else line for line in output.splitlines()]


def native(name: str, first: int = 0, second: int = 0) -> tuple[Any, ...]:
    return ("n", NR[name], first, second)


# -------------------------------------------------------------------------- the default

CLASSES: dict[str, tuple[tuple[Any, ...], int]] = {
    "new namespaces by unshare": (native("unshare", NEWUSER), EPERM),
    "new namespaces by clone": (native("clone", NEWUSER | SIGCHLD), EPERM),
    "a process by clone": (native("clone", SIGCHLD), 0),
    "clone3, whose flags nobody sees": (native("clone3"), ENOSYS),
    "entering a namespace": (native("setns", 0), EPERM),
    "mounting": (native("fsopen"), EPERM),
    "a tree of mounts": (native("open_tree", 1 << 31), EPERM),
    "keys": (native("keyctl", 0, 1 << 31), EPERM),
    "io_uring": (native("io_uring_setup"), EPERM),
    "userfaultfd": (native("userfaultfd"), EPERM),
    "BPF": (native("bpf"), EPERM),
    "another kernel": (native("kexec_load"), EPERM),
    "memory policies, without SYS_NICE": (native("get_mempolicy"), EPERM),
    "comparing processes, without SYS_PTRACE": (native("kcmp"), EPERM),
    "a new root, with SYS_CHROOT": (native("chroot"), errno.EFAULT),
    "tracing": (native("ptrace", 0xFFFF), errno.ESRCH),
    "a socket of AF_UNIX": (native("socket", AF_UNIX, 1), 0),
    "a socket of AF_ALG": (native("socket", AF_ALG, 5), EPERM),
    "AF_ALG with a bit that the kernel does not read": (
        native("socket", AF_ALG + (1 << 32), 5), EPERM,
    ),
    "a socket of AF_VSOCK": (native("socket", AF_VSOCK, 1), EPERM),
    "asking for the personality": (native("personality", 0xFFFFFFFF), 0),
    "the personality of a 32-bit machine": (native("personality", 8), 0),
    "no randomised addresses": (native("personality", 0x0040000), EPERM),
    "a call that is newer than the policy": (("n", NR["listns"], 0, 0), ENOSYS),
    "a call that is still to be invented": (("n", 600, 0, 0), ENOSYS),
}  # fmt: skip
X86_CLASSES: dict[str, tuple[tuple[Any, ...], int]] = {
    "x32": (("x", NR["getpid"], 0, 0), ENOSYS),
    "x32, forbidden": (("x", NR["unshare"], NEWUSER, 0), ENOSYS),
    "i386": (("i", table("i386")["getpid"], 0, 0), 0),
    "i386, forbidden": (("i", table("i386")["unshare"], NEWUSER, 0), EPERM),
    "i386, a socket of AF_ALG": (("i", table("i386")["socket"], AF_ALG, 5), EPERM),
}
ALL_CLASSES = CLASSES | (X86_CLASSES if MACHINE == "x86_64" else {})


@pytest.mark.parametrize("options", [{}, {"init": True}, {"no_new_privileges": True}], ids=str)
def test_each_class_of_calls(
    identity_engine: pc.Engine, image: str, options: dict[str, Any]
) -> None:
    questions = [question for question, _ in ALL_CLASSES.values()]
    answers = ask(identity_engine, image, *questions, **options)
    assert dict(zip(ALL_CLASSES, answers, strict=True)) == {
        name: answer for name, (_, answer) in ALL_CLASSES.items()
    }


@pytest.mark.needs("id range")
@pytest.mark.parametrize("options", [{}, {"init": True}, {"no_new_privileges": True}], ids=str)
def test_users_of_a_container_are_filtered_too(
    engine: pc.Engine, image: str, options: dict[str, Any]
) -> None:
    questions = [native("unshare", NEWUSER), native("socket", AF_UNIX, 1), native("clone3")]
    answers = ask(engine, image, *questions, user="1000:1000", **options)
    assert answers == [EPERM, 0, ENOSYS]


def test_exec_is_filtered_as_the_container_is(engine: pc.Engine, image: str) -> None:
    questions = words_of([native("unshare", NEWUSER), native("clone3")])
    unconfined = {"security_opt": ["seccomp=unconfined"]}
    for options, expected in (({}, [EPERM, ENOSYS]), (unconfined, [0, errno.EINVAL])):
        with engine.run(image, ["/bin/sh", "-c", "read x < /dev/zero"], **options) as container:
            done = container.exec(["/calls", *questions], text=True, check=True)
            assert parsed(done.stdout) == expected


def status(text: str) -> dict[str, str]:
    lines = (line.split(":", 1) for line in text.splitlines())
    return {name: value.strip() for name, value in lines}


@pytest.mark.parametrize("user", [None, pytest.param("1000", marks=pytest.mark.needs("id range"))])
def test_the_filter_costs_no_program_its_rights(
    any_engine: pc.Engine, image: str, user: str | None
) -> None:
    """What is kept for the filter is gone in the program, with either runner."""
    facts = {}
    for name, option in (("filtered", "builtin"), ("not", "unconfined")):
        options = {"user": user, "security_opt": [f"seccomp={option}"]}
        with any_engine.run(
            image, ["cat", "/proc/self/status"], wait_ready=False, **options
        ) as container:
            assert container.wait(60) == 0
            facts[name] = status(container.logs().stdout)
    assert [facts[name]["Seccomp"] for name in facts] == ["2", "0"]
    for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Uid", "Gid"):
        assert facts["filtered"][key] == facts["not"][key], key


@pytest.mark.needs("id range")
def test_set_user_id_programs_work(any_engine: pc.Engine, image: str) -> None:
    with any_engine.run(
        image, ["rootcat", "/proc/self/status"], user="1000", wait_ready=False
    ) as container:
        assert container.wait(60) == 0
        facts = status(container.logs().stdout)
    assert (facts["Uid"].split(), facts["Seccomp"]) == (["1000", "0", "0", "0"], "2")
    assert facts["CapEff"] != "0000000000000000"


@pytest.mark.needs("id range")
def test_nobody_executes_what_only_root_may(engine: pc.Engine, image: str) -> None:
    """The capability that is kept until the execve opens no files."""
    with engine.run(image, ["/bin/sh", "-c", "read x < /dev/zero"]) as container:
        container.exec(["/bin/sh", "-c", "cat /bin/cat > /closed"], check=True)
        with pytest.raises(pc.StartError, match="Permission denied"):
            container.exec(["/closed"], user="1000")


def test_the_reaper_is_filtered(engine: pc.Engine, image: str) -> None:
    with engine.run(image, ["cat", "/proc/1/status"], init=True, wait_ready=False) as container:
        assert container.wait(60) == 0
        assert status(container.logs().stdout)["Seccomp"] == "2"


@pytest.mark.parametrize(
    ("capability", "name"),
    [("SYS_ADMIN", "setns"), ("SYS_PTRACE", "kcmp"), ("SYS_NICE", "get_mempolicy"),
     ("SYS_TIME", "clock_settime"), ("DAC_READ_SEARCH", "open_by_handle_at"), ("SYS_BOOT", "reboot")],
)  # fmt: skip
def test_a_capability_opens_its_calls(
    engine: pc.Engine, image: str, capability: str, name: str
) -> None:
    def refused(**options: Any) -> bool:
        (line,) = ask(engine, image, ("scan", "n"), **options)
        return str(NR[name]) in str(line).split()

    assert refused()
    assert not refused(cap_add=[capability])


def test_an_administrator_makes_namespaces(engine: pc.Engine, image: str) -> None:
    questions = [native("unshare", NEWUSER), native("clone", NEWUSER | SIGCHLD), native("clone3")]
    assert ask(engine, image, *questions, cap_add=["SYS_ADMIN"]) == [0, 0, errno.EINVAL]


def test_a_dropped_capability_closes_its_calls(engine: pc.Engine, image: str) -> None:
    assert ask(engine, image, native("chroot"), cap_drop=["SYS_CHROOT"]) == [EPERM]


def expected_scan(policy: Policy, architecture: str) -> list[str]:
    """The numbers that a policy refuses with EPERM when no argument is set, by a plain look."""
    ranges = ranges_of(policy, architecture)
    numbers = []
    for number in range(500):
        if architecture == "x86_64" and number in (NR["uretprobe"], NR["uprobe"]):
            continue  # filters do not see them
        decision = [decision for start, decision in ranges if start <= number][-1]
        # socket(0), personality(0) and clone(0) are allowed.
        allowed = any(action == ALLOW for _, action in decision.branches)
        if decision.action == ERRNO | EPERM and not allowed:
            numbers.append(str(number))
    return numbers


def test_every_number_is_judged_by_the_kernel_as_the_policy_says(
    engine: pc.Engine, image: str
) -> None:
    policy = default_policy(DEFAULT_CAPABILITIES, MACHINE)
    (line,) = ask(engine, image, ("scan", "n"))
    assert str(line).split() == expected_scan(policy, MACHINE)
    if MACHINE == "x86_64":
        (line,) = ask(engine, image, ("scan", "i"))
        assert str(line).split() == expected_scan(policy, SIBLING)


# ---------------------------------------------------------------------------- profiles


def profile(*rules: Mapping[str, Any], default: str = "ALLOW", **more: Any) -> dict[str, Any]:
    rows = [{**rule, "action": f"SCMP_ACT_{rule['action']}"} for rule in rules]
    return {"defaultAction": f"SCMP_ACT_{default}", "syscalls": rows, **more}


def compared(operator: str, value: int, value_two: int = 0, index: int = 0) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": value_two, "op": f"SCMP_CMP_{operator}"}


def written(path: Path, document: object) -> str:
    path.write_text(json.dumps(document))
    return f"seccomp={path}"


OPERATORS = profile(*(
    {"names": [name], "action": "ERRNO", "errnoRet": number,
     "args": [compared(operator, 1 << 33 | 7, 1 << 33 | 5)]}
    for number, (name, operator) in enumerate({
        "getpgid": "NE", "getsid": "LT", "getpriority": "LE", "umask": "EQ", "alarm": "GE",
        "setfsuid": "GT", "setfsgid": "MASKED_EQ",
    }.items(), 100)
    if name in NR
))  # fmt: skip
VALUES = (0, 5, 7, 8, (1 << 33) | 5, (1 << 33) | 6, (1 << 33) | 7, (1 << 33) | 8, (1 << 34) | 7)
# Calls that runc does not need between its filter and the program.
ACTIONS = profile(
    {"names": ["times"], "action": "KILL_THREAD"}, {"names": ["mincore"], "action": "KILL_PROCESS"},
    {"names": ["syncfs"], "action": "KILL"}, {"names": ["getpriority"], "action": "TRAP"},
    {"names": ["getitimer"], "action": "ERRNO"}, {"names": ["getsid"], "action": "LOG"},
    {"name": "getcpu", "action": "ERRNO", "errnoRet": 71},
    {"names": ["sync", "no_such_call"], "action": "ERRNO", "errnoRet": 72},
)  # fmt: skip
CONDITIONS = profile(
    {"names": ["times"], "action": "ERRNO", "errnoRet": 61, "includes": {"caps": ["CAP_CHOWN"]}},
    {"names": ["mincore"], "action": "ERRNO", "errnoRet": 62, "includes": {"caps": ["CAP_BPF"]}},
    {"names": ["sync"], "action": "ERRNO", "errnoRet": 63, "excludes": {"caps": ["CAP_CHOWN"]}},
    {"names": ["getitimer"], "action": "ERRNO", "errnoRet": 64, "includes": {"minKernel": "4.8"}},
    {"names": ["getsid"], "action": "ERRNO", "errnoRet": 65, "includes": {"minKernel": "99.0"}},
    {"names": ["getpgid"], "action": "ERRNO", "errnoRet": 66,
     "includes": {"arches": ["amd64", "arm64"]}},
    {"names": ["getcpu"], "action": "ERRNO", "errnoRet": 67, "excludes": {"arches": ["s390x"]}},
    {"names": ["umask"], "action": "ERRNO", "errnoRet": 68, "excludes": {"minKernel": "4.8"}},
    archMap=[{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
             {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
)  # fmt: skip
OVERLAPS = profile(
    # Without arguments a rule decides, wherever it stands; several of one argument are "any".
    {"names": ["getpgid"], "action": "ERRNO", "errnoRet": 51, "args": [compared("EQ", 5)]},
    {"names": ["getpgid"], "action": "ERRNO", "errnoRet": 52},
    {"names": ["getsid"], "action": "ERRNO", "errnoRet": 53,
     "args": [compared("EQ", 5), compared("EQ", 6)]},
    {"names": ["umask"], "action": "ERRNO", "errnoRet": 54,
     "args": [compared("EQ", 5), compared("EQ", 6, index=1)]},
    {"names": ["getppid"], "action": "ALLOW"},
)  # fmt: skip

SAME_IN_DOCKER: dict[str, tuple[dict[str, Any], list[tuple[Any, ...]], list[int | str]]] = {
    "operators": (
        OPERATORS,
        [native(name, value) for rule in OPERATORS["syscalls"] for name in rule["names"]
         for value in VALUES],
        [],
    ),
    "actions": (
        ACTIONS,
        [native(name) for name in ("times", "mincore", "syncfs", "getpriority", "getitimer",
                                   "getsid", "getcpu", "sync", "getpid")],
        ["signal 31", "signal 31", "signal 31", "signal 31", 1, 0, 71, 72, 0],
    ),
    "conditions": (
        CONDITIONS,
        [native(name) for name in ("times", "mincore", "sync", "getitimer", "getsid", "getpgid",
                                   "getcpu", "umask")],
        [61, 0, 0, 64, 0, 66, 67, 0],
    ),
    "overlaps": (
        OVERLAPS,
        [native("getpgid", 5), native("getpgid", 0), native("getsid", 5), native("getsid", 6),
         native("getsid", 0), native("umask", 5, 6), native("umask", 5, 0), native("getppid")],
        [52, 52, 53, 53, 0, 54, 0, 0],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [*SAME_IN_DOCKER])
def test_a_profile(engine: pc.Engine, image: str, tmp_path: Path, name: str) -> None:
    document, questions, expected = SAME_IN_DOCKER[name]
    option = written(tmp_path / "profile.json", document)
    answers = ask(engine, image, *questions, security_opt=[option])
    assert answers == (expected or answers)
    in_line = f"seccomp={json.dumps(document)}"  # as Docker's API takes it
    assert ask(engine, image, *questions, security_opt=[in_line]) == answers


@pytest.fixture(scope="module")
def in_docker(
    docker: Callable[..., str], image: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[int | str]]:
    """Makes calls in a container of Docker's."""
    folder = tmp_path_factory.mktemp("docker")
    with pc.Engine(home=folder / "store") as engine:
        engine.images.load(
            image.removeprefix("oci:").rpartition("@")[0] or image[4:], name="calls:1"
        )
        engine.images.save(["calls:1"], folder / "calls.tar")
    docker("load", "-i", str(folder / "calls.tar"))

    def run(*questions: tuple[Any, ...], options: Sequence[str] = ()) -> list[int | str]:
        command = ["run", "--rm", "--network=none", *options, "calls:1", "/calls"]
        return parsed(docker(*command, *words_of(questions)))

    return run


@pytest.mark.needs("docker", "root")
@pytest.mark.parametrize("name", [*SAME_IN_DOCKER])
def test_a_profile_means_the_same_in_docker(
    engine: pc.Engine, image: str, in_docker: Ask, tmp_path: Path, name: str
) -> None:
    document, questions, _ = SAME_IN_DOCKER[name]
    option = written(tmp_path / "profile.json", document)
    theirs = in_docker(*questions, options=["--security-opt", option])
    assert ask(engine, image, *questions, security_opt=[option]) == theirs


SINCE_20_10 = {
    "cachestat", "close_range", "epoll_pwait2", "fchmodat2", "futex_requeue", "futex_wait",
    "futex_waitv", "futex_wake", "getxattrat", "landlock_add_rule", "landlock_create_ruleset",
    "landlock_restrict_self", "listmount", "listxattrat", "map_shadow_stack", "memfd_secret",
    "mseal", "name_to_handle_at", "pkey_alloc", "pkey_free", "pkey_mprotect", "process_mrelease",
    "process_vm_readv", "process_vm_writev", "removexattrat", "setxattrat", "statmount",
}  # fmt: skip
"""Allowed later than by this Docker, or newer than its table of names."""


@pytest.mark.needs("docker", "root")
@needs_x86_64
def test_the_default_policy_is_dockers(engine: pc.Engine, image: str, in_docker: Ask) -> None:
    """An older Docker's: all that differs has a name here."""
    names = {number: name for name, number in NR.items()}

    def refused(line: object) -> set[str]:
        return {names.get(int(word), word) for word in str(line).split()}

    (theirs,), (ours,) = in_docker(("scan", "n")), ask(engine, image, ("scan", "n"))
    assert refused(ours) - refused(theirs) <= {
        # Beyond what that Docker knows all calls are ENOSYS; and io_uring is refused since 25.
        "io_uring_setup", "io_uring_enter", "io_uring_register", "process_madvise", "quotactl_fd", "mount_setattr", "set_mempolicy_home_node",
        "lsm_get_self_attr", "lsm_set_self_attr", "lsm_list_modules",
    }  # fmt: skip
    assert refused(theirs) - refused(ours) <= SINCE_20_10
    questions = [question for question, _ in ALL_CLASSES.values()]
    answers = zip(ALL_CLASSES, in_docker(*questions), strict=True)
    differing = {name: answer for name, answer in answers if answer != ALL_CLASSES[name][1]}
    assert set(differing) <= {
        # Refused since Docker 29, 23 and 25.
        "a socket of AF_ALG", "AF_ALG with a bit that the kernel does not read",
        "i386, a socket of AF_ALG", "a socket of AF_VSOCK", "io_uring",
        # x32 is filtered as x86_64 there, and then this kernel does not have it either.
        "x32", "x32, forbidden",
    }  # fmt: skip


def dockers_format(policy: Policy) -> dict[str, Any]:
    """A policy as a profile of Docker's."""
    rules = []
    for rule in policy.rules:
        row: dict[str, Any] = {"names": list(rule.names), "action": "ALLOW"}
        if rule.action != ALLOW:
            row |= {"action": "ERRNO", "errnoRet": rule.action & 0xFFFF}
        row["args"] = [
            compared(each.operator, each.value, each.value_two, each.argument)
            for each in rule.conditions
        ]
        rules.append(row)
    architectures = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    return profile(*rules, default="ERRNO", defaultErrnoRet=1, architectures=architectures)


@pytest.mark.needs("docker", "root")
@needs_x86_64
@pytest.mark.parametrize("more", [(), ("CAP_SYS_ADMIN",)], ids=str)
def test_our_policy_in_docker_is_our_policy_here(
    engine: pc.Engine, image: str, in_docker: Ask, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """libseccomp compiles it there; its table ends with Linux 5.17."""
    policy = default_policy((*DEFAULT_CAPABILITIES, *more), MACHINE)
    option = written(tmp_path / "ours.json", dockers_format(policy))
    cap_add = [name.removeprefix("CAP_") for name in more]
    flags = ["--security-opt", option, *(f"--cap-add={name}" for name in cap_add)]
    for abi, architecture in (("n", MACHINE), ("i", "i386")):
        newest = table(architecture)["set_mempolicy_home_node"]
        lines = [
            *in_docker(("scan", abi), options=flags),
            *ask(engine, image, ("scan", abi), cap_add=cap_add),
        ]
        theirs, ours = (
            [int(word) for word in str(line).split() if int(word) < newest] for line in lines
        )
        unknown = {table(architecture).get("uretprobe")} - {None}
        assert set(theirs) - unknown == set(ours)


@pytest.mark.needs("docker", "root")
@needs_x86_64
def test_where_docker_is_another(
    engine: pc.Engine, image: str, in_docker: Ask, tmp_path: Path
) -> None:
    refused = {"names": ["socket"], "action": "ERRNO", "args": [compared("EQ", AF_UNIX)]}
    option = written(tmp_path / "socket.json", profile(refused))
    questions = [native("socket", AF_UNIX, 1), native("socket", AF_UNIX + (1 << 32), 1)]
    flags = ["--security-opt", option]
    assert ask(engine, image, *questions, security_opt=[option]) == [EPERM, EPERM]
    assert in_docker(*questions, options=flags) == [EPERM, 0]
    # What changes users and capabilities.
    refused = {"names": ["capset", "setgroups", "setresuid", "chdir"], "action": "ERRNO"}
    option = written(tmp_path / "start.json", profile(refused))
    assert ask(engine, image, native("capset"), security_opt=[option]) == [EPERM]
    with pytest.raises(AssertionError, match="OCI runtime create failed"):
        in_docker(native("capset"), options=["--security-opt", option])


# ------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("{", "is not JSON: "),
        ("[]", ": [] is not an object"),
        ("{}", ": defaultAction is missing"),
        (profile({"names": ["read"], "action": "TRACE"}),
         ": syscalls[0]: action 'SCMP_ACT_TRACE' is not supported: nothing traces the programs of a"),
        (profile({"names": ["read"], "action": "NOTIFY"}),
         ": syscalls[0]: action 'SCMP_ACT_NOTIFY' is not supported: nothing would answer"),
        (profile({"names": ["read"], "action": "LET"}), ": syscalls[0]: action 'SCMP_ACT_LET' is un"),
        (profile({"names": ["read"], "action": "LET", "includes": {"caps": ["CAP_BPF"]}}),
         ": syscalls[0]: action 'SCMP_ACT_LET' is unknown"),
        (profile({"names": ["read"], "name": "read", "action": "ALLOW"}),
         ": syscalls[0]: name and names exclude each other"),
        (profile({"names": ["read"], "action": "ALLOW", "includes": {"cap": []}}),
         ": syscalls[0]: includes: 'cap' is unknown; there are arches, caps, minKernel"),
        (profile({"names": ["read"], "action": "ALLOW", "excludes": {"caps": "CAP_BPF"}}),
         ": syscalls[0]: excludes: caps 'CAP_BPF' is not a list of names"),
        (profile({"names": ["read"], "action": "ALLOW", "includes": {"minKernel": "4"}}),
         ": syscalls[0]: includes: minKernel '4' is no version, as '4.8' is"),
        (profile(archMap=[{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["X32"]}]),
         ": archMap[0]: architecture 'X32' is unknown"),
        (profile(archMap=[{"architecture": "SCMP_ARCH_X86_64"}, {"architecture": "SCMP_ARCH_AARCH64"}],
                 architectures=["SCMP_ARCH_X86"]), ": archMap and architectures exclude each other"),
    ],
)  # fmt: skip
def test_a_wrong_profile_is_one_sentence(
    engine: pc.Engine, image: str, tmp_path: Path, contents: object, message: str
) -> None:
    path = tmp_path / "profile.json"
    path.write_text(contents if isinstance(contents, str) else json.dumps(contents))
    with pytest.raises(pc.SpecError) as caught:
        engine.run(image, ["/calls"], security_opt=[f"seccomp={path}"])
    assert str(caught.value).startswith(f"seccomp profile {path}{message}" if message[0] == ":"
                                        else f"seccomp profile {path} {message}")  # fmt: skip


def test_a_profile_that_is_not_there_or_changes(
    engine: pc.Engine, image: str, tmp_path: Path
) -> None:
    path = tmp_path / "profile.json"
    with pytest.raises(pc.SpecError, match=f"seccomp profile {path}: no such file or directory"):
        engine.run(image, ["/calls"], security_opt=[f"seccomp={path}"])
    for number in (71, 72):
        rule = {"names": ["getppid"], "action": "ERRNO", "errnoRet": number}
        options = {"security_opt": [written(path, profile(rule))]}
        assert ask(engine, image, native("getppid"), **options) == [number]


def test_a_program_that_its_filter_does_not_let_be_executed(
    any_engine: pc.Engine, image: str, tmp_path: Path
) -> None:
    """Also where not even the child that has failed may say so and end."""
    option = written(tmp_path / "profile.json", profile(default="ERRNO"))
    with pytest.raises(pc.StartError, match="command '/calls' cannot be executed: Operation not"):
        any_engine.run(image, ["/calls"], security_opt=[option])
    option = written(tmp_path / "profile.json", profile(default="KILL_PROCESS"))
    with any_engine.run(image, ["/calls"], security_opt=[option], wait_ready=False) as container:
        assert container.wait(60) == 128 + signal.SIGSYS
    assert ask(any_engine, image, native("getpid")) == [0]


def test_a_policy_of_an_oci_config() -> None:
    document = profile({"names": ["read"], "action": "ERRNO"})
    compiled = filter_of_document(document, "OCI config linux.seccomp")
    assert compiled is not None
    assert compiled.code
    assert filter_of_document(profile(), "OCI config linux.seccomp") is None
    with pytest.raises(pc.SpecError, match=r"^OCI config linux\.seccomp: defaultAction is missing"):
        filter_of_document({}, "OCI config linux.seccomp")
