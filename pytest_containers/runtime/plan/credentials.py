"""The last part of every start and exec: from the container's root to its user's program.

The order is runc's: limits, no_new_privs, bounding set, groups and ids, streams, descriptors,
working directory, capabilities, (seccomp, once there is a filter), signals, execve.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pytest_containers.linux.numbers import NR
from pytest_containers.linux.process import (
    CAPABILITIES,
    PR_CAPBSET_DROP,
    PR_SET_NO_NEW_PRIVS,
    cap_buffers,
    ignored_signals,
)
from pytest_containers.linux.program import STATUS_FD, Param, Program
from pytest_containers.runtime.messages import FaultError
from pytest_containers.runtime.oci import DEFAULT_CAPABILITIES, RLIMITS
from pytest_containers.runtime.plan.users import User

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_O_CLOEXEC = 0o2000000
_TIOCSCTTY = 0x540E
_UNLIMITED = (1 << 64) - 1


class Machine(NamedTuple):
    """What a plan has to know of the run.

    Attributes:
        last_capability: The highest that the kernel knows.
        own_ids: Whether users beside container root exist.
        ids: How many users and groups exist, from 0 on.
        cgroup2: Whether a cgroup2 may be mounted.
        masked: Masked paths that exist here: path → whether it is a directory.
        readonly: Read-only paths that exist here.
        host_network: Whether containers are in the run's own network namespace, the host's.
    """

    last_capability: int
    own_ids: bool
    ids: tuple[int, int]
    cgroup2: bool
    masked: Mapping[str, bool]
    readonly: Sequence[str]
    host_network: bool = False


def capability_mask(names: Sequence[str], machine: Machine) -> int:
    """The bits of ``["CAP_CHOWN", …]``; what this kernel does not know is left out.

    Raises:
        FaultError: No kernel knows it.
    """
    mask = 0
    for name in names:
        try:
            number = CAPABILITIES.index(name.removeprefix("CAP_"))
        except ValueError:
            raise FaultError(
                "SpecError", f"capability {name!r} does not exist; see capabilities(7)"
            ) from None
        if number <= machine.last_capability:
            mask |= 1 << number
    return mask


def add_program(program: Program, process: Mapping[str, Any], user: User, machine: Machine) -> None:
    """Append everything from the resource limits to the execve.

    Parameters of the program: ``argv`` (see `command_line`), ``stdin``, ``stdout``, ``stderr`` and
    the status descriptor.
    """
    _check_ids(user, machine)
    capabilities = process.get("capabilities")
    bounding = _bounding(capabilities, machine)
    _add_limits(program, process)
    if process.get("noNewPrivileges"):
        program.add("no_new_privs", NR["prctl"], PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for number in range(machine.last_capability + 1):
        if not bounding >> number & 1:
            program.add(
                ("drop capability", CAPABILITIES[number]), NR["prctl"], PR_CAPBSET_DROP, number
            )
    _add_user(program, user, machine)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        program.add(("give the program its", name), NR["dup3"], Param(name), number, 0)
    if process.get("terminal"):
        program.add("take the terminal", NR["ioctl"], 0, _TIOCSCTTY, 0)
    # Closed before the change of directory: /proc/self/fd/N must not lead out (CVE-2024-21626).
    program.add("keep the status pipe", NR["dup3"], Param(STATUS_FD), 3, _O_CLOEXEC)
    program.add("close descriptors", NR["close_range"], 4, 0xFFFFFFFF, 0)
    cwd = process.get("cwd") or "/"
    program.add(("working directory", cwd), NR["chdir"], cwd.encode())
    umask = (process.get("user") or {}).get("umask")
    program.add("umask", NR["umask"], 0o022 if umask is None else umask)
    if user.uid == 0:
        header, data = cap_buffers(bounding)
        program.add("set capabilities", NR["capset"], header, data)
    # A seccomp filter goes here.
    program.reset_signals(ignored_signals())
    _add_execve(program, process, user)


def _check_ids(user: User, machine: Machine) -> None:
    if not machine.own_ids and (user.uid or user.gid):
        raise FaultError(
            "UnsupportedError",
            f"user {user.uid}:{user.gid}: this run has a single id, container root; run "
            "`pytest-containers setup` to give this account subordinate ids",
            user=str(user.uid),
        )
    uids, gids = machine.ids
    for kind, number, count in (
        ("user", user.uid, uids), *(("group", gid, gids) for gid in (user.gid, *user.groups)),
    ):  # fmt: skip
        if number >= count:
            raise FaultError(
                "StartError",
                f"{kind} {number} is beyond the ids of this run's containers, 0 to {count - 1}",
                user=str(user.uid),
            )


def _bounding(capabilities: Mapping[str, Any] | None, machine: Machine) -> int:
    if capabilities is None:
        return capability_mask(DEFAULT_CAPABILITIES, machine)
    if capabilities.get("inheritable") or capabilities.get("ambient"):
        raise FaultError(
            "SpecError",
            "OCI config process.capabilities: inheritable and ambient sets are not supported; "
            "they let programs gain what their user does not have",
        )
    bounding = capability_mask(capabilities.get("bounding") or (), machine)
    for name in ("effective", "permitted"):
        if name in capabilities and capability_mask(capabilities[name], machine) != bounding:
            raise FaultError(
                "SpecError", f"OCI config process.capabilities: {name} differs from bounding"
            )
    return bounding


def _add_limits(program: Program, process: Mapping[str, Any]) -> None:
    for limit in process.get("rlimits") or ():
        name = limit["type"].removeprefix("RLIMIT_").lower()
        soft, hard = (
            _UNLIMITED if limit[side] < 0 else int(limit[side]) for side in ("soft", "hard")
        )
        program.add(
            ("limit", name, "to", soft, "and", hard),
            NR["prlimit64"], 0, RLIMITS[name], struct.pack("=2Q", soft, hard), None,
        )  # fmt: skip


def _add_user(program: Program, user: User, machine: Machine) -> None:
    if machine.own_ids:
        packed = struct.pack(f"={len(user.groups)}I", *user.groups)
        program.add("set groups", NR["setgroups"], len(user.groups), packed or None)
        program.add(("become group", user.gid), NR["setresgid"], user.gid, user.gid, user.gid)
        program.add(("become user", user.uid), NR["setresuid"], user.uid, user.uid, user.uid)


def environment(process: Mapping[str, Any], user: User) -> list[str]:
    """The variables of the program, with those that everybody expects."""
    found = dict(item.split("=", 1) for item in process.get("env") or ())
    found.setdefault("PATH", DEFAULT_PATH)
    found.setdefault("HOME", user.home or "/")
    if process.get("terminal"):
        found.setdefault("TERM", "xterm")
    return [f"{name}={value}" for name, value in found.items()]


def command_line(args: Sequence[str]) -> list[bytes]:
    """The parameter ``argv``; its first word must be that of the process that was compiled."""
    return [arg.encode("utf-8", "surrogateescape") for arg in args]


def _add_execve(program: Program, process: Mapping[str, Any], user: User) -> None:
    name = process["args"][0]
    variables = environment(process, user)
    if "/" in name:
        paths = [name]
    else:
        search = next(item[5:] for item in variables if item.startswith("PATH="))
        paths = [f"{folder or '.'}/{name}" for folder in search.split(":")]
    program.execve(
        ("execute", name),
        [path.encode() for path in paths],
        Param("argv"),
        [item.encode("utf-8", "surrogateescape") for item in variables],
    )
