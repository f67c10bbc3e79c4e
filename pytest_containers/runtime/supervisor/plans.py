"""Compiled plans, kept: the second container of a fixture costs no compilation."""

from __future__ import annotations

import json
import os
import resource
from binascii import a2b_base64
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_containers.linux.mount import AT_EMPTY_PATH
from pytest_containers.linux.numbers import MACHINE, NR
from pytest_containers.linux.process import last_capability
from pytest_containers.linux.program import STATUS_FD, Param, Program
from pytest_containers.linux.seccomp import INSTRUCTION_BYTES, MAX_BYTES, Filter, add_filter
from pytest_containers.runtime.identity import Identity, Map
from pytest_containers.runtime.plan import mounts
from pytest_containers.runtime.plan.become_user import Machine
from pytest_containers.runtime.plan.enter import compile_exec
from pytest_containers.runtime.plan.oci import (
    MASKED_PATHS,
    READONLY_PATHS,
    Config,
    check_process,
    parse,
)
from pytest_containers.runtime.plan.start import add_setup, compile_start, finish_root
from pytest_containers.runtime.plan.users import ProcessUser, of_process, resolve
from pytest_containers.runtime.seccomp.builtin import BUILTIN
from pytest_containers.runtime.supervisor.resolved_spec import ResolvedSpec
from pytest_containers.runtime.supervisor.root import RunRoot
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.operations.starts import SyscallFilter

if TYPE_CHECKING:
    from typing import TypeVar

    from pytest_containers.runtime.supervisor.rootfs import ReadyImage

    _T = TypeVar("_T")

_MAX_KEPT = 64  # of each kind; some 50 KB are a config and its plan
_SIGCHLD, _SIG_IGN = 17, 1
_REAPER_FD = 4
_RT_SIGACTION = {"x86_64": 13, "aarch64": 134}
_IGNORE = _SIG_IGN.to_bytes(8, "little") + bytes(24)


def inspect_machine(root: RunRoot, identity: Identity, owns_interpreter: bool) -> Machine:
    """Return the properties of this machine and run that plans depend on."""
    features = root.features
    return Machine(
        last_capability(),
        features.own_ids,
        (_end(identity.uid_map), _end(identity.gid_map)),
        features.cgroup2,
        {path: os.path.isdir(path) for path in MASKED_PATHS if os.path.lexists(path)},
        [path for path in READONLY_PATHS if os.path.lexists(path)],
        features.host_network,
        identity.reason,
        identity.uid_map,
        identity.gid_map,
        root.tmpfs_bytes,
        owns_interpreter,
        features.own_proc,
        features.own_sys,
        features.apart,
        _descriptors_of_a_program(),
    )


