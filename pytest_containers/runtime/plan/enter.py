"""The plan of an exec: one more process in a running container."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_containers.linux.numbers import NR
from pytest_containers.linux.process import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUTS,
)
from pytest_containers.linux.program import Param, Program
from pytest_containers.linux.seccomp import Filter
from pytest_containers.runtime.plan import workdir
from pytest_containers.runtime.plan.become_user import (
    Machine,
    add_program,
    add_streams,
    has_second_program,
    join_cgroups,
)
from pytest_containers.runtime.plan.users import ProcessUser

_NAMESPACES = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP


def compile_exec(
    process: Mapping[str, Any],
    user: ProcessUser,
    machine: Machine,
    syscall_filter: Filter | None,
    tasks: int = 0,
) -> Program:
    """Compile the program of an exec, which is started in the container's pid namespace.

    Holes: ``argv`` or ``start``, ``container`` (a pidfd of its PID 1), ``stdin``, ``stdout``,
    ``stderr``, and ``tasks:N`` for as many cgroups to join as `tasks` says.
    """
    program = Program()
    program.add("new session", NR["setsid"])
    join_cgroups(program, tasks)
    # The host's network namespace, where it is the container's, is not ours to enter.
    namespaces = _NAMESPACES & ~CLONE_NEWNET if machine.host_network else _NAMESPACES
    program.add("enter the container", NR["setns"], Param("container"), namespaces)
    add_streams(program, process, second=has_second_program(user, machine))
    workdir.add_make(program, process)
    add_program(program, process, user, machine, syscall_filter)
    return program
