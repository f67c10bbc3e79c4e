"""The last part of every start and exec: from the container's root to its user's program.

Streams and descriptors; then limits, no_new_privs, bounding set, working directory, groups and
ids, capabilities, signals, filter of system calls, execve.

The filter comes last, so that none of our own steps has to pass it. That takes CAP_SYS_ADMIN (or
no_new_privs, which would take their rights from set-user-id programs), so this one capability is
kept until the execve. The kernel drops it there: the permitted set becomes the bounding set for
root and empty for others, as nothing is inheritable or ambient.

A run with a single id has no other user than root. Whoever else a program is to run as gets a user
namespace of its own, in which that one id has the wanted number: files of the container are the
user's own then, as they are root's for all others. It is made by a program that is executed first
(`standalone`); after that, set-user-id programs have no effect, and there are no other groups.

That second program is there as well where a user of the container owns the interpreter that the run
executes. What is executed as ``/proc/self/exe``, or as a script of it, is the program that executes
it: the second one, a sealed file of the start, not the interpreter (CVE-2019-5736).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from pytest_containers.linux.mount import AT_EMPTY_PATH, AT_FDCWD
from pytest_containers.linux.numbers import NR
from pytest_containers.linux.process import (
    CAPABILITIES,
    CLONE_NEWUSER,
    PR_SET_NO_NEW_PRIVS,
    ignored_signals,
)
from pytest_containers.linux.program import STATUS_FD, Param, Program, Result, Value
from pytest_containers.linux.seccomp import Filter, add_filter, with_exception
from pytest_containers.linux.standalone import StandaloneProgram
from pytest_containers.runtime.plan import capabilities, workdir
from pytest_containers.runtime.plan.apart import add_rules
from pytest_containers.runtime.plan.oci import RLIMITS
from pytest_containers.runtime.plan.users import ProcessUser
from pytest_containers.runtime.wire.faults import FaultError

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_O_CLOEXEC = 0o2000000
_SECOND_FD = 4
_TIOCSCTTY = 0x540E
_SYS_ADMIN = 1 << CAPABILITIES.index("SYS_ADMIN")
_UNLIMITED = (1 << 64) - 1


class Machine(NamedTuple):
    """The properties of the machine and the run that plans depend on.

    Attributes:
        last_capability: The highest that the kernel knows.
        own_ids: True if users beside container root exist.
        ids: How many users and groups exist, from 0 on.
        cgroup2: True if a cgroup2 may be mounted.
        masked: Masked paths that exist here, and True for those that are directories.
        readonly: Read-only paths that exist here.
        host_network: True if containers are in the run's own network namespace, the host's.
        single_id_reason: Why there are no other users than container root, a clause.
        uid_map, gid_map: ``(inside, outside, count)`` of the run's user namespace.
        tmpfs_bytes: The size of a tmpfs that nobody gave one; 0 is the kernel's choice.
        owns_interpreter: True if a user of containers owns the run's interpreter.
        own_proc, own_sys: True if a proc, a sysfs, may be mounted; else they get the run's.
        apart: True if rules keep containers apart that share a proc.
        descriptors: How many a program may have that is given no limit; 0: as many as the run.
    """

    last_capability: int
    own_ids: bool
    ids: tuple[int, int]
    cgroup2: bool
    masked: Mapping[str, bool]
    readonly: Sequence[str]
    host_network: bool = False
    single_id_reason: str = ""
    uid_map: Sequence[tuple[int, int, int]] = ()
    gid_map: Sequence[tuple[int, int, int]] = ()
    tmpfs_bytes: int = 0
    owns_interpreter: bool = False
    own_proc: bool = True
    own_sys: bool = True
    apart: bool = False
    descriptors: int = 0


def is_renamed(user: ProcessUser, machine: Machine) -> bool:
    """True if the run has a single id, which is to be this user instead of root."""
    return not machine.own_ids and bool(user.uid or user.gid)


def has_second_program(user: ProcessUser, machine: Machine) -> bool:
    """True if a second program executes the user's."""
    return machine.owns_interpreter or is_renamed(user, machine)


