"""Containers of the next test, started while this one runs: seen in nothing but the time."""

from __future__ import annotations

import io
import os
from types import SimpleNamespace

import pytest

from pytest_containers.plugin import lookahead

pytestmark = pytest.mark.slow

COMMON = """
import time
SCRIPT = "date +%s%N > /srv/began; touch /srv/up; sleep 1000"
first = pc.container_fixture("host:", ["sh", "-c", SCRIPT], ready=pc.wait.file("/srv/up"))

ended = []  # when tests ended

def early(c):
    '''Whether it began before the last test had ended.'''
    return int(c.read_text("/srv/began")) < ended[-1]
"""


def test_what_a_test_asks_for_was_started_while_the_last_one_ran(run) -> None:
    test_code = (
        COMMON
        + """
@pytest.mark.parametrize("n", range(4))
def test_it(first, n):
    assert not n or early(first)
    assert first.exec(["sh", "-c", "test ! -e /srv/used && touch /srv/used"]).returncode == 0
    assert first.exec(["hostname"], text=True).stdout == "first\\n"
    time.sleep(0.5)
    ended.append(time.time_ns())
"""
    )
    run(test_code).assert_outcomes(passed=4)


@pytest.mark.parametrize("how", [["--containers-lookahead=off"], ["--containers-lookahead=0"]])
@pytest.mark.long
def test_it_can_be_switched_off(run, how: list[str]) -> None:
    result = run(
        COMMON
        + """
@pytest.mark.parametrize("n", range(3))
def test_it(first, n):
    assert not n or not early(first)
    time.sleep(0.2)
    ended.append(time.time_ns())
""",
        *how,
    )
    result.assert_outcomes(passed=3)


@pytest.mark.long
def test_no_more_are_early_than_the_limit(run) -> None:
    result = run(
        COMMON
        + """
second = pc.container_fixture("host:", ["sh", "-c", SCRIPT], ready=pc.wait.file("/srv/up"))

@pytest.mark.parametrize("n", range(3))
def test_it(first, second, n):
    assert not n or (early(first) and not early(second))
    time.sleep(0.5)
    ended.append(time.time_ns())
""",
        "--containers-lookahead=1",
    )
    result.assert_outcomes(passed=3)


@pytest.mark.long
def test_nothing_is_early_while_memory_is_short(run, pytester) -> None:
    pytester.makeconftest(
        """
from pytest_containers.plugin import lookahead
lookahead._memory_is_free = lambda: False
"""
    )
    result = run(
        COMMON
        + """
@pytest.mark.parametrize("n", range(3))
def test_it(first, n):
    assert not n or not early(first)
    time.sleep(0.2)
    ended.append(time.time_ns())
"""
    )
    result.assert_outcomes(passed=3)


GIB = 1 << 30


