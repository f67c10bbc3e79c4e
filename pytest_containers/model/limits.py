"""The checks of a container's limits: what no machine could give is refused before a start."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pytest_containers.model.errors import SpecError
from pytest_containers.model.harmless import quoted
from pytest_containers.model.sizes import parse_size

Rate = Mapping[str, int | str]
"""A limit of one disk: ``{"Path": "/dev/sda", "Rate": 1048576}``."""
LEAST_MEMORY_BYTES = 6 << 20
"""Docker's: with less, nothing gets as far as its first system call."""
RATES = ("device_read_bps", "device_write_bps", "device_read_iops", "device_write_iops")
_CPU_LIST = r"\d+(-\d+)?(,\d+(-\d+)?)*"


def check_limits(
    *,
    mem_limit: int | str | None,
    memswap_limit: int | str | None,
    cpus: float | None,
    cpuset: str | None,
    cpu_shares: int | None,
    pids_limit: int | None,
    blkio_weight: int | None,
    rates: Mapping[str, Sequence[Rate]],
    oom_score_adj: int | None,
    shm_size: int | str,
) -> None:
    """Check the limits of a `ContainerSpec`.

    Args:
        rates: The options of `RATES`.

    Raises:
        SpecError: One of them cannot be meant.
    """
    _size("shm_size", shm_size)
    _check_range("oom_score_adj", oom_score_adj, -1000, 1000)
    _check_range("cpu_shares", cpu_shares, 2, 1 << 18)
    _check_range("blkio_weight", blkio_weight, 10, 1000)
    if pids_limit is not None and pids_limit < 1 and pids_limit != -1:
        raise SpecError(f"pids_limit {pids_limit} is not 1 or more, nor -1 for no limit")
    if cpus is not None and not 0.01 <= cpus < 1 << 16:
        raise SpecError(f"cpus {cpus} is not a number of processors from 0.01 on")
    if cpuset is not None and not re.fullmatch(_CPU_LIST, cpuset, re.ASCII):
        raise SpecError(f"cpuset {quoted(cpuset)} is not a list of processors such as '0-2,4'")
    if mem_limit is not None:
        _check_memory(mem_limit, memswap_limit)
    elif memswap_limit:
        raise SpecError("memswap_limit needs a mem_limit: it is memory and swap together")
    for name, disks in rates.items():
        _check_rates(name, disks)


def _check_range(name: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        raise SpecError(f"{name} {value} is not from {least} to {most}")


def _check_memory(limit: int | str, swap: int | str | None) -> None:
    limit_bytes = _size("mem_limit", limit)
    if limit_bytes < LEAST_MEMORY_BYTES:
        raise SpecError(f"mem_limit {quoted(limit)} is less than 6 MB, the least")
    if swap is None or swap == -1:
        return
    if 0 < _size("memswap_limit", swap) < limit_bytes:  # 0 is the default, as in Docker
        raise SpecError(
            f"memswap_limit {swap!r} is less than mem_limit {limit!r}; it is memory and swap "
            "together"
        )


def _check_rates(name: str, rates: Sequence[Rate]) -> None:
    for rate in rates:
        if rate.keys() != {"Path", "Rate"} or not isinstance(rate["Path"], str):
            raise SpecError(
                f"{name}: {dict(rate)!r} is not usable; it must be such as "
                "{'Path': '/dev/sda', 'Rate': 1048576}",
                option=name,
            )
        if _size(name, rate["Rate"]) < 1:
            raise SpecError(
                f"{name}: a rate of 0 for {quoted(rate['Path'])} is no limit; leave it out"
            )


def _size(name: str, value: int | str) -> int:
    try:
        return parse_size(value)
    except ValueError as error:
        raise SpecError(f"{name}: {error}") from None