def _descriptors_of_a_program() -> int:
    """Return how many descriptors a program may have, so that some are left to the run.

    Sockets pass no more of them at a time than the sender may have, and the kernel counts those of
    all processes of a user together (unix(7), ETOOMANYREFS). What a container sends and nobody
    receives must not keep the supervisor from sending any.
    """
    ours, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ours - max(ours // 64, min(1024, ours // 4))


def _end(ranges: Map) -> int:
    return max(inside + count for inside, _, count in ranges)


class StartPlan(NamedTuple):
    """The program and the user of a start.

    Attributes:
        program: Of its first process, with holes.
        user: Its user.
        syscall_filter: The filter of its programs' system calls, or None.
    """

    program: Program
    user: ProcessUser
    syscall_filter: Filter | None


class Plans:
    """Compiled programs, by everything that they depend on; those that were used last are kept."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._starts: dict[tuple[object, ...], StartPlan] = {}
        self._execs: dict[tuple[object, ...], Program] = {}
        self._configs: dict[tuple[object, ...], Config] = {}
        self._processes: dict[tuple[object, ...], dict[str, Any]] = {}

    def config(self, contents: bytes) -> Config:
        """Check a config; equal bytes are checked once."""
        config = _kept(self._configs, (contents,))
        if config is None:
            config = parse(contents)
            _keep(self._configs, (contents,), config)
        return config

    def process(self, contents: bytes) -> dict[str, Any]:
        """Check the process object of an exec; equal bytes are checked once."""
        process = _kept(self._processes, (contents,))
        if process is None:
            process = json.loads(contents)
            check_process(process)
            _keep(self._processes, (contents,), process)
        return process

    def start(self, image: ReadyImage, spec: ResolvedSpec, root_fd: int) -> StartPlan:
        """Compile the plan of a container."""
        request = spec.request
        syscall_filter = _filter_of(request.syscall_filter)
        if spec.facts.bundle:  # its root file system may be another the next time
            return self._compile(image, spec, root_fd, syscall_filter)
        key = (
            image.key, spec.config, request.user, tuple(request.groups), request.init,
            spec.facts, syscall_filter,
        )  # fmt: skip
        plan = _kept(self._starts, key)
        if plan is None:
            plan = self._compile(image, spec, root_fd, syscall_filter)
            _keep(self._starts, key, plan)
        return plan

    def _compile(
        self, image: ReadyImage, spec: ResolvedSpec, root_fd: int, syscall_filter: Filter | None
    ) -> StartPlan:
        config, machine = spec.config, self._machine
        user = of_process(root_fd, config.process)
        if user is None or spec.request.user:
            user = resolve(root_fd, spec.request.user, tuple(spec.request.groups))
        if not spec.request.init:
            program = compile_start(
                config, user, image.mounts, image.devices, spec.facts, machine, root_fd,
                syscall_filter,
            )  # fmt: skip
            return StartPlan(program, user, syscall_filter)
        program = Program()
        add_setup(program, config, image.mounts, image.devices, spec.facts, machine, root_fd)
        _keep_reaper(program)
        finish_root(program, config)
        if syscall_filter is not None:
            # The reaper has calls of its own, which a policy for the program need not know.
            add_filter(program, BUILTIN[MACHINE])
        _add_reaper(program)
        return StartPlan(program, user, syscall_filter)

    def enter(
        self,
        contents: bytes,
        process: dict[str, Any],
        user: ProcessUser,
        syscall_filter: Filter | None,
        tasks: int = 0,
    ) -> Program:
        """Compile the program of an exec.

        Args:
            contents: The process object's bytes: equal bytes, equal plan.
            process: The same, parsed.
            user: Its user.
            syscall_filter: That of its container.
            tasks: How many cgroups it joins by itself.
        """
        key = (contents, user, syscall_filter, tasks)
        program = _kept(self._execs, key)
        if program is None:
            program = compile_exec(process, user, self._machine, syscall_filter, tasks)
            _keep(self._execs, key, program)
        return program

    def devpts_options(self, config: Config) -> str:
        """Return the options of the config's devpts."""
        for entry in config.mounts:
            if entry.get("type") == "devpts":
                options = mounts.options(entry)[1].split(",")
                own = self._machine.own_ids
                return ",".join(
                    option for option in options if own or not option.startswith("gid=")
                )
        raise FaultError("SpecError", "OCI config: a terminal needs a mount of type devpts")


def _filter_of(syscall_filter: SyscallFilter | None) -> Filter | None:
    """Return a filter as the kernel takes it."""
    if syscall_filter is None:
        return None
    if not syscall_filter.code:
        return BUILTIN[MACHINE]
    try:
        code = a2b_base64(syscall_filter.code)
    except ValueError:
        code = b""
    if not 0 < len(code) <= MAX_BYTES or len(code) % INSTRUCTION_BYTES:
        raise FaultError("SpecError", "syscall_filter: that is no filter of system calls")
    return Filter(code, syscall_filter.flags)


def _kept(table: dict[tuple[object, ...], _T], key: tuple[object, ...]) -> _T | None:
    value = table.pop(key, None)
    if value is not None:
        table[key] = value  # as the last that was used
    return value


def _keep(table: dict[tuple[object, ...], _T], key: tuple[object, ...], value: _T) -> None:
    if len(table) >= _MAX_KEPT:
        table.pop(next(iter(table)))
    table[key] = value


def _keep_reaper(program: Program) -> None:
    """Append what closes all descriptors but the standard ones, the status pipe and the reaper."""
    program.add("keep the status pipe", NR["dup3"], Param(STATUS_FD), 3, os.O_CLOEXEC)
    program.add("keep the reaper", NR["dup3"], Param("reaper"), _REAPER_FD, os.O_CLOEXEC)
    program.add("close descriptors", NR["close_range"], _REAPER_FD + 1, 0xFFFFFFFF, 0)


def _add_reaper(program: Program) -> None:
    """Append the life of PID 1 with ``init=True``: the kernel reaps where SIGCHLD is ignored."""
    program.add("reap", _RT_SIGACTION[os.uname().machine], _SIGCHLD, _IGNORE, 0, 8)
    program.add(
        "execute the reaper",
        NR["execveat"], _REAPER_FD, b"", [b"init"], [], AT_EMPTY_PATH,
    )  # fmt: skip
