"""Faults: exhausted limits, stopped processes, clocks, two versions of a store.

``tox -e faults`` lets each system call of a start fail, and kills at each (`tests/faults/run.py`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faults.tracer import SUPPORTED
from helpers.layouts import Layout, layer, member

import pytest_containers as pc
from pytest_containers.engines import health
from pytest_containers.engines.native.inside import RunInside
from pytest_containers.images.store.store import Store
from pytest_containers.linux.mount import mount, umount
from pytest_containers.runtime import identity, newuidmap
from pytest_containers.runtime.wire import client
from pytest_containers.runtime.wire.client import last_words
from pytest_containers.runtime.wire.defects import defect
from pytest_containers.runtime.wire.halted import halted

RUN = Path(__file__).parents[1] / "faults" / "run.py"


traced = pytest.mark.skipif(not SUPPORTED, reason="needs root, and the registers of x86_64")


def faults(tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    """Let things go wrong; return what came of each."""
    output = tmp_path / "output"
    command = [sys.executable, RUN, "--output", output, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    findings: list[dict[str, Any]] = [json.loads(line) for line in output.read_text().splitlines()]
    assert [finding for finding in findings if finding["wrong"]] == []
    return findings


LAUNCHER, SUPERVISOR, HELPER, FIRST_JOB = "0.1.1", "0.1.1.2", "0.1.1.1", "0.1.1.3"


@pytest.mark.slow
@pytest.mark.alone
@traced
def test_points_that_once_went_wrong(tmp_path: Path) -> None:
    """A hang, and errors without their errno or with the name of another process."""
    expected = {
        f"{SUPERVISOR}:socket:1": "StartRun in the supervisor: Too many open files",
        f"{SUPERVISOR}:setresgid:1": "become root of the run's user namespace: Operation not perm",
        f"{HELPER}:sendmsg:1": "the network helper has failed: OSError: [Errno 12] Cannot alloc",
        f"{LAUNCHER}:sendmsg:1": "StartRun in the launcher: Cannot allocate memory",
        f"{LAUNCHER}:epoll_ctl:1": "the launcher has failed: OSError: [Errno 12] Cannot allocate",
        f"{FIRST_JOB}:write:1": "could not write its result: No space left on device",
    }
    chosen = ["--scenarios", "life", "--kinds", "error", "--points", *expected]
    messages = {
        f"{one['process']}:{one['call']}:{one['nth']}": one["message"]
        for one in faults(tmp_path, *chosen)
    }
    assert messages.keys() == expected.keys()
    for point, words in expected.items():
        assert words in messages[point], point


# ------------------------------------------------------------------------ limits


IN_LIMITS = """
import json, resource, sys
import pytest_containers as pc
kind, most = getattr(resource, sys.argv[2]), int(sys.argv[3])
told = {}
with pc.Engine(home=sys.argv[1]) as engine:
    engine.image("host:")
    if len(sys.argv) > 4:
        engine.facts
    resource.setrlimit(kind, (most, most))
    try:
        engine.run("host:", ["true"]).wait(60)
    except pc.ContainersError as error:
        told = {"error": type(error).__name__, "message": str(error)}
