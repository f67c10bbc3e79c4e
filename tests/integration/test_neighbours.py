"""A container that takes all it can get leaves its neighbour, the run and pytest alive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pytest_containers as pc

pytestmark = pytest.mark.needs("cgroups")

_ALIVE = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done"


@pytest.fixture(
    scope="module", params=["root", pytest.param("range", marks=pytest.mark.slow), "single"]
)
def limited(request: pytest.FixtureRequest, store_home: Path) -> Iterator[pc.Engine]:
    """A run that may use 200 MB, on which a neighbour counts."""
    with pc.Engine(home=store_home, identity=request.param, max_memory_bytes=200 << 20) as engine:
        yield engine


def _says(*words: str) -> Callable[[pc.Container], bool]:
    return lambda container: any(word in str(container.logs()) for word in words)


_HOG = "exec python3 -c 'held = [bytearray(1 << 20) for _ in range(4000)]'"
_FULL = _says("No space left on device", "killed: over", "killed: the writable layer outgrew")


@pytest.mark.parametrize(
    ("script", "options", "has_all"),
    [
        ("f() { f | f & }; f; sleep 100", {"pids_limit": 100}, _says("Cannot fork")),
        (_HOG, {"mem_limit": "64m"}, _says("over its memory limit")),
        (_HOG, {}, _says("over the memory limit of all")),
        ("cat /dev/zero > /srv/all; sleep 100", {"scratch_size_bytes": 32 << 20}, _FULL),
        pytest.param(
            "cat /dev/zero > /srv/all; sleep 100", {}, _FULL, marks=pytest.mark.needs("xattrs of tmpfs")
        ),
        ("cat /dev/zero > /dev/shm/all; sleep 100", {}, _FULL),
        ("yes | head -c 8m; echo the end; sleep 100", {"log_limit_bytes": 1 << 20}, _says("the end")),
        ("while :; do :; done & while :; do :; done", {"cpus": 0.2},
         lambda container: container.stats().cpu_s > 0.1),
    ],
    ids=["forks", "memory", "memory of all", "disk", "disk in memory", "shm", "log", "processors"],
)  # fmt: skip
def test_the_neighbour_goes_on(
    limited: pc.Engine,
    script: str,
    options: dict[str, object],
    has_all: Callable[[pc.Container], bool],
) -> None:
    with limited.run("host:", ["sh", "-c", _ALIVE]) as neighbour:
        with limited.run("host:", ["sh", "-c", script], wait_ready=False, **options) as container:
            _until(lambda: has_all(container))
        lines = neighbour.logs().stdout.count("\n")
        _until(lambda: neighbour.logs().stdout.count("\n") >= lines + 5)
        assert neighbour.exec(["true"]).returncode == 0


def _until(condition: Callable[[], bool], within_s: float = 30) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)


def test_memory_of_all_containers(limited: pc.Engine) -> None:
    hog = "held = bytearray(120 << 20); import time; print(1, flush=True); time.sleep(100)"
    with limited.run("host:", ["python3", "-c", hog], wait_ready=False) as first:
        pc.wait.log("1").until(first, pc.wait.Deadline(60))
        with limited.run("host:", ["python3", "-c", hog], wait_ready=False) as second:
            ended = _first_to_end(first, second)
            assert ended.exit_code == 137
            assert "killed: over the memory limit of all containers" in ended.logs().stderr


def _first_to_end(*containers: pc.Container) -> pc.Container:
    while True:
        for container in containers:
            try:
                container.wait(0.2)
            except pc.WaitTimeoutError:
                continue
            return container


def test_number_of_containers(store_home: Path) -> None:
    with pc.Engine(home=store_home, max_containers=2) as engine:
        first = engine.run("host:", ["sleep", "100"])
        with (
            engine.run("host:", ["sleep", "100"]),
            pytest.raises(
                pc.StartError, match="there are 2 containers, as many as the setting max_containers"
            ),
        ):
            engine.run("host:", ["sleep", "100"])
        engine.run("host:", ["sleep", "100"])
        first.remove()
        engine.run("host:", ["sleep", "100"])


@pytest.mark.needs("xattrs of tmpfs")
def test_a_large_writable_layer_is_on_disk(tmp_path: Path) -> None:
    scratch, on_disk = tmp_path / "scratch", {}
    with pc.Engine(home=tmp_path) as engine:
        for size in (1 << 20, 1 << 50):
            with engine.run("host:", ["sleep", "100"], scratch_size_bytes=size):
                on_disk[size] = scratch.exists() and any(scratch.iterdir())
    assert on_disk == {1 << 20: False, 1 << 50: True}
