"""What this machine can do, tried out; and what a refusal means.

`machine_features` serves ``pytest-containers doctor``. A run tries what it needs by itself; when it
is refused, `explain` says why.
"""

from __future__ import annotations

import os
import sys

from pytest_containers.linux import seccomp
from pytest_containers.linux.filesystems import can_have_upper
from pytest_containers.linux.numbers import MACHINE, SUPPORTED
from pytest_containers.model.errors import ContainersError
from pytest_containers.model.machine import MachineFeature
from pytest_containers.runtime import identity, newuidmap, refusals
from pytest_containers.runtime.network.outside import way_out
from pytest_containers.runtime.run import start_run
from pytest_containers.runtime.wire.operations.run import RunFacts

_STEPS = (
    ("user namespaces", "make the run's namespaces", "may be made"),
    ("container ids", refusals.IDS, "may be mapped"),
    ("mounts", "mount the run's own file systems", "permitted"),
)
"""Steps of a run's start, as `refused` names them."""


def machine_features(home: str) -> list[MachineFeature]:
    """Return everything as a run finds it: one is started for that and leaves nothing behind.

    Args:
        home: The image store. Nothing is written to it.
    """
    machine = [_platform(), _kernel()]
    if not all(feature.present for feature in machine):
        return machine
    facts = _start_run(home)
    if isinstance(facts, ContainersError):
        return [*machine, *_steps(facts)]
    extras = [
        _ids(facts),
        _own_proc(facts),
        _memory_scratch(facts, home),
        _host_link(facts),
        _way_out(),
        _stub(facts),
        _filters(),
        _confinement(),
    ]
    return [*machine, *_steps(None), *extras]


def _platform() -> MachineFeature:
    linux = sys.platform == "linux"
    present = linux and MACHINE in SUPPORTED
    detail = f"{sys.platform} on {MACHINE}"
    fix = f"use Linux on {' or '.join(SUPPORTED)}"
    return MachineFeature("platform", present, True, detail, fix=fix)


def _kernel() -> MachineFeature:
    version = refusals.kernel_version()
    least = ".".join(map(str, refusals.LEAST_KERNEL))
    return MachineFeature(
        "kernel",
        version >= refusals.LEAST_KERNEL,
        True,
        f"Linux {os.uname().release}",
        fix=f"use Linux {least} or newer",
    )


def _start_run(home: str) -> RunFacts | ContainersError:
    """Return what a run says of itself, or why there is none."""
    client = start_run(home=home)
    try:
        return client.facts
    except ContainersError as error:
        return error
    finally:
        client.close()


def _steps(refusal: ContainersError | None) -> list[MachineFeature]:
    """Return the steps of a run's start, as far as it came."""
    steps: list[MachineFeature] = []
    for name, doing, detail in _STEPS:
        if refusal is not None and refusal.data.get("refused") == doing:
            commands = _userns_commands()
            return [*steps, MachineFeature(name, False, True, str(refusal), commands=commands)]
        steps.append(MachineFeature(name, True, True, detail))
    if refusal is not None:
        steps.append(MachineFeature("run", False, True, str(refusal)))
    return steps