@pytest.mark.parametrize(
    ("total", "available", "limit", "used", "free"),
    [
        (16 * GIB, 2 * GIB, None, 0, True),
        (16 * GIB, GIB // 2, None, 0, False),  # a gigabyte is to be left
        (4 * GIB, GIB // 2, None, 0, True),  # or a tenth of a small machine
        (4 * GIB, GIB // 4, None, 0, False),
        (16 * GIB, 8 * GIB, "max", 15 * GIB, True),
        (16 * GIB, 8 * GIB, 12 * GIB, 10 * GIB, True),
        (16 * GIB, 8 * GIB, 12 * GIB, 12 * GIB - GIB // 2, False),
        (16 * GIB, 8 * GIB, 2 * GIB, 2 * GIB - GIB // 4, True),
        (16 * GIB, 8 * GIB, 2 * GIB, 2 * GIB - GIB // 8, False),
        (16 * GIB, GIB // 2, 12 * GIB, 0, False),  # the group's room is not the machine's
    ],
)
def test_memory_of_the_machine_and_of_its_control_group(
    monkeypatch: pytest.MonkeyPatch,
    total: int,
    available: int,
    limit: object,
    used: int,
    free: bool,
) -> None:
    files = {"/proc/meminfo": f"MemTotal: {total >> 10} kB\nMemAvailable: {available >> 10} kB\n"}
    if limit is not None:
        files |= {"/sys/fs/cgroup/memory.max": f"{limit}\n"}
        files |= {"/sys/fs/cgroup/memory.current": f"{used}\n"}

    def opened(path: str) -> io.StringIO:
        if path not in files:
            raise FileNotFoundError(path)
        return io.StringIO(files[path])

    monkeypatch.setattr(lookahead, "open", opened, raising=False)
    assert lookahead._memory_is_free() == free


def test_memory_is_looked_at_twice_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bool] = []
    now = [100.0]
    monkeypatch.setattr(lookahead, "_memory_is_free", lambda: looked.append(True) or True)
    monkeypatch.setattr(lookahead, "time", SimpleNamespace(monotonic=lambda: now[0]))
    ahead = lookahead.Lookahead(SimpleNamespace(settings=SimpleNamespace(get=lambda _: "on")), None)
    for moment in (100.0, 100.4, 100.6, 101.0):
        now[0] = moment
        assert ahead._has_memory()
    assert len(looked) == 2


@pytest.mark.parametrize(
    ("option", "cores", "workers", "limit"),
    [
        ("on", 8, None, 8),
        ("on", 8, "3", 2),
        ("on", 2, "8", 1),
        ("off", 8, None, 0),
        ("0", 8, None, 0),
        ("5", 1, "8", 5),
    ],
)
def test_as_many_as_the_processors_of_a_worker(
    monkeypatch: pytest.MonkeyPatch, option: str, cores: int, workers: str | None, limit: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.delenv("PYTEST_XDIST_WORKER_COUNT", raising=False)
    if workers is not None:
        monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", workers)
    ahead = lookahead.Lookahead(
        SimpleNamespace(settings=SimpleNamespace(get=lambda _: option)), None
    )
    assert ahead._limit == limit


def test_what_is_not_used_is_thrown_away(run, pytester) -> None:
    result = run(
        COMMON
        + """
@pytest.fixture(params=[0, 1, 2, 3])
def skips(request):
    if request.param in (1, 2):
        pytest.skip("not this one")
    return request.param

def test_it(skips, first, containers, request):
    from pytest_containers.runtime.wire.operations.containers import ListContainers
    time.sleep(0.1)
    running = containers.engine._core.client.call(ListContainers()).ids
    assert len(running) <= 2, running
""",
    )
    result.assert_outcomes(passed=2, skipped=2)


def test_a_failure_while_warming_is_the_next_tests(run, pytester) -> None:
    result = run(
        COMMON
        + """
broken = pc.container_fixture("host:", ["no-such-program"])

def test_first(first):
    time.sleep(0.1)

def test_second(broken):
    pass

def test_third(first):
    pass
""",
    )
    result.assert_outcomes(passed=2, errors=1)
    assert "ERROR at setup of test_second" in result.stdout.str()
    assert "no-such-program" in result.stdout.str()


@pytest.mark.long
def test_nothing_is_early_that_could_see_what_fixtures_do_before_it(run, pytester) -> None:
    """A file of the host that another fixture writes; a container that needs another one."""
    result = run(
        COMMON
        + """
import os
from pathlib import Path
HERE = Path(__file__).parent / "shown"
HERE.mkdir(exist_ok=True)

@pytest.fixture(params=range(3))
def text(request):
    (HERE / "text").write_text(str(request.param))
    return str(request.param)

READ = "cat /mnt/text > /srv/copy; touch /srv/up; sleep 1000"
reader = pc.container_fixture("host:", ["sh", "-c", READ], mounts=[pc.Bind(HERE, "/mnt")],
                              ready=pc.wait.file("/srv/up"))
NEEDS = "getent hosts first > /srv/found || exit 7; touch /srv/up; sleep 1000"
second = pc.container_fixture("host:", ["sh", "-c", NEEDS], ready=pc.wait.file("/srv/up"))

def test_file(text, reader):
    assert reader.read_text("/srv/copy") == text
    time.sleep(0.05)

@pytest.mark.parametrize("n", range(3))
def test_other(first, second, n):
    assert second.read_text("/srv/found").split()[0] in (first.ip, first.ip6)
    time.sleep(0.05)
""",
    )
    result.assert_outcomes(passed=6)


def test_networks_of_wider_scopes_that_came_meanwhile(run) -> None:
    """The next module's own container must be found from what was started before it was there."""
    result = run(
        COMMON
        + """
@pc.container_fixture(scope="class")
def wide():
    return pc.ContainerSpec("host:", ["sleep", "1000"])

def test_before(first):
    time.sleep(0.1)

class TestWide:
    @pytest.mark.parametrize("n", range(2))
    def test_it(self, wide, first, n):
        assert first.exec(["getent", "hosts", "wide"]).returncode == 0
        time.sleep(0.05)

def test_after(first):
    assert first.exec(["getent", "hosts", "wide"]).returncode != 0
""",
    )
    result.assert_outcomes(passed=4)


@pytest.mark.long
def test_hooks_are_asked_once_for_each_container(run, pytester) -> None:
    pytester.makeconftest(
        """
import dataclasses
seen = []
def pytest_containers_spec(config, name, spec):
    seen.append(name)
    return dataclasses.replace(spec, env={"N": str(len(seen))})
"""
    )
    result = run(
        COMMON
        + """
import conftest
@pytest.mark.parametrize("n", range(3))
def test_it(first, n):
    time.sleep(0.05)
    assert len(conftest.seen) == n + 1
    assert first.exec(["printenv", "N"], text=True).stdout == f"{n + 1}\\n"
""",
    )
    result.assert_outcomes(passed=3)


@pytest.mark.long
def test_reruns_get_a_fresh_one_too(run) -> None:
    result = run(
        COMMON
        + """
tried = []

@pytest.mark.parametrize("n", range(3))
def test_it(first, n):
    time.sleep(0.05)
    assert first.exec(["sh", "-c", "test ! -e /srv/used && touch /srv/used"]).returncode == 0
    tried.append(n)
    assert n != 1 or tried.count(1) == 2
""",
        "--reruns",
        "1",
    )
    result.assert_outcomes(passed=3)
    assert result.parseoutcomes()["rerun"] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["-k", "2 or 3"],
        ["-x"],
        pytest.param(["-n", "2"], marks=pytest.mark.long),
        ["--lf"],
        ["-p", "randomly"],
    ],
)
def test_with_selections_and_orders(run, arguments: list[str]) -> None:
    result = run(
        COMMON
        + """
second = pc.container_fixture("host:", ["sleep", "1000"])

@pytest.mark.parametrize("n", range(6))
def test_it(first, second, n):
    time.sleep(0.02)
    assert first.name == "first" and second.name == "second"
    assert second.exec(["getent", "hosts", "first"]).returncode == 0

def test_dynamic(request):
    assert request.getfixturevalue("first").status == "running"
""",
        *arguments,
    )
    outcome = result.parseoutcomes()
    assert outcome.get("passed") in (2, 7)
    assert "failed" not in outcome and "errors" not in outcome