print(json.dumps(told))
"""


def in_limits(home: Path, kind: str, most: int, *started: str) -> dict[str, str]:
    """What is told by a run within a limit of its process."""
    done = subprocess.run(
        [sys.executable, "-c", IN_LIMITS, str(home), kind, str(most), *started],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, str] = json.loads(done.stdout)
    return told


def test_no_descriptors_for_the_run(store_home: Path) -> None:
    for most in (6, 9, 12, 15, 18, 90):
        told = in_limits(store_home, "RLIMIT_NOFILE", most)
        assert "Too many open files" in told["message"], most
        assert "privileged" not in told["message"]
    assert in_limits(store_home, "RLIMIT_NOFILE", 256) == {}


def test_no_descriptors_for_a_container(store_home: Path) -> None:
    told = in_limits(store_home, "RLIMIT_NOFILE", 5, "started")
    assert "Too many open files" in told["message"]


def test_no_memory(store_home: Path) -> None:
    told = in_limits(store_home, "RLIMIT_AS", 24 << 20)
    words = "start of the run of containers: a thread: Resource temporarily unavailable"
    assert told == {"error": "StartError", "message": words}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    if os.geteuid():
        pytest.skip("only root mounts here")
    target = tmp_path / "small"
    target.mkdir()
    mount("tmpfs", str(target), "tmpfs", 0, "size=300k")
    try:
        yield target
    finally:
        umount(str(target))


def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    content = layer([member("noise", os.urandom(1 << 20))])
    archive = f"{Layout(tmp_path / 'layout').image([content])}:1"
    home = small_disk / "store"
    with pc.Engine(home=home) as engine:
        with pytest.raises(pc.ImageError, match="No space left on device") as caught:
            engine.image(archive)
    assert str(home) in str(caught.value) and "PYTEST_CONTAINERS_HOME" in str(caught.value)
    Store(home).sweep()
    assert os.listdir(home / "tmp") == []


# -------------------------------------------------------------- stopped processes


@pytest.mark.parametrize("name", ["pc-supervisor", "pc-launcher"])
def test_a_stopped_process_of_the_run_is_named(
    name: str, store_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_PATIENCE_S", 0.2)
    with pc.Engine(home=store_home) as engine, engine.run("host:", ["sleep", "1000"]) as container:
        errors_fd = engine._core.client.errors_fd
        assert halted(errors_fd) == []
        pid = process_of_run(name, errors_fd)
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(pc.WaitTimeoutError) as caught:  # noqa: PT012 - one needs each
                container.exec(["true"])
                container.copy_out("/etc/hostname", tmp_path)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert container.exec(["true"]).returncode == 0
    assert f"does not answer: {name} (process {pid}) is stopped" in str(caught.value)
    assert f"kill -CONT {pid}" in str(caught.value)


def process_of_run(name: str, errors_fd: int) -> int:
    """The pid of a process of a run."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            same = os.path.samestat((entry / "fd/2").stat(), os.fstat(errors_fd))
            if same and (entry / "comm").read_text() == "pc-launcher\n":
                children = (entry / "task" / entry.name / "children").read_text().split()
                own = {Path(f"/proc/{pid}/comm").read_text().strip(): pid for pid in children}
                return int(own.get(name, entry.name))
    raise LookupError(name)


