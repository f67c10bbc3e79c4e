"""Limits and privileges of single processes, and sizes by the memory that the run may use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import cgroups, leaks

import pytest_containers as pc


def _output(engine: pc.Engine, script: str, **options: object) -> str:
    with engine.run("host:", ["sh", "-c", script], wait_ready=False, **options) as container:
        assert container.wait(60) == 0, container.logs()
        return container.logs().stdout.strip()


def test_ulimits(engine: pc.Engine) -> None:
    script = "ulimit -Sn; ulimit -Hn"
    assert _output(engine, script, ulimits={"nofile": (100, 200)}).split() == ["100", "200"]


@pytest.mark.parametrize(("size", "kilobytes"), [("8m", "8192"), (1 << 20, "1024")])
def test_shm_size(engine: pc.Engine, size: int | str, kilobytes: str) -> None:
    script = "df -k --output=size /dev/shm | tail -1"
    assert _output(engine, script, shm_size=size) == kilobytes


def test_capabilities(engine: pc.Engine) -> None:
    script = "grep CapBnd /proc/self/status | cut -f2"
    every = int(_output(engine, script, cap_add=["ALL"]), 16)
    assert int(_output(engine, script, cap_drop=["ALL"]), 16) == 0
    assert int(_output(engine, script, cap_drop=["ALL"], cap_add=["CHOWN"]), 16) == 1
    assert int(_output(engine, script, privileged=True), 16) == every


def test_no_new_privileges(engine: pc.Engine) -> None:
    script = "grep NoNewPrivs /proc/self/status | cut -f2"
    assert _output(engine, script, no_new_privileges=True) == "1"
    assert _output(engine, script) == "0"


def test_privileged_is_root_of_the_run_only(engine: pc.Engine) -> None:
    script = (
        "mount -t tmpfs none /mnt && echo mounted; cat /proc/self/uid_map;"
        "mknod /tmp/sda b 8 0 2>&1; dmesg -C 2>&1; echo 1 2>&1 > /proc/sys/vm/swappiness; true"
    )
    with engine.run("host:", ["sh", "-c", script], privileged=True, wait_ready=False) as container:
        container.wait(60)
        output = str(container.logs())
    assert output.startswith("mounted\n")
    assert output.count("not permitted") == 2
    assert "swappiness: Permission denied" in output


_RAISED = "while [ $(cat /proc/self/oom_score_adj) = {own} ]; do sleep 0.01; done;"
"""Waits until the run has raised the score, which it does soon after the start."""


class TestOomScore:
    def test_containers_are_killed_before_pytest(self, engine: pc.Engine) -> None:
        own = int(Path("/proc/self/oom_score_adj").read_text())
        with engine.run("host:", ["sleep", "100"], wait_ready=False) as container:
            executed = container.exec(
                ["sh", "-c", f"{_RAISED.format(own=own)} cat /proc/self/oom_score_adj"], text=True
            )
            main = container.read_text("/proc/1/oom_score_adj")
        assert int(main) == int(executed.stdout) == min(own + 500, 1000)

    def test_with_a_reaper(self, engine: pc.Engine) -> None:
        own = Path("/proc/self/oom_score_adj").read_text().strip()
        script = f"{_RAISED.format(own=own)} cat /proc/1/oom_score_adj /proc/self/oom_score_adj"
        assert _output(engine, script, init=True, oom_score_adj=700).split() == ["700", "700"]

    def test_it_does_not_reach_the_run(self, engine: pc.Engine) -> None:
        own = Path("/proc/self/oom_score_adj").read_text()
        with engine.run("host:", ["sleep", "100"], wait_ready=False, oom_score_adj=900) as c:
            assert c.read_text("/proc/1/oom_score_adj") == "900\n"
            scores = {
                Path(f"/proc/{pid}/oom_score_adj").read_text()
                for pid, process in leaks.descendants(leaks.process_table()).items()
                if process.name.startswith("pc-")
            }
        assert scores == {own}

    def test_none_is_safer_than_pytest(self, engine: pc.Engine) -> None:
        own = int(Path("/proc/self/oom_score_adj").read_text())
        with pytest.raises(pc.StartError, match="only the host's root may choose one below"):
            engine.run("host:", ["true"], oom_score_adj=own - 1)


_SIZES = """
import sys, pytest_containers as pc
script = "df -k --output=size / /dev/shm /dev /mnt | tail -4"
with pc.Engine(home=sys.argv[1]) as engine:
    with engine.run(
        "host:", ["sh", "-c", script], wait_ready=False, mounts=[pc.Tmpfs("/mnt")]
    ) as container:
        assert container.wait(60) == 0, container.logs()
        print(container.logs().stdout)
"""


@pytest.mark.needs("root", "xattrs of tmpfs")
def test_files_in_memory_fit_the_memory_of_our_cgroup(store_home: Path) -> None:
    with cgroups.memory_limited(200 << 20) as join:
        done = subprocess.run(
            [sys.executable, "-c", _SIZES, str(store_home)], preexec_fn=join, text=True,
            capture_output=True, check=True,
        )  # fmt: skip
    root, shm, dev, mnt = (int(size) * 1024 for size in done.stdout.split())
    assert (root, shm, dev, mnt) == (100 << 20, 25 << 20, 25 << 20, 100 << 20)


_FILL = """
import sys, pytest_containers as pc
ballast = bytearray(60 << 20)
with pc.Engine(home=sys.argv[1]) as engine:
    with engine.run(
        "host:", ["sh", "-c", "cat /dev/zero > /srv/all; sleep 0.1"], wait_ready=False
    ) as container:
        code = container.wait(60)
        print(code, container.logs())
"""


@pytest.mark.needs("root", "xattrs of tmpfs")
def test_a_full_writable_layer_does_not_kill_pytest(store_home: Path) -> None:
    with cgroups.memory_limited(400 << 20) as join:
        done = subprocess.run(
            [sys.executable, "-c", _FILL, str(store_home)], preexec_fn=join, text=True,
            capture_output=True,
        )  # fmt: skip
    assert done.returncode == 0, done
    assert "No space left on device" in done.stdout
