"""Profiles of system calls in Docker's format (``security_opt=["seccomp=PROFILE.json"]``).

It is that of the OCI runtime-spec with conditions (capabilities, architecture, kernel), which are
decided when a container is described.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pytest_containers.linux.numbers import MACHINE
from pytest_containers.model.errors import SpecError, hide_frames
from pytest_containers.model.harmless import quoted
from pytest_containers.runtime.seccomp import policy
from pytest_containers.runtime.wire.faults import FaultError

__tracebackhide__ = hide_frames

_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_GOARCH = {"x86_64": "amd64", "aarch64": "arm64"}
_CONDITIONS = {"caps", "arches", "minKernel"}
_MAX_BYTES = 16 << 20


class Host(NamedTuple):
    """The facts that conditions of a profile compare.

    Attributes:
        capabilities: What the container is granted, as ``CAP_CHOWN``.
        machine: As ``uname -m`` has it.
        kernel: Version and major revision.
    """

    capabilities: frozenset[str]
    machine: str
    kernel: tuple[int, int]


def read_profile(value: str, capabilities: frozenset[str]) -> tuple[dict[str, Any], str]:
    """Return a profile as ``linux.seccomp`` of an OCI config, and what messages call it.

    Args:
        value: A path, or the profile itself, as Docker's API takes it.
        capabilities: What the container is granted.

    Raises:
        SpecError: It cannot be read, or is wrong.
    """
    if value.startswith("{"):
        where = "seccomp profile"
        return _parse(where, value, capabilities), where
    path = os.path.abspath(value)
    where = f"seccomp profile {path}"
    try:
        state = os.stat(path)
        version = (state.st_mtime_ns, state.st_size, state.st_ino)
        return _read_file(path, version, capabilities), where
    except OSError as error:
        raise SpecError(f"{where}: {(error.strerror or str(error)).lower()}") from None


@functools.lru_cache(maxsize=64)
def _read_file(path: str, version: tuple[int, ...], capabilities: frozenset[str]) -> dict[str, Any]:
    """Read a profile; `version` tells when it has changed."""
    with open(path, "rb") as file:
        contents = file.read(_MAX_BYTES)
    return _parse(f"seccomp profile {path}", contents, capabilities)


def _parse(where: str, contents: str | bytes, capabilities: frozenset[str]) -> dict[str, Any]:
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    kernel = (int(release[1]), int(release[2])) if release else (0, 0)
    try:
        profile = json.loads(contents)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{where} is not JSON: {error}") from None
    try:
        return resolve(profile, where, Host(capabilities, MACHINE, kernel))
    except FaultError as error:
        raise SpecError(str(error)) from None


def resolve(profile: object, where: str, host: Host) -> dict[str, Any]:
    """Return a profile of Docker's as ``linux.seccomp``: the rules whose conditions hold.

    Raises:
        SpecError, FaultError: It has something unknown or wrong; rules that are left out count too.
    """
    if not isinstance(profile, dict):
        raise SpecError(f"{where}: {quoted(profile)} is not an object")
    document = {key: value for key, value in profile.items() if key not in ("archMap", "syscalls")}
    architectures = _sub_architectures(profile.get("archMap") or [], where, host)
    if architectures and profile.get("architectures"):
        raise SpecError(f"{where}: archMap and architectures exclude each other")
    if architectures:
        document["architectures"] = architectures
    rules = profile.get("syscalls") or []
    if not isinstance(rules, list):
        raise SpecError(f"{where}: syscalls {quoted(rules)} is not a list")
    document["syscalls"] = [
        rule
        for number, entry in enumerate(rules)
        for rule in _rule(entry, f"{where}: syscalls[{number}]", host)
    ]
    return document


def _sub_architectures(entries: object, where: str, host: Host) -> list[str]:
    """Return the architectures that an archMap has for this machine."""
    architectures: list[str] = []
    if not isinstance(entries, list):
        raise SpecError(f"{where}: archMap {quoted(entries)} is not a list")
    for number, entry in enumerate(entries):
        place = f"{where}: archMap[{number}]"
        _check_keys(entry, {"architecture", "subArchitectures"}, place)
        others = entry.get("subArchitectures") or []
        if not isinstance(others, list):
            raise SpecError(f"{place}: subArchitectures {quoted(others)} is not a list")
        names = [
            policy.check_architecture(name, place) for name in (entry.get("architecture"), *others)
        ]
        if names[0] == _ARCHITECTURES.get(host.machine):
            architectures += names
    return architectures


def _rule(entry: object, where: str, host: Host) -> list[dict[str, Any]]:
    """Return a rule without its conditions, if they hold."""
    if not isinstance(entry, dict):
        raise SpecError(f"{where}: {quoted(entry)} is not an object")
    rule = {
        key: value for key, value in entry.items() if key not in ("includes", "excludes", "name")
    }
    if entry.get("name"):
        if entry.get("names"):
            raise SpecError(f"{where}: name and names exclude each other")
        rule["names"] = [entry["name"]]
    list(policy.rules_of(rule, where))
    included = _conditions(entry, "includes", where)
    excluded = _conditions(entry, "excludes", where)
    holds = all(_holds(included, host)) and not any(_holds(excluded, host, every=False))
    return [rule] if holds else []


def _conditions(entry: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    conditions = entry.get(key) or {}
    _check_keys(conditions, _CONDITIONS, f"{where}: {key}")
    for name in ("caps", "arches"):
        words = conditions.get(name) or []
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise SpecError(f"{where}: {key}: {name} {quoted(words)} is not a list of names")
    version = conditions.get("minKernel")
    if version and not (isinstance(version, str) and re.fullmatch(r"\d{1,3}\.\d{1,3}", version)):
        raise SpecError(f"{where}: {key}: minKernel {quoted(version)} is no version, as '4.8' is")
    return dict(conditions)


def _holds(conditions: Mapping[str, Any], host: Host, *, every: bool = True) -> list[bool]:
    """Return which of the conditions that are there hold.

    Args:
        conditions: As a profile has them.
        host: What they are about.
        every: True if all capabilities are needed, False if one suffices.
    """
    results = []
    if conditions.get("caps"):
        present = [name in host.capabilities for name in conditions["caps"]]
        results.append(all(present) if every else any(present))
    if conditions.get("arches"):
        results.append(_GOARCH[host.machine] in conditions["arches"])
    if conditions.get("minKernel"):
        major, minor = conditions["minKernel"].split(".")
        results.append(host.kernel >= (int(major), int(minor)))
    return results


def _check_keys(entry: object, supported: set[str], where: str) -> None:
    if not isinstance(entry, dict):
        raise SpecError(f"{where}: {quoted(entry)} is not an object")
    for key in entry:
        if key not in supported:
            raise SpecError(
                f"{where}: {quoted(key)} is unknown; there are {', '.join(sorted(supported))}"
            )