def test_a_process_that_goes_on_in_time_is_waited_for(
    store_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_PATIENCE_S", 1.0)
    with pc.Engine(home=store_home) as engine, engine.run("host:", ["sleep", "1000"]) as container:
        pid = process_of_run("pc-supervisor", engine._core.client.errors_fd)
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(1.3, os.kill, (pid, signal.SIGCONT)).start()
        assert container.exec(["true"]).returncode == 0


# ---------------------------------------------------------------------------- words


def test_the_machine_at_its_limits_is_no_defect() -> None:
    fault = defect("Run", OSError(24, "Too many open files", "/some/file"), "supervisor")
    assert fault.message == "Run in the supervisor: /some/file: Too many open files"
    assert fault.data == {"errno": 24}
    fault = defect("Run", MemoryError(), "supervisor")
    assert fault.message == "Run in the supervisor: Cannot allocate memory"
    fault = defect("Run", ImportError("x.so: Cannot allocate memory"), "supervisor")
    assert fault.message == "Run in the supervisor: x.so: Cannot allocate memory"
    fault = defect("Run", OSError(9, "Bad file descriptor"), "supervisor")
    assert fault.message.startswith("a defect of pytest-containers in the supervisor: Run: ")


def test_the_last_words_of_an_interpreter_that_could_not_start() -> None:
    words = """\
Exception ignored error evaluating path:
Traceback (most recent call last):
  File "<frozen getpath>", line 353, in <module>
OSError: [Errno 5] Input/output error
Fatal Python error: error evaluating path
Python runtime state: core initialized

Current thread 0x00007f9a267c3b80 (most recent call first):
  <no Python frame>"""
    assert last_words(words) == (
        "an interpreter could not start: error evaluating path "
        "(OSError: [Errno 5] Input/output error)"
    )
    assert last_words("one\ntwo") == "two"
    assert (
        last_words("x\nthe launcher has failed: KeyError\nb") == "the launcher has failed: KeyError"
    )
    assert last_words("") == ""


# ------------------------------------------------------------- clocks and versions


STEPS = """
import sys
import pytest_containers as pc
with pc.Engine(home=sys.argv[1]) as engine:
    with engine.run("host:", ["sh", "-c", "echo up; sleep 1000"], ready=pc.wait.log("up")) as c:
        assert c.exec(["true"], timeout_s=20).returncode == 0
        c.stop(0.1)
    engine.images.prune(unused_for_s=3600)
"""


def steps(home: Path, *before: str) -> None:
    """Start, exec, stop and prune in a process of its own."""
    done = subprocess.run(
        [*before, sys.executable, "-c", STEPS, str(home)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.needs("root")
@pytest.mark.long
def test_other_clocks(tmp_path: Path) -> None:
    """The monotonic clock of the run is another than that of the processes before it."""
    steps(tmp_path)
    clock = ["--monotonic", str(1 << 30), "--boottime", str(1 << 30)]
    steps(tmp_path, "unshare", "--time", "--fork", *clock, "--")
    steps(tmp_path)


@pytest.mark.parametrize("year", [1970, 2100])
@pytest.mark.long
def test_a_store_from_before_a_jump_of_the_clock(year: int, tmp_path: Path) -> None:
    steps(tmp_path)
    then = (year - 1970) * 365.25 * 86400
    for path in [*tmp_path.rglob("*.json"), *(tmp_path / "holds").iterdir(), tmp_path / "version"]:
        os.utime(path, (then, then))
    steps(tmp_path)
    steps(tmp_path)


def test_the_start_period_of_a_health_check_ignores_the_wall_clock(
    store_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pc.Engine(home=store_home) as engine, engine.run("host:", ["sleep", "1000"]) as container:
        ages: list[float] = []
        with monkeypatch.context() as patch:
            patch.setattr(health, "check", lambda c, age_s, timeout_s: ages.append(age_s))
            patch.setattr("time.time", lambda: 4e9)
            container.health()
    assert 0 <= ages[0] < 60


def test_two_versions_on_one_store(tmp_path: Path) -> None:
    """A later version writes fields and directories that this one does not know, and a format."""
    with pc.Engine(home=tmp_path) as engine, engine.run("host:", ["sleep", "1000"]) as container:
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / "file").write_text("x")
        for path in tmp_path.rglob("*.json"):
            fields = json.loads(path.read_text())
            path.write_text(json.dumps({**fields, "later": {"field": 1}}))
        steps(tmp_path)
        (tmp_path / "version").write_text("2\n")
        with pytest.raises(pc.ImageError, match="has format '2' .* upgrade pytest-containers"):
            pc.Engine(home=tmp_path).image("host:")
        # What runs goes on: it has all that it needs.
        assert container.exec(["true"]).returncode == 0
        image = container.snapshot()
        assert engine.run(image, ["true"]).wait(60) == 0
    assert (tmp_path / "later" / "file").read_text() == "x"


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EPERM, errno.EINVAL])
def test_ids_are_not_chosen_by_a_call_that_fails_for_another_reason(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Layers would be named for others; the run knows its own."""

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(identity, "open_tree", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(newuidmap, "missing_capabilities", lambda *_: [])
    run: Any = SimpleNamespace(facts=SimpleNamespace(id_map_class="of the run"))
    inside = RunInside(lambda: run, lambda: None, "root", "")
    assert (inside.id_map_class == "of the run") == (code == errno.EMFILE)
