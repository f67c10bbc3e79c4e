"""The commands `doctor`, which checks the machine, and `setup`, which prints the fixes."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_containers.model.machine import DaemonReport, EngineChoice, MachineFeature


def add_commands(commands: Any) -> None:
    """Add `doctor` and `setup` to the subparsers."""
    doctor = commands.add_parser(
        "doctor",
        help="check the features of this machine, and report fixes for missing ones",
        description="Check all features of this machine, ask the endpoints of Docker's API, and "
        "name the engine that `containers_engine = auto` takes. The exit code is 1 if a required "
        "feature of the native engine is missing.",
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
    from pytest_containers.engines.choose import auto_choice, begin_survey

    answers = begin_survey()  # they come in while containers are tried
    features = _features()
    daemons = answers()
    choice = auto_choice(features, daemons)
    missing = _missing(features)
    if arguments.format == "json":
        report = {
            "containers_run": not missing,
            "features": [feature._asdict() for feature in features],
            "docker": [daemon._asdict() for daemon in daemons],
            "auto": choice._asdict(),
        }
        print(json.dumps(report, indent=2))
        return 1 if missing else 0
    _print_table([*features, *map(_of_daemon, daemons), _of_choice(choice)])
    print()
    if not missing:
        print("Containers run here.")
        return 0
    names = ", ".join(feature.name for feature in missing)
    hint = " `setup` prints the commands." if any(map(_has_commands, missing)) else ""
    print(f"Containers cannot run here: {names}.{hint}")
    return 1


def _print_table(features: Sequence[MachineFeature]) -> None:
    width = max(len(feature.name) for feature in features)
    for feature in features:
        mark = "ok" if feature.present else "NO" if feature.required else "--"
        print(f"{mark}  {feature.name:<{width}}  {feature.detail}")
        if not feature.present:
            for label, hint in (("instead", feature.fallback), ("fix", feature.fix)):
                if hint:
                    print(f"    {'':<{width}}  {label}: {hint}")


def _of_daemon(daemon: DaemonReport) -> MachineFeature:
    """Return an endpoint of Docker's API as a row of the table."""
    from pytest_containers.model.machine import MachineFeature

    name = "docker" if daemon.taken else "other docker"
    place = f"{daemon.url} ({daemon.source})" if daemon.url else daemon.source
    if daemon.reason:
        return MachineFeature(name, False, False, f"{place}: {daemon.reason}")
    where = "another machine" if daemon.remote else "this machine"
    found = f"{daemon.product}, API {daemon.api_version}, on {where}"
    return MachineFeature(name, True, False, f"{place}: {found}")


def _of_choice(choice: EngineChoice) -> MachineFeature:
    """Return the engine that ``auto`` takes as a row of the table."""
    from pytest_containers.model.machine import MachineFeature

    passed = "; ".join(f"{name}: {reason}" for name, reason in choice.passed_over.items())
    if not choice.engine:
        return MachineFeature("auto", False, False, f"takes no engine. {passed}")
    detail = f"takes {choice.engine}"
    if choice.lacks:
        detail += f", which lacks {', '.join(choice.lacks)}"
    return MachineFeature("auto", True, False, f"{detail}. {passed}" if passed else detail)


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
