"""The commands `doctor`, which checks the machine, and `setup`, which prints the fixes."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_containers.model.machine import MachineFeature


def add_commands(commands: Any) -> None:
    """Add `doctor` and `setup` to the subparsers."""
    doctor = commands.add_parser(
        "doctor",
        help="check the features of this machine, and report fixes for missing ones",
        description="Check all features of this machine. The exit code is 1 if a required feature "
        "is missing.",
    )
    doctor.add_argument(
        "--format", choices=("table", "json"), default="table", help="form of the output"
    )
    doctor.add_argument(
        "--json", action="store_const", dest="format", const="json", help="as --format json"
    )
    doctor.set_defaults(handler=_doctor)
    setup = commands.add_parser(
        "setup",
        help="print the commands, for root, that fix the findings of doctor",
        description="Print commands without running them: read them, then run "
        "`… setup | sudo sh -ex`. Comments explain problems that no command can fix. The exit code "
        "is 1 if containers cannot run and no command helps.",
    )
    setup.set_defaults(handler=_setup)


def _doctor(arguments: argparse.Namespace) -> int:
    features = _features()
    missing = _missing(features)
    if arguments.format == "json":
        listed = [feature._asdict() for feature in features]
        print(json.dumps({"containers_run": not missing, "features": listed}, indent=2))
        return 1 if missing else 0
    width = max(len(feature.name) for feature in features)
    for feature in features:
        mark = "ok" if feature.present else "NO" if feature.required else "--"
        print(f"{mark}  {feature.name:<{width}}  {feature.detail}")
        if not feature.present:
            for label, hint in (("instead", feature.fallback), ("fix", feature.fix)):
                if hint:
                    print(f"    {'':<{width}}  {label}: {hint}")
    print()
    if not missing:
        print("Containers run here.")
        return 0
    names = ", ".join(feature.name for feature in missing)
    hint = " `setup` prints the commands." if any(map(_has_commands, missing)) else ""
    print(f"Containers cannot run here: {names}.{hint}")
    return 1


def _setup(arguments: argparse.Namespace) -> int:
    missing = [feature for feature in _features() if not feature.present]
    for feature in missing:
        # One line only: the shell would run a second line as a command.
        print(f"# {feature.name}: {' '.join(feature.detail.split())}")
        if feature.commands:
            if feature.fix:
                print(f"# To do: {feature.fix}.")
            print(*feature.commands, sep="\n")
        elif feature.fix:
            print(f"# No command fixes this; {feature.fix}.")
        else:
            print("# No command fixes this.")
    if not missing:
        print("# Nothing to do: this machine offers everything.")
    return 0 if all(map(_has_commands, _missing(missing))) else 1


def _has_commands(feature: MachineFeature) -> bool:
    return bool(feature.commands)


def _missing(features: list[MachineFeature]) -> list[MachineFeature]:
    return [feature for feature in features if feature.required and not feature.present]


def _features() -> list[MachineFeature]:
    """Return the features of the machine; if none is missing, also what containers can do."""
    from pytest_containers.engines.choose import machine_features, try_machine
    from pytest_containers.model import settings
    from pytest_containers.model.settings import Settings

    chosen = Settings({}, {})
    home = chosen.get(settings.HOME)
    features = machine_features(home)
    if not _missing(features):
        features += try_machine(home, chosen.get(settings.IDENTITY))
    return features
