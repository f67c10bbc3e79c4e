"""Cgroups of containers: limits that hold, what they count, and nothing that is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import cgroups

import pytest_containers as pc

pytestmark = pytest.mark.needs("cgroups")

_MOST_READY = 16
_HOG = "held = bytearray(300 << 20)"


@pytest.fixture(scope="module", params=["root", "range", "single"])
def each_engine(request: pytest.FixtureRequest, store_home: Path) -> Iterator[pc.Engine]:
    """A run of each identity."""
    with pc.Engine(home=store_home, identity=request.param) as engine:
        yield engine


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """When containers are removed, a run has those cgroups only that it keeps for the next ones."""
    yield
    runs = cgroups.of_runs_below(os.getpid())
    _until(lambda: all(len(cgroups.of_containers(run)) <= _MOST_READY for run in runs))
    for run in runs:
        for leaf in cgroups.of_containers(run):
            assert not cgroups.processes_of(leaf)


def _until(condition: Callable[[], object], within_s: float = 20) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)


def _throttled() -> int:
    """Return how often the only container with a limit had to wait for the next period."""
    lines = "".join(cgroups.files_of_runs("cpu.stat")).splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("nr_throttled "))


def _shell(engine: pc.Engine, script: str, **options: object) -> pc.Container:
    return engine.run("host:", ["sh", "-c", script], wait_ready=False, **options)


class TestLimits:
    def test_memory(self, each_engine: pc.Engine) -> None:
        with each_engine.run(
            "host:", ["python3", "-c", _HOG], mem_limit="64m", wait_ready=False
        ) as container:
            assert container.wait(60) == 137
            assert "killed: over its memory limit of 64 MB" in container.logs().stderr
            assert container.inspect().oom_killed

    def test_memory_of_a_child_and_of_an_exec(self, each_engine: pc.Engine) -> None:
        with _shell(each_engine, "sleep 100", mem_limit="64m") as container:
            assert not container.inspect().oom_killed
            assert container.exec(["python3", "-c", _HOG]).returncode == 137
            assert "killed: over its memory limit of 64 MB" in container.logs().stderr
            assert container.inspect().oom_killed
            assert container.status == "running"

    @pytest.mark.needs("xattrs of tmpfs")
    def test_memory_of_files(self, each_engine: pc.Engine) -> None:
        script = "head -c 300m /dev/zero > /srv/x; echo $?"
        with _shell(each_engine, script, mem_limit="64m") as container:
            container.wait(60)
            assert "over its memory limit" in container.logs().stderr

    def test_processes(self, each_engine: pc.Engine) -> None:
        script = "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done; wait"
        with _shell(each_engine, script, pids_limit=5) as container:
            pc.wait.log("Cannot fork").until(container, pc.wait.Deadline(60))

    @pytest.mark.needs("all controllers")
    @pytest.mark.parametrize("init", [False, True])
    def test_processors(self, each_engine: pc.Engine, init: bool) -> None:
        with _shell(each_engine, "nproc; sleep 100", cpuset="0", init=init) as container:
            pc.wait.log("1").until(container, pc.wait.Deadline(60))
            assert container.exec(["nproc"], text=True).stdout == "1\n"

    def test_time_of_processors(self, each_engine: pc.Engine) -> None:
        with _shell(each_engine, "while :; do :; done", cpus=0.1):
            _until(lambda: _throttled() > 1)

    @pytest.mark.parametrize(
        ("swap", "both"),
        [(None, 128 << 20), (0, 128 << 20), ("64m", 64 << 20), ("1g", 1 << 30), (-1, None)],
    )
    def test_memory_and_swap(
        self, engine: pc.Engine, swap: int | str | None, both: int | None
    ) -> None:
        with _shell(engine, "sleep 100", mem_limit="64m", memswap_limit=swap):
            limit = cgroups.limit_of_runs("memory.memsw.limit_in_bytes", "memory.swap.max")
        if both is None:
            assert limit == "max" or int(limit) > 1 << 62
        else:
            assert int(limit) in (both, both - (64 << 20))

    def test_shares_of_processors(self, engine: pc.Engine) -> None:
        with _shell(engine, "sleep 100", cpu_shares=512):
            assert cgroups.limit_of_runs("cpu.shares", "cpu.weight") in ("512", "59")

    def test_any_limit_makes_it_one_for_the_processors(self, engine: pc.Engine) -> None:
        """However many processes it has: with the share that a cgroup has by default."""
        with _shell(engine, "sleep 100", pids_limit=7):
            assert cgroups.limit_of_runs("cpu.shares", "cpu.weight") in ("1024", "100")

    @pytest.mark.needs("all controllers")
    @pytest.mark.parametrize("direction", ["read", "write"])
    def test_disks(self, engine: pc.Engine, direction: str) -> None:
        disk = os.stat(cgroups.disk()).st_rdev
        limits = {
            f"device_{direction}_{unit}": [{"Path": cgroups.disk(), "Rate": 1 << 20}]
            for unit in ("bps", "iops")
        }
        with _shell(engine, "sleep 100", **limits):
            for unit in ("bps", "iops"):
                limit = cgroups.limit_of_runs(f"blkio.throttle.{direction}_{unit}_device", "io.max")
                assert limit.startswith(f"{os.major(disk)}:{os.minor(disk)} ")
                assert str(1 << 20) in limit

    @pytest.mark.needs("all controllers")
    def test_weights_of_disks(self, engine: pc.Engine) -> None:
        """They hold, or the error says why not."""
        try:
            container = _shell(engine, "sleep 100", blkio_weight=500)
        except pc.UnsupportedError as error:
            assert "this kernel has no" in str(error)
            return
        with container:
            names = ("blkio.weight", "blkio.bfq.weight", "io.bfq.weight")
            assert cgroups.limit_of_runs(*names).removeprefix("default ") == "500"

    @pytest.mark.needs("all controllers")
    def test_limits_that_nothing_can_keep(self, engine: pc.Engine) -> None:
        with pytest.raises(pc.StartError, match="cpuset: the kernel does not take '4000'"):
            engine.run("host:", ["true"], cpuset="4000")
        with engine.run("host:", ["true"], cpuset="0", wait_ready=False) as container:
            assert container.wait(60) == 0

    @pytest.mark.needs("all controllers")
    def test_after_a_restart(self, engine: pc.Engine) -> None:
        with _shell(engine, "nproc", cpuset="0") as container:
            container.wait(60)
            container.restart()
            container.wait(60)
            assert container.logs().stdout == "1\n1\n"

    @pytest.mark.needs("all controllers")
    def test_a_clone_has_them_too(self, engine: pc.Engine) -> None:
        with _shell(engine, "nproc; sleep 100", cpuset="0") as container, container.clone() as twin:
            pc.wait.log("1").until(twin, pc.wait.Deadline(60))


def test_a_container_from_before_the_run_moved(store_home: Path) -> None:
    """With the first limit, the supervisor moves to a cgroup of the run (of version 2)."""
    with (
        pc.Engine(home=store_home, identity="single") as engine,
        _shell(engine, "sleep 100") as earlier,
        _shell(engine, "sleep 100", mem_limit="64m") as limited,
        _shell(engine, "sleep 100") as later,
    ):
        for container in (earlier, limited, later):
            assert container.exec(["true"]).returncode == 0


class TestTheNextContainer:
    """The cgroups of a dead container are those of the next one with the same limits."""

    def _used(self, container: pc.Container) -> frozenset[Path]:
        assert container.status == "running"
        return frozenset(cgroups.used_by_runs())

    @pytest.mark.needs("root")
    def test_they_are_used_again(self, engine: pc.Engine) -> None:
        seen = set()
        for _ in range(6):
            with _shell(engine, "sleep 100", pids_limit=7) as container:
                seen.add(self._used(container))
        assert len(seen) < 6

    def test_not_where_the_container_could_change_them(self, store_home: Path) -> None:
        seen = set()
        with pc.Engine(home=store_home, identity="single") as engine:
            for _ in range(3):
                with _shell(engine, "sleep 100", pids_limit=7) as container:
                    seen.add(self._used(container))
        assert len(seen) == 3

    @pytest.mark.needs("root")
    def test_it_has_nothing_of_the_one_before(self, engine: pc.Engine) -> None:
        """Neither what it used nor that a process of it was killed; and it has all its time."""
        limits = {"mem_limit": "64m", "pids_limit": 9, "cpus": 1.5}
        script = f"python3 -c 'held = bytearray(40 << 20)'; python3 -c '{_HOG}'"
        seen: set[Path] = set()
        again: set[Path] = set()
        for _ in range(5):
            with _shell(engine, f"{script}; echo done; sleep 100", **limits) as first:
                pc.wait.log("done").until(first, pc.wait.Deadline(20))
                assert "killed: over" in first.logs().stderr
                seen |= self._used(first)
            # Those made ahead come first.
            with _shell(engine, "sleep 100", **limits), _shell(engine, "sleep 100", **limits) as c:
                again |= self._used(c) & seen
                stats = c.stats()
                assert stats.memory_peak_bytes is None or stats.memory_peak_bytes < 30 << 20
                assert stats.cpu_s < 0.2
                assert not c.inspect().oom_killed
                assert not c.logs().stderr
        assert again or not cgroups.counts_anew()


class TestStats:
    def test_of_a_limited_container(self, each_engine: pc.Engine) -> None:
        script = "python3 -c 'held = bytearray(40 << 20)'; sleep 100 & echo done; wait"
        with _shell(each_engine, script, mem_limit="256m", pids_limit=50) as container:
            pc.wait.log("done").until(container, pc.wait.Deadline(60))
            stats = container.stats()
        assert stats.memory_peak_bytes is not None
        assert 40 << 20 < stats.memory_peak_bytes < 256 << 20
        assert stats.memory_bytes < 40 << 20
        assert (stats.memory_limit_bytes, stats.pids_limit, stats.pids) == (256 << 20, 50, 2)
        assert stats.cpu_s > 0

    def test_without_limits(self, engine: pc.Engine) -> None:
        script = "python3 -c 'import time; held = bytearray(40 << 20); print(1, flush=True); time.sleep(100)'"
        with _shell(engine, f"exec {script}") as container:
            pc.wait.log("1").until(container, pc.wait.Deadline(60))
            stats = container.stats()
        assert stats.memory_bytes > 40 << 20
        assert (stats.memory_limit_bytes, stats.pids) == (None, 1)
        # As a user whose cgroup it could write to, it has one of its own without a limit, too.
        assert stats.memory_peak_bytes is None or stats.memory_peak_bytes > 40 << 20

    def test_of_the_network(self, engine: pc.Engine) -> None:
        server = "import socket; s = socket.create_server(('', 80)); c, _ = s.accept()\n"
        server += "while c.recv(1 << 16): pass\ns.accept()"
        with engine.run("host:", ["python3", "-c", server], ports=[80]) as container:
            with container.connect(80) as sock:
                sock.sendall(bytes(1 << 20))
            _until(lambda: container.stats().received_bytes > 1 << 20)

    def test_of_an_ended_container(self, engine: pc.Engine) -> None:
        with _shell(engine, "true", mem_limit="64m") as container:
            container.wait(60)
            with pytest.raises(pc.NotRunningError):
                container.stats()


class TestTheEnd:
    """What is left of the cgroups when a run ends: nothing."""

    _RUN = (
        "import sys, pytest_containers as pc; e = pc.Engine(home=sys.argv[1], identity=sys.argv[2]);"
        "c = e.run('host:', ['sleep', '1000'], mem_limit='64m', pids_limit=9);"
        "print('up', flush=True); sys.stdin.read(); e.close()"
    )

    @pytest.fixture(params=["root", "single"])
    def run(self, request: pytest.FixtureRequest, store_home: Path) -> Iterator[subprocess.Popen]:
        process = subprocess.Popen(
            [sys.executable, "-c", self._RUN, str(store_home), request.param],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        self.made = cgroups.of_runs_below(process.pid)
        version2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
        assert self.made
        assert version2 or {"memory", "pids"} <= {
            path.relative_to("/sys/fs/cgroup").parts[0] for path in self.made
        }
        with process:
            yield process
            process.kill()

    def _is_gone(self) -> bool:
        return not any(path.exists() for path in self.made)

    def test_close(self, run: subprocess.Popen) -> None:
        run.communicate()
        _until(self._is_gone)

    def test_sigkill(self, run: subprocess.Popen) -> None:
        run.kill()
        _until(self._is_gone)

    def test_sigkill_of_all_parts_but_one(self, run: subprocess.Popen) -> None:
        parts = cgroups.below(run.pid)
        for pid in (run.pid, *(pid for pid in parts if parts[pid].name != "pc-cgroups")):
            with contextlib.suppress(ProcessLookupError):  # it has followed the one before
                os.kill(pid, signal.SIGKILL)
        _until(self._is_gone)

    def test_sigkill_of_everything_leaves_it_to_the_next_run(
        self, run: subprocess.Popen, store_home: Path
    ) -> None:
        parts = cgroups.below(run.pid)
        first = [pid for pid, process in parts.items() if process.name == "pc-cgroups"]
        for pid in (*first, run.pid, *parts):
            with contextlib.suppress(ProcessLookupError):  # by the death of another
                os.kill(pid, signal.SIGKILL)
        _until(lambda: not cgroups.alive(parts))
        assert all(path.exists() for path in self.made)
        with (
            pc.Engine(home=store_home, identity="single") as engine,
            _shell(engine, "true", mem_limit="64m") as container,
        ):
            container.wait(60)
        _until(self._is_gone)