def add_streams(
    program: Program, process: Mapping[str, Any], *, held: bool = False, second: bool = False
) -> None:
    """Append what leaves the child with the program's streams and no other descriptor.

    Parameters of the program: ``stdin``, ``stdout``, ``stderr``, the status descriptor, with
    `held` a socket, ``hold`` (see `_add_hold`), and with a `second` program its file, ``start``
    (see `command_parameters`).
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        program.add(("give the program its", name), NR["dup3"], Param(name), number, 0)
    if process.get("terminal"):
        program.add("take the terminal", NR["ioctl"], 0, _TIOCSCTTY, 0)
    # Closed before the working directory is made and entered: neither that nor a link of the image
    # may lead out by /proc/self/fd/N (CVE-2024-21626).
    status_flags = 0 if second else _O_CLOEXEC
    program.add("keep the status pipe", NR["dup3"], Param(STATUS_FD), 3, status_flags)
    others = [
        *([("keep the second program", "start")] if second else []),
        *([("keep the hold", "hold")] if held else []),
    ]
    for number, (label, name) in enumerate(others, _SECOND_FD):
        program.add(label, NR["dup3"], Param(name), number, _O_CLOEXEC)
    program.add("close descriptors", NR["close_range"], _SECOND_FD + len(others), 0xFFFFFFFF, 0)


def add_program(
    program: Program,
    process: Mapping[str, Any],
    user: ProcessUser,
    machine: Machine,
    syscall_filter: Filter | None,
    *,
    held: bool = False,
) -> None:
    """Append everything from the resource limits to the execve, after `add_streams`.

    Its last parameters are those of `command_parameters`. With `held` it waits before the execve.
    """
    _check_ids(user, machine, held=held)
    sets = capabilities.read(process.get("capabilities"), machine.last_capability)
    _add_limits(program, process, machine)
    if process.get("noNewPrivileges"):
        program.add("no_new_privs", NR["prctl"], PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    capabilities.add_bounding_set(program, sets, machine.last_capability)
    # Entered as root: the user may work in a directory that only root may enter, as in Docker.
    workdir.add_enter(program, process)
    needed = _SYS_ADMIN if syscall_filter is not None else 0
    if machine.apart:
        add_rules(program)
    umask = (process.get("user") or {}).get("umask")
    program.add("umask", NR["umask"], 0o022 if umask is None else umask)
    renamed, second = is_renamed(user, machine), has_second_program(user, machine)
    if renamed:
        program = _add_namespace_of(program, user, syscall_filter)
        capabilities.add_bounding_set(program, sets, machine.last_capability)
    else:
        capabilities.add_keep(program, sets, user.uid, needed)
        _add_user(program, user, machine)
    capabilities.add_sets(program, sets, user.uid, needed)
    if held:
        _add_hold(program, _SECOND_FD + second)
    program.reset_signals(ignored_signals())
    if syscall_filter is not None:
        add_filter(program, syscall_filter)
    if second and not renamed:
        program = _add_second_program(program)
    _add_execve(program, process, user)


def _add_namespace_of(
    program: Program, user: ProcessUser, syscall_filter: Filter | None
) -> StandaloneProgram:
    """Append a second program that gives the single id the number of a user.

    Others in the container may look into it, and make it do what they want (ptrace(2)), before it
    has the filter. So it begins with one that differs in a single call.

    Returns:
        That program, whose next steps are in the user's namespace.
    """
    if syscall_filter is not None:
        add_filter(program, with_exception(syscall_filter, NR["unshare"], CLONE_NEWUSER))
    second = _add_second_program(program)
    shown = f"{user.uid}:{user.gid}"
    second.add(("make a user namespace for user", shown), NR["unshare"], CLONE_NEWUSER)
    for name, contents in (
        ("setgroups", b"deny"),  # else a process may not map its group
        ("gid_map", b"%d 0 1" % user.gid),
        ("uid_map", b"%d 0 1" % user.uid),
    ):
        path = f"/proc/self/{name}".encode()
        label = ("write", path, "for user", shown)
        file = second.add(label, NR["openat"], AT_FDCWD, path, os.O_WRONLY | os.O_CLOEXEC)
        second.add(label, NR["write"], Result(file), contents, len(contents))
        second.add(label, NR["close"], Result(file))
    return second


def _add_second_program(program: Program) -> StandaloneProgram:
    """Append the execve of an empty program, and return that."""
    program.add(
        "execute the second program", NR["execveat"], _SECOND_FD, b"", [b"start"], [], AT_EMPTY_PATH
    )
    program.successor = second = StandaloneProgram()
    return second


def join_cgroups(program: Program, tasks: int) -> None:
    """Append the move to cgroups by their files, parameters ``tasks:N`` (cgroups(7))."""
    for number in range(tasks):
        program.add("join the cgroup", NR["write"], Param(f"tasks:{number}"), b"0", 1)


def _check_ids(user: ProcessUser, machine: Machine, *, held: bool) -> None:
    if is_renamed(user, machine):
        if not held:
            return
        raise FaultError(
            "UnsupportedError",
            f"user {user.uid}:{user.gid}: this run has a single id, container root, since "
            f"{machine.single_id_reason or 'that was asked for'}; `pytest-containers setup` tells "
            "what gives it more",
            user=str(user.uid),
        )
    uids, gids = machine.ids
    for kind, number, count in (
        ("user", user.uid, uids), *(("group", gid, gids) for gid in (user.gid, *user.groups)),
    ):  # fmt: skip
        if number >= count:
            raise FaultError(
                "StartError",
                f"{kind} {number} is beyond the ids of this run's containers, 0 to {count - 1}; "
                "give the account that runs the tests as many in /etc/subuid and /etc/subgid "
                "(a line NAME:START:COUNT)",
                user=str(user.uid),
            )


def _add_hold(program: Program, fd: int) -> None:
    """Append the stop of a container that is created and not started yet.

    It says so by a byte, and waits for one. The other end of the socket is not closed before this
    process is killed, so that an end of file never lets it go on.
    """
    program.add("tell that it is created", NR["write"], fd, b"c", 1)
    program.add("wait for its start", NR["read"], fd, bytearray(1), 1)


def _add_limits(program: Program, process: Mapping[str, Any], machine: Machine) -> None:
    limits = process.get("rlimits") or ()
    if machine.descriptors and all(limit["type"] != "RLIMIT_NOFILE" for limit in limits):
        most = {"soft": machine.descriptors, "hard": machine.descriptors}
        limits = [{"type": "RLIMIT_NOFILE", **most}, *limits]
    for limit in limits:
        name = limit["type"].removeprefix("RLIMIT_").lower()
        soft, hard = (
            _UNLIMITED if limit[side] < 0 else int(limit[side]) for side in ("soft", "hard")
        )
        shown = ["unlimited" if value == _UNLIMITED else value for value in (soft, hard)]
        program.add(
            ("limit", name, "to", shown[0], "and", shown[1]),
            NR["prlimit64"], 0, RLIMITS[name], struct.pack("=2Q", soft, hard), None,
        )  # fmt: skip


def _add_user(program: Program, user: ProcessUser, machine: Machine) -> None:
    if machine.own_ids:
        packed = struct.pack(f"={len(user.groups)}I", *user.groups)
        program.add("set groups", NR["setgroups"], len(user.groups), packed or None)
        program.add(("become group", user.gid), NR["setresgid"], user.gid, user.gid, user.gid)
        program.add(("become user", user.uid), NR["setresuid"], user.uid, user.uid, user.uid)


def environment(process: Mapping[str, Any], user: ProcessUser) -> list[str]:
    """Return the variables of the program, with the defaults that programs rely on."""
    variables = dict(item.split("=", 1) for item in process.get("env") or ())
    variables.setdefault("PATH", DEFAULT_PATH)
    variables.setdefault("HOME", user.home or "/")
    if process.get("terminal"):
        variables.setdefault("TERM", "xterm")
    return [f"{name}={value}" for name, value in variables.items()]


@contextmanager
def command_parameters(program: Program, args: Sequence[str]) -> Iterator[dict[str, Value]]:
    """Give a program its command line: the parameter ``argv``, or ``start``, a file with that."""
    argv = command_line(args)
    if program.successor is None:
        yield {"argv": argv}
        return
    assert isinstance(program.successor, StandaloneProgram)
    file = program.successor.bind({"argv": argv}).open()
    try:
        yield {"start": file}
    finally:
        os.close(file)


def command_line(args: Sequence[str]) -> list[bytes]:
    """Encode a command line.

    Its first word must be that of the process that was compiled.
    """
    return [arg.encode("utf-8", "surrogateescape") for arg in args]


def _add_execve(program: Program, process: Mapping[str, Any], user: ProcessUser) -> None:
    name = process["args"][0]
    variables = environment(process, user)
    if "/" in name:
        paths = [name]
    else:
        search = next(item[5:] for item in variables if item.startswith("PATH="))
        paths = [f"{folder or '.'}/{name}" for folder in search.split(":")]
    program.execve(
        ("execute", name),
        [path.encode("utf-8", "surrogateescape") for path in paths],
        Param("argv"),
        [item.encode("utf-8", "surrogateescape") for item in variables],
    )
