"""Images side by side: ``python -m benchmarks.pull [--rounds N] [--write FILE]``.

A registry of the benchmark's own on loopback serves the image of `images`; every value of a pull
begins with an empty store, and no store is removed before the end: where files were deleted just
before, some file systems are slow to make new ones.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest_containers as pc
from benchmarks import images, machine
from benchmarks.measure import Case, Result, Sample, interleave
from benchmarks.peers import dockerd

REPOSITORY = "bench/app"
COMMAND = "/bin/true"
COLD = """
import sys
import pytest_containers as pc
with pc.Engine(home=sys.argv[1]) as engine:
    with engine.run(sys.argv[2], [sys.argv[3]], wait_ready=False) as container:
        assert container.wait(60) == 0
"""


def main() -> None:
    """Measure, print, and write a page of the documentation if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pull")
    parser.add_argument("--rounds", type=int, default=5, help="values per case (5)")
    parser.add_argument("--write", type=Path, help="also write the table to this file")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache/pytest-containers-benchmarks"
    )
    arguments = parser.parse_args()
    machine.leave_hybrid_cgroups()
    layout = images.layout(arguments.cache)
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as name,
        registry(Path(name)) as address,
    ):
        lines = report(layout, address, Path(name), arguments.rounds)
    print("\n".join(lines))
    if arguments.write is not None:
        arguments.write.write_text("\n".join(lines) + "\n")


@contextmanager
def registry(work: Path) -> Iterator[str]:
    """A docker-registry on loopback."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    config = work / "registry.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {work}/registry}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with open(work / "registry.log", "wb") as log:
        child = subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > end:
                    raise RuntimeError("docker-registry does not start") from None
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        child.terminate()
        child.wait()


def report(layout: Path, address: str, work: Path, rounds: int) -> list[str]:
    """Everything, as a Markdown page."""
    name = f"{address}/{REPOSITORY}:1"
    with pc.Engine(home=work / "source") as engine:
        engine.images.load(layout, name=name)
        engine.images.push(name)
    results = interleave(cold_pulls(name, work), rounds, warm_up=1)
    results += interleave(small_things(name, work), 20, warm_up=2)
    return page(results, peak_mib(name, work), growth(work), rounds)


def cold_pulls(name: str, work: Path) -> Case:
    """An empty store, until a container of the image has run."""
    samples: dict[str, Sample] = {"ours": lambda: ours_cold(name, work)}
    if shutil.which("podman"):
        samples["podman"] = lambda: podman_cold(name, work)
    if shutil.which("dockerd", path="/usr/sbin:/usr/bin"):
        samples["docker"] = lambda: docker_cold(name, work)
    return Case("pull to a container having run", samples, unit="s")


def fresh(work: Path, who: str) -> Path:
    """A directory that nobody has used."""
    path = Path(tempfile.mkdtemp(prefix=f"{who}-", dir=work))
    os.sync()
    return path


def seconds(command: list[str]) -> float:
    """How long a command takes, which must succeed."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    took = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr}")
    return took


def ours_cold(name: str, work: Path) -> float:
    """A fresh interpreter, and all that a run needs."""
    home = fresh(work, "ours") / "home"
    return seconds([sys.executable, "-c", COLD, str(home), name, COMMAND])


def podman_cold(name: str, work: Path) -> float:
    """`podman run` with a store of its own."""
    home = fresh(work, "podman")
    return seconds([
        "podman", f"--root={home}/root", f"--runroot={home}/run", "--cgroup-manager=cgroupfs",
        "run", "--rm", "--network=none", "--tls-verify=false", "--ulimit=nofile=1024:1024",
        "--ulimit=nproc=1000:1000", name, COMMAND,
    ])  # fmt: skip


def docker_cold(name: str, work: Path) -> float:
    """`docker run` by a daemon that runs already."""
    with dockerd(fresh(work, "docker"), apart=False) as (command, _):
        return seconds([*command, "run", "--rm", "--network=none", name, COMMAND])


