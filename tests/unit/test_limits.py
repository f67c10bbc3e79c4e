"""Limits: their checks, their older names, and what is written for them in both versions."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

import pytest_containers as pc
from pytest_containers.engines.native.config import _resources as resources_of
from pytest_containers.linux.cgroups import Hierarchy
from pytest_containers.linux.files import remove
from pytest_containers.model.spec import spec_of
from pytest_containers.runtime.launcher.limits import controllers_of, write_limits
from pytest_containers.runtime.supervisor.disk import _sizes
from pytest_containers.runtime.wire.faults import FaultError

MEMORY = 64 << 20
THROTTLES: dict[str, Any] = {
    "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}],
    "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 2}],
    "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 3}],
    "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 4}],
}


class TestOlderNames:
    @pytest.mark.parametrize(
        ("old", "value", "new"),
        [("rlimits", {"nofile": 100}, "ulimits"), ("shm_size_bytes", 1 << 20, "shm_size")],
    )
    def test_they_work_with_a_warning(self, old: str, value: object, new: str) -> None:
        options: dict[str, Any] = {old: value}
        with pytest.warns(DeprecationWarning, match=f"{old} is called {new} now"):
            spec = pc.ContainerSpec("host:", **options)
        with pytest.warns(DeprecationWarning, match=old):
            changed = spec_of(pc.ContainerSpec("host:"), None, options)
        assert getattr(spec, new) == getattr(changed, new) == value

    def test_of_a_service(self) -> None:
        postgres = pc.services.Postgres(image="host:", rlimits={"core": 0})
        with pytest.warns(DeprecationWarning, match="rlimits is called ulimits now"):
            spec = postgres.spec(["postgres"], pc.wait.log("ready"))
        assert spec.ulimits == {"core": 0}

    def test_a_changed_spec_does_not_warn_again(self) -> None:
        with pytest.warns(DeprecationWarning, match="rlimits"):
            spec = pc.ContainerSpec("host:", rlimits={"core": 0})
        assert dataclasses.replace(spec, workdir="/").ulimits == {"core": 0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpu_shares": 1}, "cpu_shares 1 is not from 2 to 262144"),
        ({"blkio_weight": 1001}, "blkio_weight 1001 is not from 10 to 1000"),
        ({"pids_limit": 0}, "nor -1 for no limit"),
        ({"memswap_limit": "1g"}, "memswap_limit needs a mem_limit"),
        ({"mem_limit": "64m", "memswap_limit": "32m"}, "is less than mem_limit"),
        ({"device_read_bps": [{"Path": "/dev/sda"}]}, "is not usable; it must be such as"),
        ({"device_read_bps": [{"Path": "/dev/sda", "Rate": "x"}]}, "device_read_bps: 'x'"),
        ({"device_write_iops": [{"Path": "/dev/sda", "Rate": 0}]}, "is no limit; leave it out"),
        ({"device_read_bps": {"Path": "/dev/sda", "Rate": 1}}, "a list such as"),
    ],
)  # fmt: skip
def test_limits_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(pc.SpecError, match=message):
        pc.ContainerSpec("host:", **options)


@pytest.mark.parametrize("options", [{}, {"pids_limit": -1}, {"memswap_limit": 0}])
def test_no_limit(options: dict[str, Any]) -> None:
    assert resources_of(pc.ContainerSpec("host:", **options)) == {}


def test_a_path_that_is_no_disk() -> None:
    spec = pc.ContainerSpec("host:", device_read_bps=[{"Path": "/dev/null", "Rate": 1}])
    with pytest.raises(pc.StartError, match="/dev/null is not a block device of the host"):
        resources_of(spec)


def written(tmp_path: Path, version: int, resources: dict[str, Any], *names: str) -> dict[str, str]:
    """Return what is written to the files of a cgroup that has those of `names`."""
    for name in names:
        (tmp_path / name).touch()
    tree = Hierarchy(version, frozenset(), "", str(tmp_path))
    write_limits(str(tmp_path), tree, controllers_of(resources), resources)
    return {name: (tmp_path / name).read_text() for name in names}


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ({"limit": MEMORY}, ""),
        ({"limit": MEMORY, "defaultSwap": 2 * MEMORY}, str(MEMORY)),
        ({"limit": MEMORY, "swap": MEMORY}, "0"),
        ({"limit": MEMORY, "swap": 3 * MEMORY}, str(2 * MEMORY)),
        ({"limit": MEMORY, "swap": -1}, "max"),
    ],
)
def test_swap_of_version_2(tmp_path: Path, memory: dict[str, int], expected: str) -> None:
    values = written(tmp_path, 2, {"memory": memory}, "memory.max", "memory.swap.max")
    assert values == {"memory.max": str(MEMORY), "memory.swap.max": expected}


@pytest.mark.parametrize(
    ("version", "name"), [(1, "memory.limit_in_bytes"), (2, "memory.max")]
)  # fmt: skip
def test_a_kernel_that_does_not_count_swap(tmp_path: Path, version: int, name: str) -> None:
    default = {"memory": {"limit": MEMORY, "defaultSwap": 2 * MEMORY}}
    assert written(tmp_path, version, default, name) == {name: str(MEMORY)}
    with pytest.raises(FaultError, match=r"memswap_limit: this kernel has no memory\.\w+"):
        written(tmp_path, version, {"memory": {"limit": MEMORY, "swap": MEMORY}}, name)


@pytest.mark.parametrize(("shares", "weight"), [(2, "1"), (1024, "100"), (1 << 18, "10000")])
def test_shares_of_version_2(tmp_path: Path, shares: int, weight: str) -> None:
    values = written(tmp_path, 2, {"cpu": {"shares": shares}}, "cpu.weight", "cpu.max")
    assert values == {"cpu.weight": weight, "cpu.max": ""}


def test_disks_of_version_1(tmp_path: Path) -> None:
    names = [
        f"blkio.throttle.{name}_device"
        for name in ("read_bps", "write_bps", "read_iops", "write_iops")
    ]
    resources = {"blockIO": {"weight": 500, **THROTTLES}}
    assert written(tmp_path, 1, resources, "blkio.bfq.weight", *names) == {
        "blkio.bfq.weight": "500",
        **dict(zip(names, ["8:0 1", "8:0 2", "8:0 3", "8:16 4"], strict=True)),
    }


def test_disks_of_version_2(tmp_path: Path) -> None:
    one = {"throttleWriteIOPSDevice": THROTTLES["throttleWriteIOPSDevice"]}
    values = written(tmp_path, 2, {"blockIO": {"weight": 500, **one}}, "io.bfq.weight", "io.max")
    assert values == {"io.bfq.weight": "500", "io.max": "8:16 wiops=4"}


def test_weights_of_disks_without_bfq(tmp_path: Path) -> None:
    with pytest.raises(FaultError, match=r"blkio_weight: this kernel has no io.bfq.weight; leave"):
        written(tmp_path, 2, {"blockIO": {"weight": 500}}, "io.weight")


def test_a_tree_of_any_depth_is_counted(tmp_path: Path) -> None:
    """More levels than Python recurses and than a process has descriptors; then many directories.

    A directory counts: whoever looks pauses after some hundred sizes.
    """
    upper = tmp_path / "upper"
    upper.mkdir()
    here = os.open(upper, os.O_RDONLY)
    scratch = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    with open(os.open("bottom", os.O_WRONLY | os.O_CREAT, dir_fd=here), "wb") as file:
        file.write(b"x" * 100_000)
        os.fsync(file.fileno())
    os.close(here)
    for number in range(100):
        (upper / str(number)).mkdir()
    try:
        sizes = list(_sizes(scratch))
        assert len(sizes) == 1500 + 1 + 100
        assert sum(sizes) >= 100_000
        remove("upper", scratch)
        assert list(_sizes(scratch)) == []
    finally:
        os.close(scratch)
