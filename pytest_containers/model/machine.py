"""What `pytest-containers doctor` finds: features of the machine, daemons, the engine to take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class MachineFeature(NamedTuple):
    """A feature that a machine may offer.

    Attributes:
        name: Its name: ``"user namespaces"``.
        present: True if the machine offers it.
        required: True if no container can run without it.
        detail: The result of the check.
        fallback: The behaviour without it.
        fix: How to get it, as a sentence.
        commands: The same as shell commands for root.
    """

    name: str
    present: bool
    required: bool
    detail: str
    fallback: str = ""
    fix: str = ""
    commands: tuple[str, ...] = ()


class DaemonReport(NamedTuple):
    """An endpoint of Docker's API, and whether the docker engine can use it.

    Attributes:
        url: Its address; empty if what should name it does not.
        source: What names it: ``"DOCKER_HOST"``, ``"context 'far'"``, ``"the default"``.
        taken: True for the one that the docker engine takes.
        remote: True if the daemon is on another machine.
        reachable: True if it answers as a daemon that is new enough.
        reason: Why the engine cannot use it; empty if it can.
        product: Its name and version: ``"Docker 20.10.24"``.
        api_version: The version of the API that is spoken with it.
    """

    url: str
    source: str
    taken: bool
    remote: bool
    reachable: bool
    reason: str = ""
    product: str = ""
    api_version: str = ""


class EngineChoice(NamedTuple):
    """The engine that ``containers_engine = auto`` takes here.

    Attributes:
        engine: Its name; empty if no engine works.
        lacks: The capabilities and the features of this machine that it does not have.
        passed_over: Why engines that come before it are not taken, by their names.
    """

    engine: str
    lacks: tuple[str, ...]
    passed_over: Mapping[str, str]
