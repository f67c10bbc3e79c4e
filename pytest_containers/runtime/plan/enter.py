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
from pytest_containers.runtime.plan.credentials import Machine, add_program
from pytest_containers.runtime.plan.users import User

_NAMESPACES = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP


def compile_exec(process: Mapping[str, Any], user: User, machine: Machine) -> Program:
    """The program of an exec; it is started in the container's pid namespace.

    Holes: ``argv``, ``container`` (a pidfd of its PID 1), ``stdin``, ``stdout``, ``stderr``.
    """
    program = Program()
    program.add("new session", NR["setsid"])
    # The host's network namespace, where it is the container's, is not ours to enter.
    namespaces = _NAMESPACES & ~CLONE_NEWNET if machine.host_network else _NAMESPACES
    program.add("enter the container", NR["setns"], Param("container"), namespaces)
    add_program(program, process, user, machine)
    return program