def small_things(name: str, work: Path) -> Case:
    """What a store that has the image costs, in a process that runs already."""
    home = work / "present"
    engine = pc.Engine(home=home)
    engine.image(name)
    always = pc.Engine(home=home, pull="always")
    _ = always.facts
    always.image(name)

    def asked(one: pc.Engine) -> Callable[[], float]:
        def sample() -> float:
            one._core.images.forget_answers()
            return milliseconds(lambda: one.image(name))

        return sample

    return Case(
        "image that is present",
        {
            "missing": asked(engine),
            "always": asked(always),
            "push": lambda: milliseconds(lambda: engine.images.push(name)),
        },
    )


def milliseconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def peak_mib(name: str, work: Path) -> float:
    """The most memory that all processes of a pull have at once, shared pages counted once."""
    home = fresh(work, "memory") / "home"
    child = subprocess.Popen([sys.executable, "-c", COLD, str(home), name, COMMAND])
    peak = 0

    def watch() -> None:
        nonlocal peak
        while child.poll() is None:
            peak = max(peak, sum(map(pss_kib, descendants(child.pid))))
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    child.wait()
    thread.join()
    return peak / 1024


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for one in found:
        try:
            tasks = os.listdir(f"/proc/{one}/task")
            for task in tasks:
                text = Path(f"/proc/{one}/task/{task}/children").read_text()
                found += [int(word) for word in text.split()]
        except OSError:
            continue
    return found


def pss_kib(pid: int) -> int:
    """Proportional set size (proc(5)): what is shared is divided among those who share it."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def growth(work: Path) -> list[tuple[int, float]]:
    """``(files, seconds)``: unpacking layers of more and more files of a kilobyte."""
    found = []
    with pc.Engine(home=work / "growth") as engine:
        _ = engine.facts
        for count in (1_000, 10_000, 100_000):
            tar = work / f"{count}.tar"
            with tarfile.open(tar, "w") as file:
                for number in range(count):
                    member = tarfile.TarInfo(f"d{number // 100}/f{number}")
                    member.size = 1000
                    file.addfile(member, Zeros())
            os.sync()
            start = time.perf_counter()
            engine.image(f"rootfs:{tar}")
            found.append((count, time.perf_counter() - start))
    return found


class Zeros:
    """A file of nothing but zeros."""

    def read(self, size: int = -1) -> bytes:
        return bytes(size)


def page(
    results: list[Result], peak: float, grown: list[tuple[int, float]], rounds: int
) -> list[str]:
    """The tables and what they were measured on."""
    lines = [
        "# Benchmarks of images",
        "",
        f"Made by `python -m benchmarks.pull --rounds {rounds} --write docs/reference/benchmarks-images.md`: a",
        "registry on loopback, everybody in one run, in random order. Below 1 means that we are faster.",
        "",
        "| work | who | median | lowest to highest | values | ours / theirs |",
        "|---|---|---|---|---|---|",
    ]
    first = next(result.median for result in results if result.who == "ours")
    for result in results:
        ratio = f"{first / result.median:.2f}" if result.who in ("podman", "docker") else ""
        lines.append(
            f"| {result.case} | {result.who} | {result.median:.2f} {result.unit} | "
            f"{min(result.values):.2f} to {max(result.values):.2f} | {len(result.values)} | {ratio} |"
        )
    rates = [count / took for count, took in grown]
    slowest = min(rates) / statistics.median(rates)
    told = ", ".join(f"{count:,} files in {took:.2f} s" for count, took in grown)
    lines += [
        "",
        "The image has 463 MB in 13,700 files and five layers, 167 MB compressed. A pull includes the start",
        "of a Python interpreter and of a run for us, of the client for Docker, whose daemon runs already.",
        "`missing` makes no request, `always` one; push finds that the registry has every layer.",
        "",
        f"At most {peak:.0f} MiB of memory are in use while we pull (proportional set sizes of all processes).",
        "",
        f"Unpacking grows with the number of files: {told}; the slowest rate is {slowest:.2f} times the median one.",
    ]
    return [*lines, *machine.table()]


if __name__ == "__main__":
    main()
