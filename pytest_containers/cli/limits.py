"""Options of `run` for limits and privileges, as ``docker run`` names them."""

from __future__ import annotations

import argparse
from typing import Any

from pytest_containers.model.errors import SpecError
from pytest_containers.model.limits import RATES


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser of `run`."""
    group = parser.add_argument_group("limits and privileges (as docker run has them)")
    group.add_argument("-m", "--memory", dest="mem_limit", metavar="SIZE", help="as in 64m")
    group.add_argument(
        "--memory-swap", dest="memswap_limit", metavar="SIZE", help="memory and swap; -1: any"
    )
    group.add_argument("--cpus", type=float, metavar="N", help="processors' time: 0.5 is half one")
    group.add_argument("--cpuset-cpus", dest="cpuset", metavar="LIST", help="as in 0-2,4")
    group.add_argument("--cpu-shares", type=int, metavar="N", help="others have 1024")
    group.add_argument("--blkio-weight", type=int, metavar="N", help="of disks: 10 to 1000")
    for name in RATES:
        unit = "bytes" if name.endswith("bps") else "operations"
        group.add_argument(
            f"--{name.replace('_', '-')}", action="append", default=[], metavar="DISK:RATE",
            help=f"{unit} per second, as in /dev/sda:1mb",
        )  # fmt: skip
    group.add_argument("--pids-limit", type=int, metavar="N", help="processes and threads; -1: any")
    group.add_argument("--oom-score-adj", type=int, metavar="N", help="-1000 to 1000")
    group.add_argument("--shm-size", metavar="SIZE", help="of /dev/shm")
    group.add_argument(
        "--ulimit", action="append", default=[], metavar="NAME=SOFT[:HARD]", dest="ulimits",
        help="a limit of each process",
    )  # fmt: skip
    group.add_argument("--cap-add", action="append", metavar="NAME", help="a capability, or ALL")
    group.add_argument("--cap-drop", action="append", metavar="NAME", help="a capability, or ALL")
    group.add_argument(
        "--privileged", action="store_true",
        help="all capabilities of the run's own user namespace, and nothing of the host's",
    )  # fmt: skip


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of `ContainerSpec` that the options name.

    Raises:
        SpecError: An option is not understood.
    """
    fields: dict[str, Any] = {
        name: value
        for name in (
            "mem_limit", "cpus", "cpu_shares", "cpuset", "blkio_weight", "pids_limit",
            "oom_score_adj", "shm_size", "cap_add", "cap_drop", "privileged",
        )
        if (value := getattr(arguments, name)) is not None
    }  # fmt: skip
    if arguments.memswap_limit is not None:
        unlimited = arguments.memswap_limit == "-1"
        fields["memswap_limit"] = -1 if unlimited else arguments.memswap_limit
    if arguments.pids_limit == 0:
        fields["pids_limit"] = None
    for name in RATES:
        fields[name] = [_rate(item) for item in getattr(arguments, name)]
    fields["ulimits"] = dict(map(_ulimit, arguments.ulimits))
    return fields


def _rate(item: str) -> dict[str, int | str]:
    path, _, rate = item.rpartition(":")
    return {"Path": path, "Rate": rate}


def _ulimit(item: str) -> tuple[str, tuple[int, int]]:
    name, _, values = item.partition("=")
    soft, _, hard = values.partition(":")
    try:
        return name, (int(soft), int(hard or soft))
    except ValueError:
        raise SpecError(
            f"ulimit {item!r} is not understood; write NAME=SOFT or NAME=SOFT:HARD"
        ) from None
