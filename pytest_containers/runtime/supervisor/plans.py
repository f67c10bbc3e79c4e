"""Compiled plans, kept: the second container of a fixture costs no compilation."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from pytest_containers.linux.mount import AT_EMPTY_PATH
from pytest_containers.linux.numbers import NR
from pytest_containers.linux.process import last_capability
from pytest_containers.linux.program import Param, Program
from pytest_containers.runtime.launcher.identity import Identity, Map
from pytest_containers.runtime.messages import FaultError
from pytest_containers.runtime.oci import (
    MASKED_PATHS,
    READONLY_PATHS,
    Config,
    check_process,
    parse,
)
from pytest_containers.runtime.plan import mounts
from pytest_containers.runtime.plan.credentials import Machine
from pytest_containers.runtime.plan.enter import compile_exec
from pytest_containers.runtime.plan.start import add_setup, compile_start
from pytest_containers.runtime.plan.users import User, resolve
from pytest_containers.runtime.supervisor.root import Features

if TYPE_CHECKING:
    from typing import TypeVar

    from pytest_containers.runtime.supervisor.container import Wanted
    from pytest_containers.runtime.supervisor.rootfs import ReadyImage

    _T = TypeVar("_T")

_MAX_KEPT = 256
_SIGCHLD, _SIG_IGN = 17, 1
_RT_SIGACTION = {"x86_64": 13, "aarch64": 134}
_IGNORE = _SIG_IGN.to_bytes(8, "little") + bytes(24)


def look_around(features: Features, identity: Identity) -> Machine:
    """What plans have to know of this machine."""
    return Machine(
        last_capability(),
        features.own_ids,
        (_end(identity.uid_map), _end(identity.gid_map)),
        features.cgroup2,
        {path: os.path.isdir(path) for path in MASKED_PATHS if os.path.lexists(path)},
        [path for path in READONLY_PATHS if os.path.lexists(path)],
        features.host_network,
    )


def _end(ranges: Map) -> int:
    return max(inside + count for inside, _, count in ranges)


class Plans:
    """Programs by what they were made from."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._starts: dict[tuple[object, ...], tuple[Program, User]] = {}
        self._execs: dict[tuple[object, ...], Program] = {}
        self._configs: dict[tuple[object, ...], Config] = {}
        self._processes: dict[tuple[object, ...], dict[str, Any]] = {}

    def config(self, text: bytes) -> Config:
        """A config, checked; equal texts are checked once."""
        found = self._configs.get((text,))
        if found is None:
            found = parse(text)
            _keep(self._configs, (text,), found)
        return found

    def process(self, text: bytes) -> dict[str, Any]:
        """The same for the process object of an exec."""
        found = self._processes.get((text,))
        if found is None:
            found = json.loads(text)
            check_process(found)
            _keep(self._processes, (text,), found)
        return found

    def start(
        self, image: ReadyImage, wanted: Wanted, root_fd: int, *, network: bool
    ) -> tuple[Program, User]:
        """The program of a container's first process, with holes, and whose it is."""
        key = (
            image.key, wanted.config_text, wanted.user, wanted.groups, wanted.init,
            wanted.directories, network,
        )  # fmt: skip
        found = self._starts.get(key)
        if found is None:
            found = self._compile(image, wanted, root_fd, network=network)
            _keep(self._starts, key, found)
        return found

    def _compile(
        self, image: ReadyImage, wanted: Wanted, root_fd: int, *, network: bool
    ) -> tuple[Program, User]:
        user = resolve(root_fd, wanted.user, wanted.groups)
        config, machine = wanted.config, self._machine
        if not wanted.init:
            program = compile_start(
                config, user, image.mounts, wanted.directories, machine, root_fd, network=network
            )
            return program, user
        program = Program()
        add_setup(
            program, config, image.mounts, wanted.directories, machine, root_fd, network=network
        )
        _add_reaper(program)
        return program, user

    def enter(self, text: bytes, process: dict[str, Any], user: User) -> Program:
        """The program of an exec.

        Args:
            text: The process object's bytes: equal bytes, equal plan.
            process: The same, parsed.
            user: Whose it will be.
        """
        key = (text, user)
        program = self._execs.get(key)
        if program is None:
            program = compile_exec(process, user, self._machine)
            _keep(self._execs, key, program)
        return program

    def devpts_options(self, config: Config) -> str:
        """The options of the config's devpts."""
        for entry in config.mounts:
            if entry.get("type") == "devpts":
                options = mounts.options(entry)[1].split(",")
                own = self._machine.own_ids
                return ",".join(one for one in options if own or not one.startswith("gid="))
        raise FaultError("SpecError", "OCI config: a terminal needs a mount of type devpts")


def _keep(table: dict[tuple[object, ...], _T], key: tuple[object, ...], value: _T) -> None:
    if len(table) >= _MAX_KEPT:
        table.pop(next(iter(table)))
    table[key] = value


def _add_reaper(program: Program) -> None:
    """Append PID 1's life with ``init=True``: the kernel reaps for who ignores SIGCHLD."""
    program.add("reap", _RT_SIGACTION[os.uname().machine], _SIGCHLD, _IGNORE, 0, 8)
    program.add(
        "execute the reaper",
        NR["execveat"], Param("reaper"), b"", [b"init"], [], AT_EMPTY_PATH,
    )  # fmt: skip
