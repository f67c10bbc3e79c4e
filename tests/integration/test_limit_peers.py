"""`run` and ``docker run``: the same options of limits and privileges mean the same."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import cgroups
from helpers.layouts import Layout

import pytest_containers as pc
from pytest_containers.cli import limits

pytestmark = [
    pytest.mark.alone, pytest.mark.slow, pytest.mark.needs("root", "docker", "cgroups"),
]  # fmt: skip

_MAIN = "import sys; from pytest_containers.cli import main; sys.exit(main())"
_CAPABILITIES = "grep CapBnd /proc/self/status"
_FORKS = "(i=0; while :; do sleep 3 & i=$((i + 1)); echo $i; done) 2>/dev/null; true"


_PROGRAMS = ["-v", "/usr:/usr:ro"]
"""The image has a shell only; the rest is the host's."""


@pytest.fixture(scope="module")
def layout(base: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("limits") / "layout"
    Layout(path).image([base])
    (path.parent / "base.tar").write_bytes(base)
    return path


@pytest.mark.parametrize(
    ("options", "script"),
    [
        (["--ulimit", "nofile=100:200"], "ulimit -Sn; ulimit -Hn"),
        (["--ulimit", "core=0"], "ulimit -c"),
        (["--shm-size", "8m"], "df -k --output=size /dev/shm"),
        ([], "df -k --output=size /dev/shm"),
        (["--oom-score-adj", "700"], "sleep 0.2; cat /proc/self/oom_score_adj"),
        ([], _CAPABILITIES),
        (["--cap-drop", "ALL"], _CAPABILITIES),
        (["--cap-drop", "ALL", "--cap-add", "CHOWN"], _CAPABILITIES),
        (["--cap-add", "SYS_PTRACE", "--cap-drop", "CAP_KILL"], _CAPABILITIES),
        (["--read-only"], "touch /x 2>&1; echo $?"),
        (["--cpuset-cpus", "0"], "grep Cpus_allowed_list /proc/self/status"),
        (["--pids-limit", "6"], _FORKS),
        (["-m", "32m"], "tail -c 200m /dev/zero; echo $?"),
        (["-m", "32m", "--memory-swap", "32m"], "tail -c 20m /dev/zero > /dev/null; echo $?"),
    ],
)
def test_the_same_as_docker(
    docker: Callable[..., str], layout: Path, store_home: Path, options: list[str], script: str
) -> None:
    command = ["sh", "-c", script]
    docker("import", str(layout.parent / "base.tar"), "limits:1")
    expected = docker("run", "--rm", "--network=none", *_PROGRAMS, *options, "limits:1", *command)
    done = subprocess.run(
        [sys.executable, "-c", _MAIN, "run", *_PROGRAMS, *options, f"oci:{layout}", *command],
        env={"PYTEST_CONTAINERS_HOME": str(store_home), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == expected, done.stderr


@pytest.mark.parametrize(
    ("options", "file"),
    [
        (["-m", "32m"], "memory/memory.memsw.limit_in_bytes"),
        (["-m", "32m", "--memory-swap", "0"], "memory/memory.memsw.limit_in_bytes"),
        (["-m", "32m", "--memory-swap", "-1"], "memory/memory.memsw.limit_in_bytes"),
        (["-m", "32m", "--memory-swap", "48m"], "memory/memory.memsw.limit_in_bytes"),
        (["--cpu-shares", "512"], "cpu/cpu.shares"),
        (["--device-read-bps", "DISK:1mb"], "blkio/blkio.throttle.read_bps_device"),
        (["--device-write-iops", "DISK:100"], "blkio/blkio.throttle.write_iops_device"),
    ],
)
def test_the_same_file_as_docker(
    docker: Callable[..., str], layout: Path, engine: pc.Engine, options: list[str], file: str
) -> None:
    """The kernel is told the same; of version 1, whose files are those of Docker."""
    controller, name = file.split("/")
    root = Path("/sys/fs/cgroup") / controller
    if not (root / "tasks").exists():
        pytest.skip("the controller is of version 2 here: see tests/unit/test_limits.py")
    options = [option.replace("DISK", cgroups.disk()) for option in options]
    docker("import", str(layout.parent / "base.tar"), "limits:1")
    number = docker("run", "-d", "--network=none", *_PROGRAMS, *options, "limits:1", "sleep", "99")
    expected = next(root.rglob(f"{number.strip()}/{name}")).read_text()
    docker("rm", "-f", number.strip())
    parser = argparse.ArgumentParser()
    limits.add_options(parser)
    parsed = limits.options(parser.parse_args(options))
    with engine.run("host:", ["sleep", "99"], wait_ready=False, **parsed):
        assert cgroups.limit_of_runs(name) == expected.strip()
