"""This project's own part in the comparison."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest_containers as pc
from benchmarks.measure import Sample, expect, nonce
from benchmarks.peers import http_server
from benchmarks.rootfs import HOSTNAME

PLUGIN = ["-p", "pytest_containers.plugin"]
COLD = """
import sys, time
import pytest_containers as pc
engine = pc.Engine(home=sys.argv[1])
start = time.perf_counter()
with engine.run(sys.argv[2], ["echo", sys.argv[3]], wait_ready=False) as container:
    took = (time.perf_counter() - start) * 1000
    container.wait(10)
    assert container.logs().stdout.strip() == sys.argv[3]
print(took)
"""
SUITE = """
import pytest

@pytest.mark.parametrize("number", range(100))
def test_it(containers, number):
    container = containers.run("host:", ["echo", str(number)])
    assert container.wait(10) == 0
    assert container.logs().stdout == f"{number}\\n"
"""


class Ours:
    """pytest-containers as a peer among others: each container has a network."""

    name = "ours"

    def __init__(self, engine: pc.Engine, image: str) -> None:
        self._engine = engine
        self._image = image
        self._container = engine.run(image, ["sleep", "1000"], hostname=HOSTNAME)

    def run(self, command: list[str], **options: Any) -> bytes:
        with self._engine.run(
            self._image, command, hostname=HOSTNAME, wait_ready=False, **options
        ) as container:
            assert container.wait(30) == 0
            return container.logs().stdout_bytes

    def run_with_bind(self, source: Path, *, read_only: bool) -> None:
        """Start a container that reads a file of a bound directory, and remove it."""
        text = nonce()
        (source / "file").write_text(text)
        mounts = [pc.Bind(source, "/mnt", read_only=read_only)]
        with self._engine.run(
            self._image, ["cat", "/mnt/file"], hostname=HOSTNAME, mounts=mounts, wait_ready=False
        ) as container:
            assert container.wait(30) == 0
            expect(text, container.logs().stdout_bytes)

    def run_unfiltered(self, command: list[str]) -> bytes:
        """The same without a filter of system calls."""
        return self.run(command, security_opt=["seccomp=unconfined"])

    def run_limited(self, command: list[str]) -> bytes:
        """The same with limits, which need a cgroup."""
        return self.run(command, mem_limit="256m", pids_limit=100)

    def exec(self, command: list[str]) -> bytes | None:
        output: bytes = self._container.exec(command, check=True).stdout
        return output

    def serve(self, port: int) -> None:
        self._server = self._engine.run(self._image, http_server(port), ports=[port])
        with self._server.connect(port):
            pass

    def stop(self) -> None:
        self._server.remove()


def cold(home: Path, image: str) -> Sample:
    """The first container of a run, from its being asked for: in a fresh process each time."""

    def sample() -> float:
        arguments = [sys.executable, "-c", COLD, str(home), image, os.urandom(4).hex()]
        return float(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)

    return sample


def suite(work: Path, home: Path, workers: int) -> Sample:
    """100 tests with a container each; seconds for all of pytest."""
    folder = work / "suite"
    folder.mkdir(exist_ok=True)
    (folder / "test_suite.py").write_text(SUITE)
    extra = [*PLUGIN, "-p", "xdist", "-n", str(workers)] if workers else PLUGIN

    def sample() -> float:
        return pytest_seconds(folder, home, extra)

    return sample


def pytest_seconds(folder: Path, home: Path, extra: list[str]) -> float:
    """How long pytest takes for the tests in `folder`; they must pass."""
    environment = {**os.environ, "PYTEST_CONTAINERS_HOME": str(home)}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # what else is installed adds only noise
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # pytest would compile plugins every time
    arguments = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *extra,
        str(folder),
    ]
    start = time.perf_counter()
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, cwd=folder)
    took = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(done.stdout)
    return took


def unused(work: Path, home: Path, *, loaded: bool) -> Sample:
    """A suite without containers, with the plugin or without; milliseconds."""
    folder = work / "unused"
    folder.mkdir(exist_ok=True)
    (folder / "test_plain.py").write_text("def test_it(): pass\n")
    extra = PLUGIN if loaded else []

    def sample() -> float:
        return pytest_seconds(folder, home, extra) * 1000

    return sample


def available_kib() -> int:
    """MemAvailable."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1])
    raise RuntimeError("no MemAvailable")


class Growth:
    """What `count` idle containers cost beside their programs, and how starts slow down."""

    def __init__(self, engine: pc.Engine, count: int = 300) -> None:
        plain = self._plain(count)
        self.starts_ms: list[float] = []
        found: list[pc.Container] = []
        time.sleep(1)
        before = available_kib()
        try:
            for _ in range(count):
                start = time.perf_counter()
                network = engine.create_network()  # as every test has
                found.append(
                    engine.run("host:", ["sleep", "1000"], network=network, wait_ready=False)
                )
                self.starts_ms.append((time.perf_counter() - start) * 1000)
            time.sleep(1)
            self.kib_each = (before - available_kib()) / count - plain
        finally:
            for container in found:
                container.remove()

    @staticmethod
    def _plain(count: int) -> float:
        """The same programs without containers, KiB each."""
        time.sleep(1)
        before = available_kib()
        children = [subprocess.Popen(["sleep", "1000"]) for _ in range(count)]
        try:
            time.sleep(1)
            return (before - available_kib()) / count
        finally:
            for child in children:
                child.kill()
                child.wait()