def _userns_commands() -> tuple[str, ...]:
    commands = []
    if refusals.read_setting(refusals.APPARMOR) == "1":
        commands.append("sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
    if refusals.read_setting(refusals.DEBIAN_SWITCH) == "0":
        commands.append("sysctl -w kernel.unprivileged_userns_clone=1")
    if refusals.read_setting(refusals.MOST_NAMESPACES) == "0":
        commands.append("sysctl -w user.max_user_namespaces=28633")
    return tuple(commands)


def _ids(facts: RunFacts) -> MachineFeature:
    if facts.identity == "root":
        return MachineFeature("user ids", True, False, "container users are high ids of the host")
    if facts.identity == "range":
        detail = (
            f"container users are the ids of this machine ({facts.identity_reason})"
            if facts.identity_reason
            else "container root is you; other users are your subordinate ids"
        )
        return MachineFeature("user ids", True, False, detail)
    return MachineFeature(
        "user ids",
        False,
        False,
        facts.identity_reason,
        fallback="a container has one id for all users and files; no program can change its user",
        fix=identity.why_single().remedy,
        commands=_id_commands(),
    )


def _id_commands() -> tuple[str, ...]:
    """Return what gives this account subordinate ids; empty if it has them or there are none."""
    commands: list[str] = []
    if newuidmap.find("newuidmap") is None:
        commands.append("apt-get install -y uidmap")
    uid, gid, name = os.geteuid(), os.getegid(), identity.user_name(os.geteuid())
    if not name:  # newuidmap wants one
        name = f"user{uid}"
        commands.append(f"echo {name}:x:{uid}:{gid}::/:/bin/sh >>/etc/passwd")
    files = (identity.SUBUID, identity.SUBGID)
    if not all(identity.subordinate(path, uid) for path in files):
        ranges = identity.spare_ranges()
        commands += [
            f"echo {name}:{first}:{count} >>{path}" for first, count in ranges for path in files
        ]
        return tuple(commands) if ranges else ()
    return tuple(commands)


def _own_proc(facts: RunFacts) -> MachineFeature:
    if facts.features["own_proc"]:
        return MachineFeature("own /proc", True, False, "containers have one of their own")
    apart = "" if facts.features["apart"] else ", and may look into those of each other"
    return MachineFeature(
        "own /proc",
        False,
        False,
        "a part of /proc is masked here",
        fallback="containers see the processes of this place and of each other, with other numbers "
        f"than their own{apart}; no IPv6; ports below 1024 are root's",
        fix="start the container with --security-opt systempaths=unconfined",
    )


def _memory_scratch(facts: RunFacts, home: str) -> MachineFeature:
    present = facts.features["tmpfs_xattrs"]
    on_disk = present or can_have_upper(home)
    return MachineFeature(
        "memory scratch",
        present,
        False,
        "tmpfs has user xattrs" if present else "tmpfs has no user xattrs",
        fallback="writable layers are on disk"
        if on_disk
        else "writable layers are in memory, and a directory of an image that was removed there "
        "cannot be made again, for the store cannot have them either",
        fix="use Linux 6.6 or newer",
    )


def _host_link(facts: RunFacts) -> MachineFeature:
    return MachineFeature(
        "direct addresses",
        facts.connected,
        False,
        "tests reach containers by their addresses"
        if facts.connected
        else facts.connected_reason or "needs root of the host",
        fallback="ports are forwarded from 127.0.0.1",
    )


def _way_out() -> MachineFeature:
    program, why_not = way_out()
    return MachineFeature(
        "way out",
        bool(program),
        False,
        f"{program} connects containers that ask for it" if program else why_not,
        fallback="RUN of builds is in the host's network, and egress=True an error",
        fix="install slirp4netns or passt, and let users open /dev/net/tun",
    )


def _stub(facts: RunFacts) -> MachineFeature:
    present = facts.runner == "stub"
    return MachineFeature(
        "machine code",
        present,
        False,
        "works" if present else "is not permitted",
        fallback="starts are made by forks of Python, about 4 ms slower",
    )


def _filters() -> MachineFeature:
    present = seccomp.available()
    return MachineFeature(
        "seccomp",
        present,
        False,
        "system calls of containers are filtered" if present else "this kernel has no filters",
        fallback="containers may make all system calls",
        fix="use a kernel with CONFIG_SECCOMP_FILTER",
    )


def _confinement() -> MachineFeature:
    """Return what confines this process, and so its containers, from outside."""
    found = []
    label = (refusals.read_setting("/proc/self/attr/current") or "").rstrip("\0")
    if label and not label.startswith("unconfined"):
        found.append(f"the security label {label}")
    status = (refusals.read_setting("/proc/self/status") or "").splitlines()
    filters = [line.split()[1] for line in status if line.startswith("Seccomp_filters:")]
    if filters and filters[0] != "0":
        found.append(f"filters of system calls ({filters[0]})")
    if any(line.split() == ["NoNewPrivs:", "1"] for line in status):
        found.append("no_new_privs")
    return MachineFeature("confinement", True, False, " and ".join(found) or "none from outside")
