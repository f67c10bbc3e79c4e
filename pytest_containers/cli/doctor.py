"""`doctor` tells what this machine can do; `setup` prints the commands that would mend it."""

from __future__ import annotations

import argparse
from typing import Any


def add_commands(commands: Any) -> None:
    """Add `doctor` and `setup` to the subparsers."""
    doctor = commands.add_parser(
        "doctor",
        help="tell what this machine can do, what is missing and how to mend it",
        description="Probes every capability; exits with 1 when a required one is missing.",
    )
    doctor.set_defaults(handler=_doctor)
    setup = commands.add_parser(
        "setup",
        help="print the commands, for root, that would mend what doctor found",
        description="Changes nothing itself: read what it prints, then `… setup | sudo sh -ex`.",
    )
    setup.set_defaults(handler=_setup)


def _doctor(arguments: argparse.Namespace) -> int:
    from pytest_containers.runtime import probe

    capabilities = probe.capabilities()
    width = max(len(capability.name) for capability in capabilities)
    for capability in capabilities:
        mark = "ok" if capability.present else "NO" if capability.required else "--"
        print(f"{mark}  {capability.name:<{width}}  {capability.detail}")
        if not capability.present:
            for what, text in (("instead", capability.fallback), ("fix", capability.fix)):
                if text:
                    print(f"    {'':<{width}}  {what}: {text}")
    missing = [one.name for one in capabilities if one.required and not one.present]
    print()
    if missing:
        print(f"Containers cannot run here: {', '.join(missing)}. `setup` prints the commands.")
        return 1
    print("Containers run here.")
    return 0


def _setup(arguments: argparse.Namespace) -> int:
    from pytest_containers.runtime import probe

    for capability in probe.capabilities():
        if not capability.present and capability.commands:
            print(f"# {capability.name}: {capability.detail}")
            print(*capability.commands, sep="\n")
    return 0
